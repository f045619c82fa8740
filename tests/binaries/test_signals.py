"""The first signal asks a program to stop, the second ends it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import environment

PROGRAM = """
import threading
from binaries.signals import Stop
stop = Stop()
print("listens", flush=True)
while not stop():
    threading.Event().wait(0.01)
print("saves", flush=True)
threading.Event().wait(50)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_a_program_that_is_still_saving(number: signal.Signals) -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for said in ("listens\n", "saves\n"):
            assert program.stdout.readline() == said
            program.send_signal(number)
        assert program.wait(10) == -number
