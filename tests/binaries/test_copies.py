"""Several runs of one command: each has a folder and a seed of its own, and goes on where it stood."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from binaries import console
from binaries.copies import Copies
from binaries.experiment import Experiment
from binaries.flags import Command
from binaries.run_folder import read_progress
from tests.binaries.conftest import Once
from tests.binaries.programs import Ended, contents, run, running
from tests.binaries.units import results
from tests.limits import LIMIT_S


def flags(folder: Path, train_steps: int, copies: int = 2) -> list[str]:
    return [
        "--hparams=ppo_cartpole",
        f"--output_dir={folder}",
        f"--train_steps={train_steps}",
        f"--copies={copies}",
        "--seed=5",
        "--eval_episodes=2",
        "--test_episodes=3",
        "--hparam_override=Learner.xla=False;Experiment.lanes=4;PPO.rollout_length=64",
    ]


def trains(folder: Path) -> list[psutil.Process]:
    """The copies in `folder` that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(word.startswith(f"--output_dir={folder}/run_") for word in words):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="session")
def finished(once: Once) -> tuple[Path, Ended]:
    """Three copies that came to their end, and what the program said."""

    def fill(root: Path) -> None:
        ended = run("binaries.train", *flags(root / "runs", 600, copies=3))
        (root / "ended.json").write_text(json.dumps(ended))

    root = once("copies", fill)
    return root / "runs", Ended(*json.loads((root / "ended.json").read_text()))


def test_each_copy_is_a_run_with_a_seed_of_its_own(finished: tuple[Path, Ended]) -> None:
    folder, ended = finished
    assert ended.code == 0, ended.stderr
    tests = [[line for line in results(folder / f"run_{i}") if line["kind"] == "test"] for i in range(3)]
    assert [len(lines) for lines in tests] == [1, 1, 1]
    assert all(596 < line["env_steps"] <= 600 for (line,) in tests)
    records = [json.loads((folder / f"run_{i}/run.json").read_text()) for i in range(3)]
    assert [record["settings"]["Experiment.seed"] for record in records] == ["5", "6", "7"]
    assert len({line["mean_return"] for (line,) in tests}) > 1
    # What each has to say is one line here, and all of it in its folder.
    for i in range(3):
        said = f"CartPole-v1 after {tests[i][0]['env_steps']} steps: "
        assert f"run_{i}: {said}" in ended.stdout
        assert said in (folder / f"run_{i}/output.log").read_text()
    assert ended.stderr == ""


def test_the_copies_end_with_a_report(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    assert {"report.html", "report.md"} <= {path.name for path in folder.iterdir()}


def test_finished_copies_are_not_run_again(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    before = {name: data for name, data in contents(folder).items() if name.startswith("run_")}
    ended = run("binaries.train", *flags(folder, 600, copies=3), "--quiet")
    # There is nothing to warn of, and no new result.
    assert ended == Ended(0, "", "")
    assert {name: data for name, data in contents(folder).items() if name.startswith("run_")} == before


def test_what_another_experiment_finished_is_no_copy(finished: tuple[Path, Ended]) -> None:
    folder, _ = finished
    ended = run("binaries.train", *flags(folder, 600, copies=3), "--hparam_override=PPO.epochs=2")
    assert ended.code == 2
    assert f"{folder}/run_0 holds another experiment's run: PPO.epochs was " in ended.stderr


def test_the_copies_are_shown_as_one_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"port": 0, "output_dir": str(tmp_path), "quiet": False, "copies": 4, "training": False}
    copies = Copies(Command({}, Experiment(train_steps=1_000), flags))
    copies._done = {0}
    copies._running = dict.fromkeys((1, 2, 3))  # pyright: ignore[reportAttributeAccessIssue]
    for copy, steps, episode_return in ((1, 500, 20.0), (2, 250, 40.0)):
        (tmp_path / f"run_{copy}").mkdir()
        now = {"env_steps": steps, "updates": steps, "episode_return": episode_return, "seconds_left": 1.0}
        now |= {"env_steps_per_second": 25.0, "updates_per_second": 10.0}
        (tmp_path / f"run_{copy}" / "progress.json").write_text(json.dumps(now))
    copies._show(console.Status())
    assert capsys.readouterr().out == (
        "1 of 4 copies done | 1,750 of 4,000 steps | 750 updates | return 30.0 | 50 steps/s | 20 updates/s"
        " | 0:00:45 left | run_1 50%, return 20.0 | run_2 25%, return 40.0 | run_3 starts\n"
    )


def wait_for(reached: Callable[[], bool], seconds: float = LIMIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps(folder: Path, copy: int) -> int:
    return int((read_progress(folder / f"run_{copy}") or {"env_steps": 0})["env_steps"])


@pytest.mark.slow
def test_a_stop_saves_every_copy_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path
    with running("binaries.train", *flags(folder, 10**9)) as train:
        wait_for(lambda: min(steps(folder, 0), steps(folder, 1)) > 0)
        train.process.send_signal(signal.SIGTERM)
        assert train.process.wait(LIMIT_S) == 0
        train.read_rest()
    assert "Stopped and saved; the same command goes on from here." in train.text
    assert trains(folder) == []
    saved = [max(int(p.name.removeprefix("step-")) for p in folder.glob(f"run_{i}/checkpoints/step-*")) for i in (0, 1)]
    assert min(saved) > 0
    ended = run("binaries.train", *flags(folder, max(saved) + 500))
    assert ended.code == 0, ended.stderr
    for i in (0, 1):
        assert f"Resuming at {saved[i]:,} environment steps" in (folder / f"run_{i}/output.log").read_text()
        assert results(folder / f"run_{i}")[-1]["env_steps"] > saved[i]


@pytest.mark.slow
def test_copies_do_not_outlive_the_program_that_started_them(tmp_path: Path) -> None:
    folder = tmp_path
    with running("binaries.train", *flags(folder, 10**9)) as train:
        wait_for(lambda: min(steps(folder, 0), steps(folder, 1)) > 0)
        assert len(trains(folder)) == 2
        train.process.kill()
    wait_for(lambda: trains(folder) == [], seconds=30)
    # They were asked to stop, and saved.
    assert all(list(folder.glob(f"run_{i}/checkpoints/step-*")) for i in (0, 1))


def test_a_copy_that_fails_is_named_and_costs_no_other(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "run_0").mkdir()
    (folder / "run_0/run.json").write_text(json.dumps({"settings": {"DQN.batch_size": "7"}}))
    ended = run("binaries.train", *flags(folder, 300))
    assert ended.code == 1
    assert ended.stderr.startswith("train: 1 of 2 copies failed, first run_0: train: ")
    assert "holds another experiment's run" in ended.stderr
    assert results(folder / "run_1")[-1]["kind"] == "test"
