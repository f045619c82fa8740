"""Environments are closed however their process ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import environment

PROGRAM = """
import sys, threading, time
from pathlib import Path
from pipeline.envs.closing import close, end_process
from pipeline.envs.make import make, make_block
kept = make("tests.pipeline.envs.test_closing:Told")
block = make_block("tests.pipeline.envs.test_closing:Told", 2, processes=int(sys.argv[1]))
closed = make("tests.pipeline.envs.test_closing:Told")
close(closed)
Told = type(kept._environment)
print("closes", flush=True)
threading.Thread(target=end_process, args=(7,)).start()
time.sleep(1000)
"""


class Told:
    """An environment that says so when it is closed, and then raises."""

    def __new__(cls) -> object:
        import gymnasium as gym
        import numpy as np

        class Environment(gym.Env):
            observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
            action_space = gym.spaces.Discrete(2)

            def reset(self, **_):
                return np.zeros(1, np.float32), {}

            def close(self):
                print("closed", flush=True)
                raise RuntimeError("as some do")

        return Environment()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_process_that_ends_at_once_closes_its_environments(processes: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(processes)], capture_output=True, text=True, cwd=ROOT, env=environment()
    )
    assert ended.returncode == 7, ended.stderr
    before, _, after = ended.stdout.partition("closes\n")
    # The one that showed the processes what is to be made, and the one that was closed by hand.
    assert before.count("closed\n") == 1 + processes
    assert after.count("closed\n") == 3
