"""A process whose call hangs ends by itself, and says where it hung."""

from __future__ import annotations

import subprocess
import sys

from pipeline.index import ROOT
from tests.binaries.programs import environment

PROGRAM = """
import sys, threading, time
from binaries.serving import Watchdog
watchdog = Watchdog("The learner", float(sys.argv[1]))
for _ in range(3):
    with watchdog.during("asks nobody"):
        pass
with watchdog.during("asks the replay server for weights"):
    threading.Event().wait(float(sys.argv[2]))
print("came back")
"""


def ended(limit: float, hang: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(limit), str(hang)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)


def test_a_call_that_hangs_past_the_limit_ends_the_process_with_a_sentence() -> None:
    done = ended(limit=6.5, hang=50.0)
    assert done.returncode == 1
    assert "The learner asks the replay server for weights, for " in done.stdout
    assert done.stderr.startswith("The learner asks the replay server for weights, without an answer for ")
    assert done.stderr.endswith(" s: it ends.\n")


def test_one_that_comes_back_in_time_is_left_alone() -> None:
    done = ended(limit=30.0, hang=2.0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "came back\n", "")
