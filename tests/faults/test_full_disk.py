"""A disk that fills up under a training costs what could not be written, and the run goes on or ends, as was chosen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import Ended, environment
from tests.binaries.test_served import processes_of
from tests.binaries.units import results
from tests.faults.test_killed_processes import faults

LEARNT = 200.0
"""mean return on CartPole: chance gives 22, and not every run of several actors reaches 475 (docs/distributed.md)"""

# A file system of the test's own, which is filled up once there is a checkpoint, and emptied after a while.
SCRIPT = """
mount -t tmpfs -o size=$4 tmpfs "$1" || exit 77
full=$1 copy=$2 empty=$3; shift 4
"$@" & train=$!
until [ -n "$(ls -d "$full"/run/checkpoints/step-*/manifest.json 2>/dev/null)" ]; do sleep 0.1; done
dd if=/dev/zero of="$full/filler" bs=64k status=none 2>/dev/null
sleep "$empty"; rm "$full/filler"
wait $train; code=$?
cp -r "$full/run" "$copy"
exit $code
"""


def on_a_full_disk(folder: Path, size: str, seconds: int, *flags: str) -> Ended:
    """Trains on a disk of so much room, full for some seconds; what the run left behind is in `folder`/copy."""
    (folder / "full").mkdir()
    command = [
        *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"),
        *(str(folder / "full"), str(folder / "copy"), str(seconds), size),
        *(sys.executable, "-m", "binaries.train", f"--output_dir={folder / 'full/run'}", *flags),
    ]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert ended.returncode != 77, f"This machine lets nobody mount a file system: {ended.stderr}"
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def train_on_a_full_disk(folder: Path, *settings: str) -> Ended:
    """All in one process, for some seconds."""
    overrides = ("Experiment.checkpoint_period=0.5", "Experiment.eval_period=20_000", "Learner.xla=False", *settings)
    flags = ("--hparams=ppo_cartpole", "--train_steps=200000", "--eval_episodes=2", "--test_episodes=2")
    return on_a_full_disk(folder, "6m", 8, *flags, f"--hparam_override={';'.join(overrides)}")


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


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_run_of_several_processes_goes_on_learns_its_task_and_counts_what_was_lost(tmp_path: Path) -> None:
    settings = "Experiment.lanes=4;Experiment.checkpoint_period=3;Experiment.replay_checkpoint_period=3"
    flags = ("--hparams=dqn_cartpole", "--num_workers=4", "--test_episodes=20", f"--hparam_override={settings}")
    ended = on_a_full_disk(tmp_path, "64m", 30, *flags)
    assert ended.code == 0, ended.stdout + ended.stderr
    run = tmp_path / "copy"
    assert results(run)[-1]["mean_return"] >= LEARNT
    found = [(fault["process"], fault["fault"]) for fault in faults(run)]
    assert ("learner", "could not write") in found
    assert {how for _, how in found} == {"could not write"}, "Nobody died of it."
    assert "could not write" in (run / "report.html").read_text()
    assert "could not be saved" in (run / "logs/replay_0.log").read_text()
    assert not processes_of(tmp_path)
