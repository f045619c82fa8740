"""Inline on-policy runs repeat to the last bit: same seed, same machine, same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.binaries import programs
from tests.configs.test_conformance import learn, parts_of, weights

STEPS = 6_000
OVERRIDES = ("PPO.normalize_observations=True", "PPO.normalize_returns=True", "PPO.batch_size=64")


def trained(folder: Path, seed: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The results of a whole run of PPO, and every variable of its last checkpoint: Adam's slots and moments too."""
    ended = programs.run(
        "binaries.train",
        "--hparams=ppo_cartpole",
        f"--hparam_override={';'.join(OVERRIDES)}",
        f"--seed={seed}",
        f"--train_steps={STEPS}",
        "--eval_episodes=2",
        "--test_episodes=2",
        f"--output_dir={folder}",
    )
    assert ended.code == 0, ended.stderr
    results = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    reader = tf.train.load_checkpoint(str(max((folder / "checkpoints").glob("step-*")) / "learner"))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_")]
    return results, {name: reader.get_tensor(name) for name in names}


def test_two_processes_train_the_same_to_the_last_bit(tmp_path: Path) -> None:
    (one, variables), (two, others) = (trained(tmp_path / name, seed=3) for name in ("one", "two"))
    timeless = lambda results: [{k: v for k, v in r.items() if k != "time"} for r in results]  # noqa: E731
    assert timeless(one) == timeless(two)
    assert one[-1]["env_steps"] > STEPS - 40
    assert len(variables) > 20
    assert any("moments" in name for name in variables)
    assert variables.keys() == others.keys()
    for name, value in variables.items():
        np.testing.assert_array_equal(value, others[name], err_msg=name)


@pytest.mark.parametrize("name", ["vpg_cartpole", "ppo_mountaincar"])
def test_the_seeds_loop_repeats_too(name: str, tmp_path: Path) -> None:
    found = []
    for run in ("one", "two"):
        with parts_of(name, "seeds_loop", tmp_path / run) as (_, parts):
            learn(parts, calls=3)
            found.append(weights(parts))
    for group, values in found[0].items():
        for one, two in zip(values, found[1][group], strict=True):
            np.testing.assert_array_equal(one, two)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        with parts_of("ppo_cartpole", "inline", tmp_path / str(seed), f"Experiment.seed={seed}") as (_, parts):
            learn(parts, calls=1)
            found.append(weights(parts)["policy"][0])
    assert np.any(found[0] != found[1])


def test_an_on_policy_run_resumes(tmp_path: Path) -> None:
    flags = ["--hparams=ppo_cartpole", "--eval_episodes=1", "--test_episodes=1", f"--output_dir={tmp_path}"]
    for steps in (2_500, 5_000):
        ended = programs.run("binaries.train", *flags, f"--train_steps={steps}")
        assert ended.code == 0, ended.stderr
    assert "Resuming at 2,4" in ended.stdout
    last = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[-1])
    # A rollout is 32 lanes x 32 steps: the one that the first run had begun is begun anew.
    assert 4_900 < last["env_steps"] <= 5_000
    assert last["updates"] == 4 * 10 * 4
