"""Programs run as processes of their own, as a person runs them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.index import ROOT

TIMEOUT = 240


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
        timeout=TIMEOUT,
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


def on_screen(text: str) -> list[str]:
    """The lines that a terminal shows after `text`: a carriage return goes back to the line's beginning."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines[:-1] if lines[-1] == "" else lines
