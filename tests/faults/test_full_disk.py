"""A disk that fills up under a training costs what could not be written, and the run goes on or ends, as was chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import Ended, environment

# A file system of the test's own, which is filled up once there is a checkpoint, and emptied after a while.
SCRIPT = """
mount -t tmpfs -o size=6m tmpfs "$1" || exit 77
full=$1 copy=$2 empty=$3; shift 3
"$@" & train=$!
until [ -n "$(ls -d "$full"/run/checkpoints/step-*/manifest.json 2>/dev/null)" ]; do sleep 0.1; done
dd if=/dev/zero of="$full/filler" bs=64k status=none 2>/dev/null
sleep "$empty"; rm "$full/filler"
wait $train; code=$?
cp -r "$full/run" "$copy"
exit $code
"""


def train_on_a_full_disk(folder: Path, *settings: str) -> Ended:
    """Trains for some seconds; what the run left behind is in `folder`/copy."""
    (folder / "full").mkdir()
    overrides = ("Experiment.checkpoint_period=0.5", "Experiment.eval_period=20_000", "Learner.xla=False", *settings)
    command = [
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"),
        *(str(folder / "full"), str(folder / "copy"), "8"),
        *(sys.executable, "-m", "binaries.train", "--hparams=ppo_cartpole", "--train_steps=200000"),
        *("--eval_episodes=2", "--test_episodes=2", f"--output_dir={folder / 'full/run'}"),
        f"--hparam_override={';'.join(overrides)}",
    ]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode != 77, f"This machine lets nobody mount a file system: {ended.stderr}"
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.slow
def test_the_run_goes_on_and_saves_again_when_there_is_room(tmp_path: Path) -> None:
    ended = train_on_a_full_disk(tmp_path)
    assert ended.code == 0, ended.stderr
    assert "WARNING: no checkpoint at " in ended.stdout
    assert "the one before stands." in ended.stdout
    assert "CartPole-v1 after " in ended.stdout
    units = sorted((tmp_path / "copy/checkpoints").glob("step-*/manifest.json"))
    assert int(units[-1].parent.name.removeprefix("step-")) > 199_000
    assert (tmp_path / "copy/report.html").exists()


@pytest.mark.slow
def test_the_run_ends_where_that_was_chosen_and_the_last_checkpoint_stands(tmp_path: Path) -> None:
    ended = train_on_a_full_disk(tmp_path, "Experiment.stop_when_unsaved=True")
    assert ended.code == 1
    assert "train: There is no checkpoint at " in ended.stderr
    assert "Experiment.stop_when_unsaved ends the run." in ended.stderr
    assert list((tmp_path / "copy/checkpoints").glob("step-*/manifest.json"))
