"""Lanes in processes of their own: as in one process, and a process that dies or hangs costs its lanes' episodes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import psutil
import pytest

from pipeline.envs.block import InProcess
from pipeline.envs.crashes import CrashError, Crashes
from pipeline.envs.environment import Done, Environment
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make, make_block, maker
from pipeline.envs.processes import Processes
from pipeline.envs.scripted import Scripted
from pipeline.types import RunError
from tests.limits import LIMIT_S, wait_until


class Obedient(Environment):
    """Does what its action says; its state is its process and its step."""

    def __init__(self) -> None:
        self.observation_spec = {"process": specs.Array((), np.int32), "step": specs.Array((2,), np.float32)}
        self.action_spec = specs.DiscreteArray(4, np.int32)
        self._step = 0

    def _begin(self, seed: int | None) -> Any:
        self._step = 0
        return self._state()

    def _advance(self, action: Any) -> tuple[Any, float, Done]:
        self._step += 1
        if action == 1:
            raise RuntimeError("the simulator fell over")
        if action == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if action == 3:
            time.sleep(60)
        return self._state(), float(self._step), Done.NO

    def _state(self) -> Any:
        return {"process": np.int32(os.getpid()), "step": np.full(2, self._step, np.float32)}


class Unmakeable(Scripted):
    """Can be made once in a process that imports this, and not where processes start anew."""

    home = os.getpid()

    def __init__(self) -> None:
        if os.environ.get("ENCORE_TEST_HOME") != str(os.getpid()):
            raise RuntimeError("no licence here")
        super().__init__()


@pytest.fixture
def four() -> Iterator[tuple[Processes, Lanes, Crashes]]:
    """Four lanes in two processes."""
    block = Processes([Obedient] * 4, 2, timeout=LIMIT_S)
    crashes = Crashes(1.0, LIMIT_S)
    yield block, Lanes(block, crashes=crashes), crashes
    block.close()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]


def test_lanes_in_processes_are_as_in_one() -> None:
    scripts = [((2, 1), (False, True)), ((1, 3), (True, False)), ((4,), (True,))]
    makers = [partial(Scripted, *script) for script in scripts]
    with_processes = Lanes(Processes(makers, 2, timeout=LIMIT_S))
    alone = Lanes(InProcess(makers))
    np.testing.assert_array_equal(with_processes.reset(0), alone.reset(0))
    for _ in range(12):
        results = (lanes.step(np.zeros(3, np.int32)) for lanes in (with_processes, alone))
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    with_processes.close()


def test_waiting_lanes_wait_in_processes_too() -> None:
    makers = [partial(Scripted, (1,), (False,)), partial(Scripted, (3,), (False,))]
    lanes = Lanes(Processes(makers, 2, timeout=LIMIT_S), together=True)
    lanes.reset(0)
    dones = [lanes.step(np.zeros(2, np.int32))[2].tolist() for _ in range(5)]
    assert dones == [[1, 0], [1, 0], [1, 1], [0, 0], [1, 0]]
    lanes.close()


def test_results_are_the_callers_own(four: tuple[Processes, Lanes, Crashes]) -> None:
    _, lanes, _ = four
    before = lanes.reset(0)
    lanes.step(np.zeros(4, np.int32))
    assert before["step"].tolist() == [[0, 0]] * 4


def test_lanes_are_spread_over_processes(four: tuple[Processes, Lanes, Crashes]) -> None:
    _, lanes, _ = four
    one, two, three, other = lanes.reset(0)["process"].tolist()
    assert one == two
    assert three == other
    assert len({one, three, os.getpid()}) == 3


@pytest.mark.parametrize(("action", "lost"), [(1, [0]), (2, [0, 1])], ids=["raises", "dies"])
def test_a_failure_costs_an_episode(
    four: tuple[Processes, Lanes, Crashes], action: int, lost: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    _, lanes, crashes = four
    lanes.reset(0)
    lanes.step(np.zeros(4, np.int32))
    state, reward, done = lanes.step(np.array([action, 0, 0, 0], np.int32))
    assert np.flatnonzero(done == Done.TRUNCATED).tolist() == lost
    assert state["step"][:, 0].tolist() == [1 if lane in lost else 2 for lane in range(4)]
    assert reward[lost].tolist() == [0] * len(lost)
    state, _, done = lanes.step(np.zeros(4, np.int32))
    assert not done.any()
    assert state["step"][:, 0].tolist() == [0 if lane in lost else 3 for lane in range(4)]
    assert crashes.count == 1
    said = capsys.readouterr().out
    assert ("the simulator fell over" if action == 1 else "its process died") in said


def test_a_process_that_hangs_is_replaced() -> None:
    # The other one answers in a thousandth of that.
    lanes = Lanes(Processes([Obedient] * 2, 2, timeout=5.0), crashes=Crashes(1.0, LIMIT_S))
    before = lanes.reset(0)["process"]
    _, _, done = lanes.step(np.array([3, 0], np.int32))
    assert done.tolist() == [Done.TRUNCATED, Done.NO]
    after, _, _ = lanes.step(np.zeros(2, np.int32))
    assert after["process"][0] != before[0]
    assert after["process"][1] == before[1]
    assert not psutil.pid_exists(int(before[0]))
    lanes.close()


def test_too_many_failures_show_the_environments_own_traceback(four: tuple[Processes, Lanes, Crashes]) -> None:
    block, _, _ = four
    lanes = Lanes(block, crashes=Crashes(0.0, LIMIT_S))
    lanes.reset(0)
    for _ in range(6):  # a failure in every second step, because the others begin episodes
        lanes.step(np.array([1, 0, 0, 0], np.int32))
    with pytest.raises(CrashError, match="the simulator fell over") as caught:
        lanes.step(np.array([1, 0, 0, 0], np.int32))
    assert "in _advance" in str(caught.value)


def test_closing_leaves_no_process() -> None:
    block = Processes([Obedient] * 3, 3, timeout=LIMIT_S)
    assert len(children()) == 3
    block.close()
    assert not children()


def test_processes_end_with_the_one_that_started_them() -> None:
    import subprocess
    import sys

    code = (
        "import os, signal\n"
        "from tests.pipeline.envs.test_processes import Obedient, Processes\n"
        "if __name__ == '__main__':\n"
        "    block = Processes([Obedient], 1, 60.0)\n"
        "    print(int(block.reset([0])['process'][0]), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S)
    pid = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(pid), "the process's end")


def test_an_environment_that_cannot_be_made_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCORE_TEST_HOME", str(os.getpid()))
    with pytest.raises(RunError, match="A process could not make its environments: RuntimeError: no licence here"):
        Processes([Unmakeable], 1, timeout=LIMIT_S)


def test_lanes_in_processes_go_on_from_their_state() -> None:
    lanes, others = (Lanes(Processes([partial(make, "CartPole-v1")] * 3, 2, timeout=LIMIT_S)) for _ in range(2))
    lanes.reset(7)
    action = np.array([0, 1, 0], np.int32)
    for _ in range(15):
        lanes.step(action)
    state = lanes.state()
    assert state is not None
    others.restore(state)
    for _ in range(60):
        for one, other in zip(lanes.step(action), others.step(action), strict=True):
            np.testing.assert_array_equal(one, other)
    lanes.close()
    others.close()


def test_settings_and_wrappers_reach_the_processes() -> None:
    gin.parse_config("Scripted.lengths = (2,)\nScripted.truncated = (False,)")
    importable = maker("scripted", True, ["time_limit", "frame_stack"])
    gin.parse_config("pipeline.envs.wrappers.basic.TimeLimit.steps = 1\nFrameStack.frames = 3")
    block = make_block("scripted", 2, True, ["time_limit", "frame_stack"], processes=1)
    gin.clear_config()
    assert importable().observation_spec.shape == (4, 2)
    lanes = Lanes(block)
    assert lanes.reset(0).shape == (2, 3, 2)
    assert lanes.step(np.zeros(2, np.int32))[2].tolist() == [Done.TRUNCATED] * 2
    lanes.close()
