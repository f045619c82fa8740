"""An environment that raises what ends a program has failed, as one that raises an error."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest

from pipeline.envs.apart import Apart
from pipeline.envs.block import Block, InProcess
from pipeline.envs.crashes import CrashError, Crashes
from pipeline.envs.environment import Done, Environment
from pipeline.envs.guard import Quit, guarded
from pipeline.envs.gym import GymAdapter
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make, maker
from pipeline.envs.processes import Processes
from pipeline.envs.recorder import Recorder, Videos, check_pictures
from pipeline.types import UserError
from tests.limits import LIMIT_S, signals_heard
from tests.pipeline.envs.quitters import KINDS, Quitter

ACTIONS = np.zeros(1, np.int32)
NAME = "tests.pipeline.envs.quitters:Quitter"


class Adapted(GymAdapter):
    def __init__(self, **options: Any) -> None:
        super().__init__("quitter", Quitter(**options), partial(Quitter, **options))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    Quitter.made = 0
    yield
    gin.clear_config()


def lanes_of(block: Block) -> tuple[Lanes, Crashes]:
    crashes = Crashes(1.0, 60.0)
    return Lanes(block, crashes=crashes), crashes


def dones(lanes: Lanes, steps: int) -> list[int]:
    return [int(lanes.step(ACTIONS)[2][0]) for _ in range(steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exit_out_of_a_step_cuts_the_episode(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    lanes, crashes = lanes_of(InProcess([partial(Adapted, kind=kind)]))
    lanes.reset(0)
    assert dones(lanes, 6) == [Done.NO, Done.NO, Done.TRUNCATED, Done.NO, Done.NO, Done.NO]
    assert (crashes.count, Quitter.made) == (1, 2)
    said = {"SystemExit": "SystemExit: sys.exit()"}.get(kind, kind)
    assert f"WARNING: the environment of lane 0 failed (Quit: {said})" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_an_exit_out_of_a_reset_is_a_failure_that_is_counted(kind: str) -> None:
    lanes, crashes = lanes_of(InProcess([partial(Adapted, kind=kind, places=("reset",))]))
    with pytest.raises(CrashError, match=f"Environments failed 4 times in 0 steps.*Quit: {kind}"):
        lanes.reset(0)
    assert crashes.count == 4


def test_an_exit_out_of_making_an_environment_anew_is_counted_and_tried_again() -> None:
    makers: list[Callable[[], Environment]] = [
        partial(Adapted),
        partial(Adapted, places=("making",)),
        partial(Adapted, places=("close",)),
    ]
    lanes, crashes = lanes_of(InProcess([lambda: makers.pop(0)()]))
    lanes.reset(0)
    assert dones(lanes, 5) == [Done.NO, Done.NO, Done.TRUNCATED, Done.NO, Done.NO]
    assert crashes.count == 2


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])
def test_an_exit_in_a_process_of_its_own_is_told_and_the_process_lives_on(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gin.parse_config(f"EnvironmentClass.options = {{'kind': '{kind}'}}")
    block = Processes([maker(NAME)], 1, timeout=LIMIT_S)
    lanes, crashes = lanes_of(block)
    lanes.reset(0)
    process = block._workers[0]._process.pid
    assert dones(lanes, 6) == [Done.NO, Done.NO, Done.TRUNCATED, Done.NO, Done.NO, Done.NO]
    assert block._workers[0]._process.pid == process
    assert crashes.count == 1
    assert f"failed (WorkerError: Quit: {kind}" in capsys.readouterr().out
    lanes.close()


def test_what_cannot_be_made_anew_in_its_process_ends_the_run_with_its_reason() -> None:
    gin.parse_config("EnvironmentClass.options = {'places': ('making', 'step'), 'first': 1}")
    block = Processes([maker(NAME)], 1, timeout=LIMIT_S)
    lanes, _ = lanes_of(block)
    lanes.reset(0)
    lanes._crashes = Crashes(1e-9, 60.0)
    block.failures[0] = RuntimeError("as if it fell over")
    with pytest.raises(CrashError, match=r"Environments failed 4 times.*Quit: SystemExit: sys.exit\(\)"):
        lanes.step(ACTIONS)
    lanes.close()


def test_an_exit_in_an_environment_apart_is_its_failure() -> None:
    environment = Apart(Adapted)
    environment.reset(0)
    for _ in range(2):
        environment.step(np.int32(0))
    with pytest.raises(Quit, match=r"SystemExit: sys.exit\(\)"):
        environment.step(np.int32(0))
    environment.reset(0)
    environment.close()


def test_one_that_cannot_be_made_is_told_in_a_sentence() -> None:
    gin.parse_config("EnvironmentClass.options = {'places': ('making',)}")
    with pytest.raises(UserError, match=rf"'{NAME}' cannot be made \(SystemExit: sys.exit\(\)\)"):
        make(NAME)


def test_a_module_that_exits_when_it_is_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"Environment 'a_script:World': SystemExit: sys.exit\(3\)"):
        make("a_script:World")


def test_an_exit_out_of_render_costs_the_video_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"quitter cannot be drawn here \(SystemExit"):
        check_pictures(partial(Adapted, places=("render",)), shown=False)
    videos = Videos(tmp_path, "libx264")
    recorder = Recorder(partial(Adapted, places=("render",)), videos, "train", 0, 1, 1)
    recorder.reset(0)
    recorder.step(np.int32(0))
    recorder.close()
    assert "WARNING: an episode was not recorded" in capsys.readouterr().out


def test_the_users_own_interrupt_is_no_failure_of_an_environment() -> None:
    with signals_heard(), pytest.raises(KeyboardInterrupt), guarded():
        signal.raise_signal(signal.SIGINT)
