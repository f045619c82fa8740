"""Folders of any name, through `./run` itself: trained, gone on with, tested, exported."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.binaries.units import results
from tests.limits import LIMIT_S

pytestmark = pytest.mark.slow
SETTINGS = "Experiment.lanes=4;PPO.rollout_length=64;Learner.xla=False"


def call(run: Path, *words: str) -> str:
    variables = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C"}
    ended = subprocess.run([str(run), *words], capture_output=True, timeout=LIMIT_S, env=variables, cwd=run.parent)
    assert (ended.returncode, ended.stderr) == (0, b""), ended.stderr.decode()
    return ended.stdout.decode()


@pytest.mark.parametrize("name", ["run[1]", "with  spaces", "*?", "ünï-中", "long/" + "/".join(["y" * 90] * 3)])
def test_a_run_in_a_folder_of_any_name_does_all_that_runs_do(tmp_path: Path, name: str) -> None:
    run = tmp_path / "a link"
    run.symlink_to(ROOT / "run")
    train = ["train", "--hparams=ppo_cartpole", f"--output_dir={tmp_path / name}", f"--hparam_override={SETTINGS}"]
    train += ["--eval_episodes=1", "--test_episodes=2"]
    call(run, *train, "--train_steps=300")
    assert "\nResuming at " in call(run, *train, "--train_steps=600")
    call(run, *train, "--train_steps=600", "--training=False")
    assert [line["kind"] for line in results(tmp_path / name)] == ["eval", "test", "eval", "test", "test"]
    call(run, "export", f"--output_dir={tmp_path / name}", f"--to={tmp_path / 'policy'}")
    assert (tmp_path / "policy/saved_model.pb").exists()
    call(run, "report", str(tmp_path / name), f"--to={tmp_path / 'report'}")
