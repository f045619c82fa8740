"""The evaluator's results make one time line, whatever becomes of the learner and of itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from binaries import serving, settings
from binaries.evaluator import Loop
from binaries.experiment import Plan
from binaries.run_folder import RunFolder
from pipeline.types import RunError
from pipeline.waiting import Stopped
from servers.variables import Version
from tests.binaries.units import curve

SMALL = ["Experiment.eval_episodes=1", "Experiment.test_episodes=1", "Experiment.eval_lanes=1"]
PERIOD = "Experiment.eval_period=1000"
FIRST, SECOND = 5, 6


def version(
    env_steps: int, run_id: int = FIRST, begun_at: int = 0, finished: bool = False, training_id: int = 1
) -> Version:
    return Version(training_id, run_id, env_steps // 2, begun_at, env_steps, finished, 1.0)


class Scripted:
    """Weights of these versions, one at each pull; then it asks to stop."""

    def __init__(self, versions: Sequence[Version]):
        self._coming = list(versions)
        self.version: Version | None = None

    def pull(self) -> bool:
        if not self._coming:
            raise Stopped
        self.version = self._coming.pop(0)
        return True


@pytest.fixture
def evaluate(tmp_path: Path) -> Iterator[Any]:
    """`evaluate(versions)`: a life of the evaluator that sees these; kind and step of each line of results.jsonl."""
    read = settings.read("dqn_cartpole_uniform", [*SMALL, PERIOD], {})
    settings.apply(read)
    plan = Plan("local", acts=False)
    tmp_path.mkdir(exist_ok=True)

    def life(versions: Sequence[Version]) -> list[tuple[str, int]]:
        folder = RunFolder(str(tmp_path), read)
        loop = Loop(
            plan,
            plan.learner().params,
            Scripted(versions),
            folder,
            None,
            stop=lambda: False,  # pyright: ignore[reportArgumentType]
            watchdog=serving.Watchdog("The evaluator", 600.0),
            quiet=True,
        )
        with contextlib.suppress(Stopped):
            loop.run("")
        return [(result["kind"], result["env_steps"]) for result in folder.results()]

    yield life
    plan.close()


def test_results_of_weights_that_were_lost_are_dropped(evaluate: Any, tmp_path: Path) -> None:
    first = [version(1_000), version(2_050), version(3_070)]
    assert evaluate(first) == [("eval", 1_000), ("eval", 2_050), ("eval", 3_070)]
    # A learner that went back to 2,400 steps, whose actors had gone on.
    later = [version(2_400, SECOND, 2_400), version(3_010, SECOND, 2_400), version(4_000, SECOND, 2_400, finished=True)]
    expected = [("eval", 1_000), ("eval", 2_050), ("eval", 3_010), ("eval", 4_000), ("test", 4_000)]
    assert evaluate(later) == expected
    steps = [step for step, _ in curve(tmp_path, "episode_return", "eval")]
    assert sorted(steps) == [1_000, 2_050, 3_010, 4_000]


def test_they_are_dropped_while_it_goes_on_too(evaluate: Any) -> None:
    versions = [version(1_000), version(2_050), version(1_500, SECOND, 1_500), version(2_010, SECOND, 1_500)]
    assert evaluate(versions) == [("eval", 1_000), ("eval", 2_010)]


def test_one_that_begins_again_keeps_what_it_found_and_repeats_nothing(evaluate: Any) -> None:
    assert evaluate([version(1_000), version(2_050)]) == [("eval", 1_000), ("eval", 2_050)]
    again = [version(2_050), version(2_300), version(3_000, finished=True)]
    expected = [("eval", 1_000), ("eval", 2_050), ("eval", 3_000), ("test", 3_000)]
    assert evaluate(again) == expected
    assert evaluate([version(3_000, finished=True)]) == expected
    resumed = [version(3_000, SECOND, 3_000), version(3_500, SECOND, 3_000, finished=True)]
    assert evaluate(resumed) == [*expected, ("eval", 3_500), ("test", 3_500)]


def test_results_of_another_training_are_kept_and_its_weights_refused(evaluate: Any, tmp_path: Path) -> None:
    assert evaluate([version(1_000)]) == [("eval", 1_000)]
    with pytest.raises(RunError, match="holds another training's results: choose another --output_dir"):
        evaluate([version(1_000, SECOND, training_id=2)])
    folder = RunFolder(str(tmp_path), settings.read("dqn_cartpole_uniform", [*SMALL, PERIOD], {}))
    assert [result["env_steps"] for result in folder.results()] == [1_000]


def test_a_training_that_its_learner_begins_anew_in_the_folder_goes_on_there(evaluate: Any, tmp_path: Path) -> None:
    read = settings.read("dqn_cartpole_uniform", [*SMALL, PERIOD], {})
    RunFolder(str(tmp_path), read).write({}, "", read, training_id=1)
    assert evaluate([version(1_000), version(2_050)]) == [("eval", 1_000), ("eval", 2_050)]
    RunFolder(str(tmp_path), read).write({}, "", read, training_id=2)
    with pytest.raises(RunError, match="another training's"):
        evaluate([version(2_050)])
    assert evaluate([version(1_010, SECOND, training_id=2)]) == [("eval", 1_010)]
