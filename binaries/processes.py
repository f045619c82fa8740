"""Processes that a program starts, and that end with it. Imports no TensorFlow."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from binaries.logs import Log
from pipeline.index import ROOT

GRACE_S = 60.0
"""that a process has to save its state after it was asked to stop"""
PR_SET_PDEATHSIG = 1


class Process:
    """`python -m MODULE FLAGS` with its output in a file.

    It has a session of its own, so that Ctrl-C reaches its parent alone, who then decides; where the parent dies, it is
    asked to stop.
    """

    def __init__(self, module: str, flags: Sequence[str], output: Path):
        output.parent.mkdir(parents=True, exist_ok=True)
        self.output = output
        self.log = Log(output)
        parent = os.getpid()
        with output.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *flags],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            )

    @property
    def pid(self) -> int:
        """The kernel's number of it."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def last_line(self) -> str:
        """What it said last."""
        lines = self.output.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def ask_to_stop(self) -> None:
        """Sends SIGTERM: it saves its state and ends."""
        if self.code is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Waits until it ended; after `deadline` (of `time.monotonic`) it is killed."""
        try:
            self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def stop_all(processes: Iterable[Process]) -> None:
    """Asks all to stop, and returns when they are gone."""
    processes = list(processes)
    for process in processes:
        process.ask_to_stop()
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        process.end(deadline)


def die_with(parent: int) -> None:
    """In a new process: asks the kernel to send SIGTERM when the thread that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
