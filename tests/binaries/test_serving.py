"""A process whose call hangs ends by itself, and says where it hung; one that was stopped blames nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import environment
from tests.limits import LIMIT_S

PROGRAM = """
import sys, threading, time
from binaries.serving import Watchdog
watchdog = Watchdog("The learner", float(sys.argv[1]))
for _ in range(3):
    with watchdog.during("asks nobody"):
        pass
with watchdog.during("asks the replay server for weights"):
    print("calls", flush=True)
    threading.Event().wait(float(sys.argv[2]))
print("came back", watchdog.faults(), watchdog.faults())
"""


def ended(limit: float, hang: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(limit), str(hang)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)


def test_a_call_that_hangs_past_the_limit_ends_the_process_with_a_sentence() -> None:
    done = ended(limit=10.0, hang=LIMIT_S)
    assert done.returncode == 1
    assert "The learner asks the replay server for weights, for " in done.stdout
    assert done.stderr.startswith("The learner asks the replay server for weights, without an answer for ")
    assert done.stderr.endswith(" s: it ends.\n")


def test_one_that_comes_back_in_time_is_left_alone() -> None:
    done = ended(limit=LIMIT_S, hang=0.5)
    assert (done.returncode, done.stdout, done.stderr) == (0, "calls\ncame back [] []\n", "")


def test_one_that_takes_long_is_a_fault_of_who_has_to_answer() -> None:
    done = ended(limit=LIMIT_S, hang=8.0)
    assert done.stdout.endswith("came back ['waited for a replay server'] []\n")


@pytest.mark.slow
def test_a_process_that_was_stopped_for_longer_than_the_limit_goes_on_and_blames_nobody() -> None:
    command = [sys.executable, "-c", PROGRAM, "12", "16"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "calls\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(14.0)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "came back ['stood still'] []\n"
        assert process.wait() == 0
