"""Training with its environments in processes of their own, from its first line to its last."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.binaries.programs import run
from tests.binaries.units import results


def workers() -> set[int]:
    """Processes that step environments, of any run."""
    return {
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "spawn_main" in " ".join(process.info["cmdline"] or ())
    }


def test_a_run_steps_them_and_leaves_none(tmp_path: Path) -> None:
    before = workers()
    ended = run(
        "binaries.train",
        "--hparams=ppo_cartpole",
        f"--output_dir={tmp_path / 'run'}",
        "--train_steps=3000",
        "--eval_episodes=2",
        "--test_episodes=2",
        "--hparam_override=Experiment.env_processes=2; Experiment.wrappers=('time_limit',); TimeLimit.steps=20",
    )
    assert ended.code == 0, ended
    # The wrapper's setting reached the processes, and the evaluation.
    assert results(tmp_path / "run")[-1]["mean_return"] <= 20
    assert workers() <= before
