"""A training that is killed again and again ends as one that never was: real processes, real SIGKILL."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.binaries.programs import run, running
from tests.binaries.units import curve, results, variables

KILLS = 20


def flags(hparams: str, steps: int, folder: Path) -> list[str]:
    settings = ("Experiment.checkpoint_period=0.2", f"Experiment.eval_period={steps // 10}", "Learner.xla=False")
    return [
        f"--hparams={hparams}",
        f"--train_steps={steps}",
        "--eval_episodes=2",
        "--test_episodes=2",
        f"--output_dir={folder}",
        *(f"--hparam_override={setting}" for setting in settings),
    ]


def trained_and_killed(hparams: str, steps: int, folder: Path) -> int:
    """Trains to the end, with SIGKILL at `KILLS` random moments after training began; returns how many came in time."""
    kills = 0
    for _ in range(KILLS):
        with running("binaries.train", *flags(hparams, steps, folder)) as train:
            train.read_until(lambda text: "\nReplay: " in text)
            time.sleep(random.uniform(0.0, 3.0))
            train.process.kill()
            kills += train.process.wait() == -signal.SIGKILL
            train.read_rest()
    ended = run("binaries.train", *flags(hparams, steps, folder))
    assert ended.code == 0, ended.stderr
    return kills


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ppo_killed_twenty_times_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    steps = 400_000
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ended = run("binaries.train", *flags("ppo_cartpole", steps, whole))
    assert ended.code == 0, ended.stderr
    assert trained_and_killed("ppo_cartpole", steps, killed) >= 10
    expected, found = variables(whole), variables(killed)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)
    assert results(whole) == results(killed)
    for tag in ("episode_return", "learner/loss"):
        assert sorted(curve(whole, tag)) == sorted(curve(killed, tag))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dqn_killed_twenty_times_counts_every_step_once(tmp_path: Path) -> None:
    steps = 30_000
    assert trained_and_killed("dqn_cartpole_uniform", steps, tmp_path) >= 10
    lines = results(tmp_path)
    assert [line["env_steps"] // (steps // 10) for line in lines if line["kind"] == "eval"] == [*range(1, 10), 9]
    points = [step for step, _ in curve(tmp_path, "speed/env_steps_per_second")]
    assert [step // 1_000 for step in points] == list(range(1, 30))
    assert len(variables(tmp_path)) > 10
