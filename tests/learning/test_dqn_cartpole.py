"""DQN solves CartPole-v1 within 50,000 environment steps on at least four of five seeds, with either replay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.index import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["uniform", "prioritized"])
def test_solved_on_four_of_five_seeds(memory: str, tmp_path: Path) -> None:
    override = f"--hparam_override=DQN.memory = '{memory}'"
    program = [sys.executable, "-m", "benchmarks.learning_curve", "--hparams=dqn_cartpole", "--seeds=5", override]
    subprocess.run([*program, f"--output_dir={tmp_path}"], cwd=ROOT, check=True)
    finals = []
    for seed in range(5):
        lines = (tmp_path / f"seed-{seed}" / "results.jsonl").read_text().splitlines()
        final = json.loads(lines[-1])
        assert (final["kind"], final["episodes"]) == ("test", 100)
        assert final["env_steps"] <= 50_000
        finals.append(final["mean_return"])
    assert sum(score >= 475 for score in finals) >= 4, finals
