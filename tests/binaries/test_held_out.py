"""Worlds that hold levels out from training are evaluated on those, and on the others beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from binaries.evaluation import evaluation_line, record
from binaries.experiment import Experiment
from binaries.run_folder import RunFolder
from binaries.summaries import Summaries
from tests.configs.test_conformance import parts_of

LEVELS = "Procgen.num_levels=3"


def first_states(evaluator: object, seeds: range) -> set[bytes]:
    lanes = evaluator._make_lanes()  # pyright: ignore[reportAttributeAccessIssue]
    return {state.tobytes() for seed in seeds for state in lanes.reset(seed)}


def test_there_is_an_evaluation_of_either(tmp_path: Path) -> None:
    overrides = ("Experiment.eval_episodes=4", LEVELS, "PPO.epochs=1")
    with parts_of("ppo_coinrun", "inline_without_xla", tmp_path / "replay", *overrides) as (_, parts):
        # Whether a run is finished is read off its last result.
        assert list(parts.evaluators) == ["eval/training_levels", "eval"]
        assert list(parts.testers) == ["test/training_levels", "test"]
        trained, held_out = (first_states(evaluator, range(8)) for evaluator in parts.evaluators.values())
        assert len(trained) == 3
        assert len(held_out) > 20


def test_other_worlds_have_one(tmp_path: Path) -> None:
    with parts_of("ppo_cartpole", "inline_without_xla", tmp_path / "replay") as (_, parts):
        assert list(parts.evaluators) == ["eval"]


def test_results_are_told_apart(tmp_path: Path) -> None:
    folder, summaries = RunFolder(str(tmp_path), {}), Summaries(tmp_path, 2**31, ["eval"])
    for kind in ("eval", "eval/training_levels"):
        record(folder, summaries, Experiment(), kind, 10, 1, np.ones(2), 0, 0)
    text = (tmp_path / "results.jsonl").read_text()
    assert '"kind": "eval"' in text
    assert '"kind": "eval/training_levels"' in text
    lines = [evaluation_line(Experiment(), kind, 10, np.ones(2), 0, 0) for kind in ("eval", "eval/training_levels")]
    assert lines == [
        "evaluation at 10 steps: 1.0 +- 0.0 over 2 episodes",
        "evaluation at 10 steps: 1.0 +- 0.0 over 2 episodes of the levels trained on",
    ]
