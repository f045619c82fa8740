"""Programs run as processes of their own, as a person runs them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.index import ROOT
from tests.limits import LIMIT_S


class Ended(NamedTuple):
    """A program that came to its end."""

    code: int
    stdout: str
    stderr: str


def environment() -> dict[str, str]:
    """This process's environment with the checkout's modules, and with native libraries as loud as they are."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("TF_CPP_", "GRPC_", "PYTEST_"))}
    return variables | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


def run(module: str, *arguments: str, stdin: str | None = None, inside: Sequence[str] = ()) -> Ended:
    """Runs `python -m module` to its end; `inside`: the words of another program that runs it."""
    ended = subprocess.run(
        [*inside, sys.executable, "-m", module, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=LIMIT_S,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


class Running:
    """A program that goes on; `text` is what it has shown so far, stderr among stdout."""

    def __init__(self, process: subprocess.Popen[bytes], output: int):
        self.process = process
        self.text = ""
        self._output = output

    def read_until(self, reached: Callable[[str], object]) -> None:
        """Reads on until `reached(text)`; a program that ends before that fails the test."""
        while not reached(self.text):
            try:
                data = os.read(self._output, 1 << 16)
            except OSError:  # that is how a terminal says that nobody writes to it any more
                data = b""
            assert data, f"The program ended with code {self.process.wait()} after:\n{self.text}"
            self.text += data.decode()

    def read_rest(self) -> None:
        """Reads to the program's end."""
        with contextlib.suppress(AssertionError):
            self.read_until(lambda text: False)


@contextlib.contextmanager
def running(
    module: str,
    *arguments: str,
    terminal: bool = False,
    inside: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """`python -m module` while it runs, on a terminal or with its output in a pipe; it does not outlive the `with`.

    `inside`: the words of another program that becomes it. `variables`: of its environment, beside our own.
    """
    reading, writing = pty.openpty() if terminal else os.pipe()
    command = [*inside, sys.executable, "-m", module, *arguments]
    own = environment() | dict(variables or {})
    if terminal:
        own |= {"TERM": "xterm"}
        fcntl.ioctl(reading, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    process = subprocess.Popen(command, stdout=writing, stderr=writing, cwd=ROOT, env=own)
    os.close(writing)
    try:
        yield Running(process, reading)
    finally:
        process.kill()
        process.wait()
        os.close(reading)


def rejected(commands: list[list[str]]) -> list[dict[str, Any]]:
    """What `train` does with each command line; see many_commands.py."""
    ended = run("tests.binaries.many_commands", stdin=json.dumps(commands))
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below `folder` with what it holds, and every folder with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def on_screen(text: str, columns: int = 1_000) -> list[str]:
    """The lines that a terminal of so many `columns` shows after `text`, which may go back on a line and erase."""
    rows, row, column = [""], 0, 0
    for part in re.split(r"(\r|\n|\x1b\[[JK])", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            rows[row:] = rows[row:] or [""]
        elif part.startswith("\x1b["):
            rows[row : None if part.endswith("J") else row + 1] = [rows[row][:column]]
        else:
            for character in part:
                if column == columns:
                    row, column = row + 1, 0
                    rows[row:] = rows[row:] or [""]
                rows[row] = f"{rows[row][:column]:<{column}}{character}{rows[row][column + 1 :]}"
                column += 1
    lines = [line.rstrip() for line in rows]
    return lines[:-1] if lines[-1] == "" else lines
