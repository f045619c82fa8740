"""What a run's folder records, and which commands may continue in it."""

from __future__ import annotations

import datetime
import errno
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import binaries.run_folder
from binaries.experiment import Experiment
from binaries.run_folder import RunFolder, as_text, is_finished
from binaries.settings import Binding
from pipeline.index import ROOT
from pipeline.types import UserError
from tests.binaries.programs import contents, environment

SETTINGS = {"DQN.gamma": 0.9, "DQN.double": True, "Experiment.train_steps": 100}


def settings(**changes: Any) -> dict[str, Binding]:
    """SETTINGS with `changes`, whose names have __ for the dot."""
    merged = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    parts = {name: name.split(".") for name in merged}
    return {n: Binding(parts[n][0], parts[n][1], v, "here") for n, v in merged.items() if v is not None}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder that a run has begun in."""
    (tmp_path / "run").mkdir()
    begun = RunFolder(str(tmp_path / "run"), settings())
    begun.write({"hparams": "dqn", "seed": None}, "DQN.gamma = 0.9\n", settings())
    return begun


def test_a_new_folder_is_checked_and_not_made(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "several/new/folders"), settings())
    assert folder.path == tmp_path / "several/new/folders"
    assert folder.checkpoints.parent == folder.path
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["a" * 256, "a\0b", "/".join(["a" * 200] * 30)])
def test_what_no_folder_can_be_called_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name of a folder"):
        RunFolder(str(tmp_path / name), settings())


def test_a_folder_is_found_from_where_the_command_runs_and_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert RunFolder("run", settings()).path == tmp_path / "run"
    assert RunFolder("~/run", settings()).path == tmp_path / "home/run"


def test_only_settings_that_hold_are_recorded_as_such_and_the_others_count_for_a_resumed_run(folder: RunFolder) -> None:
    held = settings(DQN__double=None)
    folder.write({}, "", held)
    assert json.loads((folder.path / "run.json").read_text())["settings"] == as_text(held)
    assert RunFolder(str(folder.path), settings()).path == folder.path
    with pytest.raises(UserError, match=r"DQN\.double was True there and is False here"):
        RunFolder(str(folder.path), settings(DQN__double=False))


def test_a_run_is_finished_when_it_was_tested_at_its_end_in_as_many_episodes(folder: RunFolder) -> None:
    experiment = Experiment(train_steps=100, lanes=8, test_episodes=5)
    line = {"kind": "test", "env_steps": 97, "episodes": 5}
    for said, finished in (
        ({}, True),
        ({"kind": "eval"}, False),
        ({"env_steps": 92}, False),
        ({"episodes": 4}, False),
        ({}, True),
    ):
        folder.append_result(**(line | said))
        assert is_finished(folder.path, experiment) == finished


def test_what_ran_is_recorded(folder: RunFolder) -> None:
    record = json.loads((folder.path / "run.json").read_text())
    assert record["settings"] == {"DQN.gamma": "0.9", "DQN.double": "True", "Experiment.train_steps": "100"}
    assert record["flags"] == {"hparams": "dqn", "seed": None}
    assert record["versions"]["python"] == platform.python_version()
    for name in ("tensorflow", "dm-reverb", "gym", "numpy"):
        assert record["versions"][name] == importlib.metadata.version(name)
    in_git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode == 0
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?" if in_git else "", record["git_commit"])
    assert (folder.path / "operative_config.gin").read_text() == "DQN.gamma = 0.9\n"
    assert set(contents(folder.path)) == {"run.json", "operative_config.gin"}


def test_the_same_experiment_continues(folder: RunFolder) -> None:
    assert RunFolder(str(folder.path), settings()).path == folder.path


@pytest.mark.parametrize(
    "change",
    [
        {"Experiment__train_steps": 200},
        {"Experiment__train_steps": None},
        {"Experiment__eval_period": 7},
        {"Experiment__eval_episodes": 7},
        {"Experiment__test_episodes": 7},
        {"Experiment__log_period": 7},
        {"Experiment__checkpoint_period": 0.5},
        {"Experiment__kept_checkpoints": 1},
    ],
)
def test_a_run_may_go_on_longer_and_report_otherwise(folder: RunFolder, change: dict[str, Any]) -> None:
    before = contents(folder.path)
    RunFolder(str(folder.path), settings(**change))
    assert contents(folder.path) == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"DQN__gamma": 0.8}, "DQN.gamma was 0.9 there and is 0.8 here; choose"),
        ({"DQN__gamma": None}, "DQN.gamma was 0.9 there and is not set here; choose"),
        ({"DQN__n_step": 3}, "DQN.n_step was not set there and is 3 here; choose"),
        ({"Experiment__seed": 3}, "Experiment.seed was not set there and is 3 here; choose"),
        ({"DQN__gamma": 0.8, "DQN__n_step": 3}, "DQN.gamma was 0.9 there and is 0.8 here and 1 more; choose"),
    ],
)
def test_another_experiment_is_refused_with_the_setting_that_differs(
    folder: RunFolder, change: dict[str, Any], difference: str
) -> None:
    before = contents(folder.path)
    with pytest.raises(UserError) as error:
        RunFolder(str(folder.path), settings(**change))
    assert str(error.value) == (f"{folder.path} holds another experiment's run: {difference} another --output_dir.")
    assert contents(folder.path) == before


def test_a_continued_run_replaces_the_record_and_adds_to_the_results(folder: RunFolder) -> None:
    folder.append_result(kind="eval", env_steps=100)
    continued = RunFolder(str(folder.path), settings(Experiment__train_steps=200))
    continued.write({"hparams": "dqn", "seed": None}, "DQN.gamma = 0.9\n", settings(Experiment__train_steps=200))
    continued.append_result(kind="test", env_steps=200)
    assert json.loads((folder.path / "run.json").read_text())["settings"]["Experiment.train_steps"] == "200"
    assert [json.loads(line) for line in (folder.path / "results.jsonl").read_text().splitlines()] == [
        {"kind": "eval", "env_steps": 100},
        {"kind": "test", "env_steps": 200},
    ]


def test_a_folder_belongs_to_one_live_process(folder: RunFolder) -> None:
    program = (
        "import sys; from binaries.run_folder import RunFolder; folder = RunFolder(sys.argv[1], {}); folder.take();"
        "print('taken', flush=True); sys.stdin.read()"
    )
    path = folder.path.with_name("other")
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        sentence = rf"other is in use by process {holder.pid} on {platform.node()}: wait for it, or choose another"
        with pytest.raises(UserError, match=sentence):
            RunFolder(str(path), {})
        # One that was chosen while it was free.
        late = RunFolder(str(folder.path), settings())
        late._lock._path = path / "lock"
        late._lock._said = f"--output_dir={path} is in use by process"
        with pytest.raises(UserError, match=sentence):
            late.take()
        holder.kill()
    late.take()
    assert (path / "lock").read_text() == f"{os.getpid()} on {platform.node()}"


def test_what_a_killed_run_had_reported_is_dropped(folder: RunFolder) -> None:
    for steps in (10, 20, 20, 30):
        folder.append_result(env_steps=steps)
    with (folder.path / "results.jsonl").open("a") as stream:
        stream.write('{"env_steps": 4')
    folder.drop_results_after(20)
    lines = (folder.path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["env_steps"] for line in lines] == [10, 20, 20]


def test_who_only_reads_may_do_so_where_nothing_can_be_written(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(binaries.run_folder.tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(str(folder.path), settings())
    RunFolder(str(folder.path), settings(), writes=False)
    with pytest.raises(UserError, match="holds another experiment's run"):
        RunFolder(str(folder.path), settings(DQN__gamma=0.8), writes=False)


def test_a_fault_that_there_is_no_room_for_is_written_later(folder: RunFolder) -> None:
    faults = folder.path / "faults.jsonl"
    faults.symlink_to("/dev/full")
    folder.note_fault("learner", "could not write")
    faults.unlink()
    folder.note_fault("actor_1", "killed by SIGKILL")
    folder.write_faults()
    lines = [json.loads(line) for line in faults.read_text().splitlines()]
    assert [(line["process"], line["fault"]) for line in lines] == [
        ("learner", "could not write"),
        ("actor_1", "killed by SIGKILL"),
    ]


def test_every_session_is_recorded_with_its_beginning_and_hardware_and_their_time_adds_up(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    first = RunFolder(str(tmp_path / "run"), settings())
    first.write({}, "", {})
    first.write_progress({"env_steps": 1.0})
    progress = tmp_path / "run/progress.json"
    assert json.loads(progress.read_text())["wall_seconds"] >= 0
    progress.write_text('{"env_steps": 1.0, "wall_seconds": 1000.0}')
    again = RunFolder(str(tmp_path / "run"), settings())
    again.write({}, "", {})
    again.write_progress({"env_steps": 2.0})
    now = json.loads(progress.read_text())
    assert now["env_steps"] == 2.0
    assert 1_000 <= now["wall_seconds"] < 2_000
    sessions = json.loads((tmp_path / "run/run.json").read_text())["sessions"]
    assert len(sessions) == 2
    for session in sessions:
        begun = datetime.datetime.fromisoformat(session["started"])
        assert datetime.timedelta() <= datetime.datetime.now(datetime.UTC) - begun < datetime.timedelta(hours=1)
        assert session["hardware"]["processor"]
        assert session["hardware"]["cores"] == len(os.sched_getaffinity(0))
        assert session["hardware"]["memory_gib"] > 0


def test_an_evaluation_counts_for_the_time_of_a_run(folder: RunFolder) -> None:
    folder.append_result(kind="eval", env_steps=1)
    assert not (folder.path / "progress.json").exists(), "There is nothing to say of its progress yet."
    folder.write_progress({"env_steps": 1.0})
    (folder.path / "progress.json").unlink()
    folder.append_result(kind="test", env_steps=1)
    assert set(json.loads((folder.path / "progress.json").read_text())) == {"env_steps", "wall_seconds"}


def test_a_run_of_an_older_version_goes_on_without_a_time(folder: RunFolder) -> None:
    path = folder.path / "run.json"
    record = json.loads(path.read_text())
    del record["sessions"]
    path.write_text(json.dumps(record))
    again = RunFolder(str(folder.path), settings())
    again.write({}, "", {})
    again.write_progress({"env_steps": 1.0})
    assert json.loads((folder.path / "progress.json").read_text()) == {"env_steps": 1.0}
    first, second = json.loads(path.read_text())["sessions"]
    assert (first, set(second)) == ({}, {"started", "hardware"})
