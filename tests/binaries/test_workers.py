"""Processes that are kept running: started again when they die, given up where that is of no use."""

from __future__ import annotations

import json
import re
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import binaries.workers
from binaries.console import Status
from binaries.experiment import Experiment
from binaries.flags import Command
from binaries.workers import FAILURES, Kept, Part, Workers
from pipeline.types import RunError, UserError
from tests.binaries.programs import run
from tests.limits import LIMIT_S


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries.workers, "BACKOFF_S", 0.0)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def kept(folder: Path, program: str) -> Kept:
    """A process that runs `program`, which stands in for a module of ours."""
    (folder / "stand_in.py").write_text(program)
    return Kept(Part("actor_0", "stand_in", []), folder / "actor_0.log")


def looks(one: Kept, progress: Callable[[int], int] = lambda deaths: 0) -> list[str]:
    """Looks until the process is done; how it died each time. `progress`: of the run, after so many deaths."""
    died: list[str] = []
    give_up = time.monotonic() + LIMIT_S
    while not one.done:
        assert time.monotonic() < give_up, died
        how = one.look(progress(len(died)))
        died += [how] if how else []
        time.sleep(0.02)
    return died


def test_a_process_that_dies_is_started_again_until_it_is_done(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, signal, sys
lives = pathlib.Path({str(tmp_path / "lives")!r})
lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
life = len(lives.read_text())
if life == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if life == 2:
    sys.exit("it said why")
"""
    one = kept(tmp_path, program)
    assert looks(one) == ["killed by SIGKILL", "ended with status 1: it said why"]
    assert one.faults == 2


def test_one_that_was_given_what_it_cannot_use_ends_the_run_at_once(tmp_path: Path) -> None:
    one = kept(tmp_path, "import sys; print('stand_in: There is no flag --nope.'); sys.exit(2)")
    with pytest.raises(UserError, match=r"^There is no flag --nope\.$"):
        looks(one)
    # A status alone is no sentence of ours.
    one = kept(tmp_path, "import sys; print('of another program'); sys.exit(2)")
    with pytest.raises(RunError, match=r"actor_0 ended with status 2: of another program \(all of it:"):
        looks(one)


def test_one_that_dies_again_and_again_ends_the_run(tmp_path: Path) -> None:
    one = kept(tmp_path, "import sys; sys.exit('no use')")
    with pytest.raises(RunError, match=f"status 1: no use, {FAILURES} times soon after its start, and the run"):
        looks(one)


def test_what_goes_back_to_where_it_was_is_no_progress(tmp_path: Path) -> None:
    one = kept(tmp_path, "import sys; sys.exit('at the same step')")
    with pytest.raises(RunError, match=f"{FAILURES} times soon after its start"):
        looks(one, lambda deaths: 100 - 10 * (deaths % 2))


@pytest.mark.parametrize("recovers", ["it lives", "the run goes on"])
def test_one_that_recovers_may_die_as_often_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovers: str
) -> None:
    if recovers == "it lives":
        monkeypatch.setattr(binaries.workers, "SOON_S", 0.0)
    program = f"""
import pathlib, sys
lives = pathlib.Path({str(tmp_path / "lives")!r})
lives.write_text(lives.read_text() + "x" if lives.exists() else "x")
sys.exit(len(lives.read_text()) <= {FAILURES + 2})
"""
    progress = lambda deaths: 10 * deaths if recovers == "the run goes on" else 0  # noqa: E731
    assert len(looks(kept(tmp_path, program), progress)) == FAILURES + 2


def test_one_that_dies_soon_waits_longer_each_time_though_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries.workers, "BACKOFF_S", 0.5)
    now = 0.0
    monkeypatch.setattr(binaries.workers, "time", types.SimpleNamespace(monotonic=lambda: now))
    one, waits = kept(tmp_path, "import sys; sys.exit('again')"), []
    while len(waits) < 3:
        if one.look(progress=10 + len(waits)) is not None:
            waits.append(one._start_at - now)
            now = one._start_at
        time.sleep(0.02)
    assert waits == [0.5, 1.0, 2.0]


def test_they_are_shown_as_one_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"port": 0, "shards": 1, "num_workers": 2, "output_dir": str(tmp_path), "quiet": False}
    workers = Workers(Command({}, Experiment(train_steps=1_000), flags))
    workers._show(Status())
    now = {"env_steps": 500, "updates": 250, "episode_return": 20.0, "seconds_left": 20.0}
    (tmp_path / "progress.json").write_text(
        json.dumps(now | {"env_steps_per_second": 25.0, "updates_per_second": 12.5})
    )
    workers._show(Status())
    assert capsys.readouterr().out == (
        "starting: 0 processes\n"
        "500 of 1,000 steps | 250 updates | return 20.0 | 25 steps/s | 12 updates/s | 0:00:20 left"
        " | 0 processes, 0 restarts\n"
    )


def test_what_its_processes_refuse_is_said_as_by_one_process_and_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    refused = ["--hparams=ppo_cartpole", "--hparam_override=PPO.batch_size=7", f"--output_dir={folder}", "--quiet"]
    alone, several = (run("binaries.train", *refused, f"--num_workers={count}") for count in (1, 2))
    assert alone.code == 2
    assert re.fullmatch(r"train: batch_size is 7: .*\n", alone.stderr)
    assert several == alone
    assert not folder.exists()


@pytest.mark.parametrize(
    ("exists", "begun", "stays"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_a_folder_that_was_there_or_holds_a_run_stays(
    exists: bool, begun: bool, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def refuse(workers: Workers) -> bool:
        workers._lock.take()
        if begun:
            (folder / "progress.json").write_text('{"env_steps": 1, "updates": 0}')
        raise UserError("no")

    monkeypatch.setattr(Workers, "run", refuse)
    monkeypatch.setattr(binaries.workers.network, "separate", lambda flags: "")
    if exists:
        folder.mkdir()
    flags = {"port": 0, "shards": 1, "num_workers": 2, "output_dir": str(folder), "quiet": True, "training": True}
    with pytest.raises(UserError, match="no"):
        binaries.workers.run(Command({}, Experiment(environment="CartPole-v1"), flags))
    assert folder.exists() == stays
