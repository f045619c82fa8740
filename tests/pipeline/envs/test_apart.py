"""An environment in a process of its own: it plays alike, its errors arrive, and neither process outlives the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.envs import apart
from pipeline.envs.apart import Apart
from pipeline.envs.environment import Done
from pipeline.envs.scripted import Scripted
from pipeline.types import RunError, UserError
from tests.limits import LIMIT_S


class Unruly(Scripted):
    """Refuses, raises, hangs or dies, as `trouble` says, in its steps or `at_once`; or stays when it is closed."""

    def __init__(self, trouble: str, at_once: bool = False):
        super().__init__()
        self._trouble = trouble
        if at_once:
            self._make_trouble()

    def _advance(self, action: Any) -> tuple[Any, float, Done]:
        self._make_trouble()
        return super()._advance(action)

    def close(self) -> None:
        if self._trouble == "stay":
            signal.pause()

    def _make_trouble(self) -> None:
        if self._trouble == "refuse":
            raise UserError("The scene is missing.")
        if self._trouble == "raise":
            # Its class cannot be found by another process.
            raise type("SimulatorError", (Exception,), {})("it fell over")
        if self._trouble == "hang":
            signal.pause()
        if self._trouble == "die":
            os.abort()


def is_alive(environment: Apart) -> bool:
    return environment._process.poll() is None


def test_it_plays_as_it_does_here() -> None:
    there, here = Apart(Scripted, (2, 1), (False, True)), Scripted((2, 1), (False, True))
    assert (there.observation_spec, there.action_spec) == (here.observation_spec, here.action_spec)
    assert there.frame_rate == here.frame_rate
    np.testing.assert_equal(there.reset(1), here.reset(1))
    for _ in range(7):
        np.testing.assert_equal(there.step(np.int32(0)), here.step(np.int32(0)))
    with pytest.raises(UserError, match="Scripted has no pictures to record"):
        there.render()
    assert there.state() is None
    there.close()
    assert not is_alive(there)


def test_an_error_names_itself_and_brings_its_traceback() -> None:
    environment = Apart(Unruly, "raise")
    environment.reset()
    with pytest.raises(RuntimeError, match="SimulatorError: it fell over") as caught:
        environment.step(np.int32(0))
    assert "in _make_trouble" in "".join(traceback.format_exception(caught.value))
    environment.close()


def test_what_a_person_can_mend_is_said_as_it_was() -> None:
    before = psutil.Process().children()
    with pytest.raises(UserError, match=r"^The scene is missing\.$"):
        Apart(Unruly, "refuse", True)
    assert psutil.Process().children() == before


def test_a_process_that_ends_while_it_starts_is_the_persons_to_mend() -> None:
    with pytest.raises(UserError, match=r"Unruly cannot be made: its process ended with code -6, and its own message"):
        Apart(Unruly, "die", True)


def test_a_process_that_ends_later_is_an_error_of_the_environment() -> None:
    environment = Apart(Unruly, "die")
    environment.reset()
    with pytest.raises(ChildProcessError, match="its process ended with code -6"):
        environment.step(np.int32(0))
    environment.close()


def test_silence_is_not_waited_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Apart(Unruly, "hang")
    environment.reset()
    monkeypatch.setattr(apart, "ANSWER_S", 0.1)
    monkeypatch.setattr(apart, "CLOSE_S", 0.1)
    with pytest.raises(RunError, match=f"process {environment._process.pid} did not answer within"):
        environment.step(np.int32(0))
    environment.close()
    assert not is_alive(environment)


def test_one_that_does_not_close_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Apart(Unruly, "stay")
    monkeypatch.setattr(apart, "CLOSE_S", 0.1)
    environment.close()
    assert environment._process.returncode == -signal.SIGKILL


def test_it_ends_with_its_owner_and_ignores_ctrl_c() -> None:
    program = (
        "import os, signal; from pipeline.envs.apart import Apart; from pipeline.envs.scripted import Scripted\n"
        "environment = Apart(Scripted)\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "os.killpg(0, signal.SIGINT)\n"
        "print(environment.reset(0).tolist(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Its child has its output: that is at its end when both are.
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        start_new_session=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("[0.0, 0.0]\n", "", -signal.SIGKILL)
