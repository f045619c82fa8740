"""Environments that raise, hang, die or give nonsense cost an episode, and too many of them the run."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.envs import crashes
from pipeline.envs.block import InProcess
from pipeline.envs.crashes import CrashError, Crashes
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes
from pipeline.envs.scripted import Scripted
from tests.limits import LIMIT_S
from tests.pipeline.envs.flaky import Flaky

ACTIONS = np.zeros(2, np.int32)


@pytest.fixture(autouse=True)
def fresh() -> None:
    Flaky.plan, Flaky.made = [], 0


def flaky_lanes(rate: float = 1.0, timeout: float = LIMIT_S) -> tuple[Lanes, Crashes]:
    """A lane that fails as planned beside one that never does."""
    crashes = Crashes(rate, timeout)
    lanes = Lanes(InProcess([Flaky, partial(Scripted, (10**9,), (True,))]), crashes=crashes)
    lanes.reset(0)
    return lanes, crashes


@pytest.mark.parametrize("kind", ["raise", "hang", "nan", "dead"])
def test_an_episode_is_cut_where_its_environment_fails(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A step that does not hang takes a thousandth of that.
    lanes, crashes = flaky_lanes(timeout=2.0 if kind == "hang" else LIMIT_S)
    Flaky.plan = ["ok", "ok", kind]
    steps: list[Any] = [lanes.step(ACTIONS) for _ in range(6)]
    states, rewards, dones = (np.stack([step[i] for step in steps]) for i in range(3))
    # The state before the failure is the episode's last; then the new environment begins.
    assert states[:, 0, 1].tolist() == [1, 2, 2, 0, 1, 2]
    assert rewards[:, 0].tolist() == [1, 1, 0, 0, 1, 1]
    assert dones[:, 0].tolist() == [Done.NO, Done.NO, Done.TRUNCATED, Done.NO, Done.NO, Done.NO]
    assert states[:, 1, 1].tolist() == [1, 2, 3, 4, 5, 6]
    assert not dones[:, 1].any()
    assert (crashes.count, Flaky.made) == (1, 2)
    assert capsys.readouterr().out.startswith("WARNING: the environment of lane 0 failed (")


def test_each_kind_of_failure_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    lanes, crashes = flaky_lanes()
    Flaky.plan = ["raise", "nan", "raise", "raise", "nan"]
    for _ in range(20):
        lanes.step(ACTIONS)
    assert crashes.count == 5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "(RuntimeError: the simulator fell over)" in lines[0]
    assert "(ValueError: its state or reward is not finite)" in lines[1]


def test_too_many_failures_end_the_run_with_the_environments_own_traceback() -> None:
    lanes, crashes = flaky_lanes(rate=1e-6)
    Flaky.plan = ["raise"] * 4
    # A step that fails, and one that begins the next episode.
    for _ in range(6):
        lanes.step(ACTIONS)
    with pytest.raises(CrashError, match="Environments failed 4 times in 14 steps") as raised:
        lanes.step(ACTIONS)
    assert crashes.count == 4
    assert "in fail" in str(raised.value)
    assert "RuntimeError: the simulator fell over" in str(raised.value)


def test_without_a_count_failures_are_raised() -> None:
    lanes = Lanes(InProcess([Flaky]))
    lanes.reset(0)
    Flaky.plan = ["raise"]
    with pytest.raises(RuntimeError, match="the simulator fell over"):
        lanes.step(ACTIONS[:1])


class Stuck(Scripted):
    """Its third step never comes back: it waits in native code, where no signal's handler runs."""

    def __init__(self) -> None:
        super().__init__((10**9,), (True,))

    def _advance(self, action: Any) -> Any:
        state, reward, done = super()._advance(action)
        if state[1] == 3:
            lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
            lock(mutex)
            lock(mutex)
        return state, reward, done


def step_a_stuck_one(errors: str) -> None:
    """The life of a process: it says `errors` in place of standard error."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    lanes = Lanes(InProcess([Stuck]), crashes=Crashes(rate=1.0, timeout=0.5))
    lanes.reset(0)
    while True:
        lanes.step(ACTIONS[:1])


def test_a_step_that_nothing_interrupts_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    process = multiprocessing.get_context("spawn").Process(target=step_a_stuck_one, args=(str(errors),), daemon=True)
    process.start()
    process.join(LIMIT_S)
    assert process.exitcode == 1
    assert errors.read_text().startswith(
        "The environments have not come back from one step for 1 s, in native code that cannot be interrupted,"
    )


class Ended(Exception):  # noqa: N818 it is no error
    """In place of the process's end."""


class Clock:
    """Time that passes only where a test says so; the alarm rings whenever it does. Other threads sleep as ever."""

    now = 0.0
    sleep = staticmethod(time.sleep)

    def monotonic(self) -> float:
        return self.now

    def let_pass(self, seconds: float) -> None:
        self.now += seconds
        signal.raise_signal(signal.SIGALRM)


def test_a_process_that_was_stopped_has_not_waited_for_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    class Stopping(Clock):
        """The process is stopped for long while it sleeps for the fifth time."""

        def sleep(self, seconds: float) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            if threading.current_thread() is not threading.main_thread():
                return time.sleep(seconds)
            slept.append(seconds)
            self.now += 1e6 if len(slept) == 5 else seconds
            return None

    def end(code: int) -> None:
        raise Ended

    counting = Crashes(rate=1.0, timeout=LIMIT_S)
    monkeypatch.setattr(crashes, "time", Stopping())
    monkeypatch.setattr(crashes, "end_process", end)
    with counting.watch(1), pytest.raises(Ended):
        crashes._watch(weakref.ref(counting), 0.5)
    # It looked all the same for as long as a step may take twice.
    assert len(slept) == crashes.PATIENCE * crashes.TICKS + 1
    assert sum(slept) > 2 * 0.5


class SlowlyMade(Scripted):
    """The first one's second episode does not begin in time; making another one takes longer than a step may."""

    made = 0
    clock = Clock()

    def __init__(self) -> None:
        super().__init__((1,), (False,))
        if SlowlyMade.made:
            self.clock.let_pass(3 * LIMIT_S)
        SlowlyMade.made += 1
        self._begun = 0

    def _begin(self, seed: int | None) -> Any:
        self._begun += 1
        if SlowlyMade.made == 1 and self._begun == 2:
            self.clock.let_pass(2 * LIMIT_S)
        return super()._begin(seed)


def test_making_an_environment_anew_may_take_longer_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "time", SlowlyMade.clock)
    counting = Crashes(rate=1.0, timeout=LIMIT_S)
    lanes = Lanes(InProcess([SlowlyMade]), together=True, crashes=counting)
    lanes.reset(0)
    for _ in range(4):
        lanes.step(ACTIONS[:1])
    assert (counting.count, SlowlyMade.made) == (1, 2)
