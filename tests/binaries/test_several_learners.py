"""Two learners that TF_CONFIG names work as one at a real replay server; where one dies the other ends in words."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from binaries.signals import STOPPED
from servers.checkpoint import Checkpoints
from servers.ports import free_ports
from tests.agents.test_several_learners import config
from tests.binaries.programs import Running, running
from tests.binaries.test_served import flags, replay_server
from tests.binaries.units import curve
from tests.faults.test_killed_processes import progress, wait_until
from tests.limits import LIMIT_S

SAVING = "--hparam_override=Experiment.checkpoint_period=2"


@contextlib.contextmanager
def two_learners(folder: Path, steps: int) -> Iterator[list[Running]]:
    """The chief and the other one, fed by an actor."""
    (port,), ports = free_ports(1), free_ports(2)
    at = f"--replay=localhost:{port}"
    with (
        contextlib.ExitStack() as stack,
        replay_server(folder / "replay", port, steps=steps),
        running("binaries.actor", *flags(at, steps=steps)),
    ):
        learner = flags(at, f"--output_dir={folder / 'run'}", SAVING, steps=steps)
        yield [
            stack.enter_context(
                running(
                    "binaries.learner", *flags(*learner, steps=steps), variables={"TF_CONFIG": config(index, ports)}
                )
            )
            for index in range(2)
        ]


def updates_of(text: str) -> str:
    return text.rpartition(": ")[0].rpartition(" updates.")[0].rpartition(" ")[2]


def learns(folder: Path) -> None:
    """Waits for more updates."""
    before = progress(folder)["updates"]
    wait_until(lambda: progress(folder)["updates"] > before, LIMIT_S, "More learning")


@pytest.mark.slow
def test_they_learn_together_and_the_chief_alone_writes(tmp_path: Path) -> None:
    with two_learners(tmp_path, steps=1_500) as (chief, other):
        for learner in (chief, other):
            learner.read_rest()
            assert learner.process.wait() == 0, learner.text
    assert "The training is done: " in chief.text
    assert updates_of(chief.text) == updates_of(other.text)
    unit = Checkpoints(tmp_path / "run" / "checkpoints", 3, warn=pytest.fail).latest()
    assert unit is not None
    assert unit.step >= 1_500
    # One update a window past the first 300, whoever drew it.
    updates = int(updates_of(chief.text).replace(",", ""))
    assert unit.step - 300 - 16 * 10 - 8 <= updates <= unit.step - 300
    assert len(list((tmp_path / "run" / "train").glob("events.*"))) == 1
    assert curve(tmp_path / "run", "learner/loss")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["chief", "other"])
def test_where_one_dies_the_other_ends_in_words_and_both_go_on_when_started_again(tmp_path: Path, victim: int) -> None:
    with two_learners(tmp_path, steps=1_000_000) as learners:
        wait_until(lambda: list((tmp_path / "run/checkpoints").glob("step-*/manifest.json")), LIMIT_S, "A checkpoint")
        learns(tmp_path / "run")
        learners[victim].process.kill()
        left = learners[1 - victim]
        assert left.process.wait(LIMIT_S) == 1
        left.read_rest()
        assert "all of them have to start again" in left.text
    with two_learners(tmp_path, steps=1_000_000) as learners:
        learners[0].read_until(lambda text: "Resuming at " in text)
        learns(tmp_path / "run")
        learners[1].process.send_signal(signal.SIGTERM)
        assert [learner.process.wait(LIMIT_S) for learner in learners] == [STOPPED, STOPPED]
