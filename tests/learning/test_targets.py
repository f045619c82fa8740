"""Every set of hyper-parameters with a target reaches it, trained as its page in docs/algorithms/ says."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.index import ROOT

# Hyper-parameters: environment steps, and the mean over three seeds of the mean return of 100 greedy episodes.
TARGETS = {
    "noisy_dqn_cartpole": (50_000, 475.0),
    "vpg_cartpole": (300_000, 450.0),
    "ppo_cartpole": (100_000, 490.0),
    "ddpg_pendulum": (20_000, -170.0),
    "ddpg_mountaincar_continuous": (300_000, 90.0),
    "dqn_mountaincar": (120_000, -120.0),
    "ppo_mountaincar": (1_000_000, -130.0),
    "ddpg_cartpole": (100_000, 400.0),
    "ppo_lunarlander": (1_000_000, 200.0),
    "ppo_vizdoom_basic": (100_000, 75.0),
    "tf_agents_sac_lunarlander_continuous": (300_000, 200.0),
}
# The same of one seed, of as many final episodes, where a training takes most of an hour.
LONG = {"dqn_pong": (500_000, 0.0, 30), "ppo_coinrun": (2_000_000, 6.5, 500)}
HOURS = 3600


def scores(hparams: str, seeds: int, steps: int, folder: Path, episodes: int = 100) -> list[float]:
    """The final mean return of each seed, trained for at most `steps` environment steps."""
    program = [sys.executable, "-m", "binaries.train", f"--hparams={hparams}", f"--copies={seeds}"]
    subprocess.run([*program, f"--output_dir={folder}"], cwd=ROOT, check=True)
    finals = []
    for seed in range(seeds):
        lines = (folder / f"run_{seed}" / "results.jsonl").read_text().splitlines()
        final = json.loads(lines[-1])
        assert (final["kind"], final["episodes"]) == ("test", episodes)
        assert final["env_steps"] <= steps
        finals.append(final["mean_return"])
    return finals


@pytest.mark.slow
@pytest.mark.parametrize("hparams", ["dqn_cartpole", "dqn_cartpole_uniform"])
def test_dqn_solves_cartpole_on_four_of_five_seeds(hparams: str, tmp_path: Path) -> None:
    finals = scores(hparams, 5, 50_000, tmp_path)
    assert sum(score >= 475 for score in finals) >= 4, finals


@pytest.mark.slow
@pytest.mark.parametrize("hparams", TARGETS)
def test_the_mean_over_seeds_reaches_its_target(hparams: str, tmp_path: Path) -> None:
    steps, least = TARGETS[hparams]
    finals = scores(hparams, 3, steps, tmp_path)
    assert statistics.mean(finals) >= least, finals


@pytest.mark.slow
@pytest.mark.timeout(3 * HOURS)
@pytest.mark.parametrize("hparams", LONG)
def test_a_long_training_reaches_its_target(hparams: str, tmp_path: Path) -> None:
    steps, least, episodes = LONG[hparams]
    (final,) = scores(hparams, 1, steps, tmp_path, episodes)
    assert final >= least
