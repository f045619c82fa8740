"""Inline on-policy runs repeat to the last bit: same seed, same machine, same numbers."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from tests.binaries import programs
from tests.binaries.units import curve, results, variables
from tests.configs.test_conformance import learn, parts_of, weights

STEPS = 12_000
OVERRIDES = (
    "PPO.normalize_observations=True",
    "PPO.normalize_returns=True",
    "PPO.batch_size=64",
    "Experiment.eval_period=2000",
)


def flags(folder: Path, seed: int) -> list[str]:
    settings = [f"--hparam_override={';'.join(OVERRIDES)}", f"--seed={seed}", f"--train_steps={STEPS}"]
    return ["--hparams=ppo_cartpole", *settings, "--eval_episodes=2", "--test_episodes=2", f"--output_dir={folder}"]


@pytest.mark.slow
def test_two_processes_train_the_same_to_the_last_bit_though_one_is_killed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ended = programs.run("binaries.train", *flags(whole, seed=3))
    assert ended.code == 0, ended.stderr
    often = "--hparam_override=Experiment.checkpoint_period=0.1"
    with programs.running("binaries.train", *flags(killed, seed=3), often) as train:
        # In the middle of episodes, and of a rollout.
        train.read_until(lambda text: "evaluation at" in text)
        time.sleep(random.uniform(0.0, 0.5))
        train.process.kill()
        train.read_rest()
    ended = programs.run("binaries.train", *flags(killed, seed=3), often)
    assert ended.code == 0, ended.stderr
    assert "Resuming at " in ended.stdout
    assert results(whole) == results(killed)
    assert results(whole)[-1]["env_steps"] > STEPS - 40
    assert curve(whole, "learner/loss") == curve(killed, "learner/loss")
    expected, found = variables(whole), variables(killed)
    assert len(expected) > 20
    assert any("moments" in name for name in expected)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


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
        setting = f"Experiment.seed={seed}"
        with parts_of("ppo_cartpole", "inline_without_xla", tmp_path / str(seed), setting) as (_, parts):
            learn(parts, calls=1)
            found.append(weights(parts)["policy"][0])
    assert np.any(found[0] != found[1])
