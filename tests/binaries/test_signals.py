"""The first signal asks a program to stop, the second ends it, also where it is in a call that does not come back."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import pytest

from binaries.signals import STOPPED
from pipeline.index import ROOT
from tests.binaries.programs import environment
from tests.limits import LIMIT_S

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
        assert program.wait(LIMIT_S) == -number


HANGING = """
import ctypes, sys
from binaries.signals import Stop, leave
stop = Stop()
stop.watch(leave("The program") if sys.argv[1] == "leaves" else lambda: None)
if sys.argv[1] == "locks":
    stop.end_at_once()
print("hangs", flush=True)
mutex = ctypes.create_string_buffer(64)
library = (ctypes.PyDLL if sys.argv[1] == "locks" else ctypes.CDLL)(None)
library.pthread_mutex_lock(mutex)
library.pthread_mutex_lock(mutex)  # its own: no signal ends this call
"""
FORKING = """
import os, signal, threading
from binaries.signals import Stop
stop = Stop()
stop.watch(lambda: None)
child = os.fork()
if not child:
    while True:
        signal.pause()
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
threading.Event().wait(1.0)
print(stop(), flush=True)
"""


def hanging(how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HANGING, how]
    program = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "hangs\n"
    return program


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_program_whose_call_does_not_come_back(number: signal.Signals) -> None:
    with hanging("leaves") as program:
        program.send_signal(number)
        assert program.communicate(timeout=LIMIT_S) == ("The program: stopped.\n", None)
        assert program.returncode == STOPPED


def test_a_signal_ends_a_program_whose_call_keeps_pythons_lock() -> None:
    with hanging("locks") as program:
        program.send_signal(signal.SIGTERM)
        assert program.wait(LIMIT_S) == -signal.SIGTERM


def test_the_second_signal_ends_one_that_has_something_to_save() -> None:
    with hanging("saves") as program:
        try:
            while program.poll() is None:
                # The first one only takes the others' way.
                program.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(0.2)
            assert program.returncode == -signal.SIGTERM
        finally:
            program.kill()


def test_a_signal_to_a_forked_child_ends_it_and_is_none_of_its_parents() -> None:
    command = [sys.executable, "-c", FORKING]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.stdout == f"{-signal.SIGTERM}\nFalse\n", ended.stderr
