"""A run of several processes goes on and solves its task, whoever is killed or stopped: real signals."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.binaries.programs import running
from tests.binaries.test_served import processes_of
from tests.binaries.units import results

ACTORS, LANES = 4, 4
LEARNT = 200.0
"""ten times what an untrained agent reaches; one of five such runs does not solve the task without kills either"""
PAUSE_S = 10.0
"""between two faults, for the processes to find each other again"""
STARTUP_S = 240.0
FROZEN_S = 30.0
TEN_MINUTES = 600.0
SEEN_OF_ONE_THAT_STOOD_STILL = {
    "learner": ("learner", "stood still"),
    "replay_0": ("learner", "waited for a replay server"),
    "actor_1": ("actor_1", "fell silent"),
}


def command(folder: Path, steps: int, shards: int = 1) -> list[str]:
    # As many lanes as one process has: with more of them each plays too few episodes to the end.
    overrides = f"Experiment.lanes={LANES};Experiment.checkpoint_period=5;Experiment.replay_checkpoint_period=10"
    return [
        "--hparams=dqn_cartpole",
        f"--train_steps={steps}",
        f"--num_workers={ACTORS}",
        f"--shards={shards}",
        "--eval_episodes=5",
        "--test_episodes=20",
        f"--hparam_override={overrides}",
        f"--output_dir={folder}",
    ]


def process(folder: Path, name: str) -> psutil.Process | None:
    """The run's process 'actor_0', 'learner' ...; None while there is none."""
    program, _, number = name.partition("_")
    module = {"replay": "binaries.replay_server"}.get(program, f"binaries.{program}")
    # An actor knows no folder: it is a child of the process that does.
    parents = [p for p in processes_of(folder) if "binaries.train" in words(p)]
    for child in (c for parent in parents for c in parent.children()):
        said = words(child)
        own = {"actor": f"--actor_id={number}", "replay": f"--checkpoint_dir={folder}/replay_{number}"}.get(program, "")
        if module in said and (not own or own in said):
            return child
    return None


def words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def progress(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((folder / "progress.json").read_text())
    return {"env_steps": 0, "updates": 0}


def wait_until(reached: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds:.0f} s"
        time.sleep(0.2)


def goes_on(folder: Path, what: str) -> None:
    """Waits until the run has acted and learnt more than now."""
    before = progress(folder)
    wait_until(lambda: progress(folder)["updates"] > before["updates"] + 50, STARTUP_S, f"More learning after {what}")
    wait_until(lambda: progress(folder)["env_steps"] > before["env_steps"], STARTUP_S, f"More acting after {what}")


def faults(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "faults.jsonl").read_text().splitlines()]


def killed(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """How often the run says that each was killed; nobody died in another way."""
    found = faults(folder)
    assert not any("ended with" in fault["fault"] for fault in found), found
    deaths = [fault["process"] for fault in found if fault["fault"] == "killed by SIGKILL"]
    return {name: deaths.count(name) for name in names}


def check_the_end(folder: Path, kills: dict[str, int], steps: int, learnt: bool = True) -> None:
    """That it learnt and made `steps` steps, every kill is counted, in the report too, and no process is left."""
    last = results(folder)[-1]
    assert last["kind"] == "test"
    assert not learnt or last["mean_return"] >= LEARNT
    assert steps - LANES < last["env_steps"] <= steps
    evaluated = [result["env_steps"] for result in results(folder) if result["kind"] == "eval"]
    assert evaluated == sorted(set(evaluated)), "Results of weights that were lost are among them."
    assert killed(folder, kills) == kills
    assert "killed by SIGKILL" in (folder / "report.html").read_text()
    assert not processes_of(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everyone_is_killed_in_turn_and_it_learns(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kills: dict[str, int] = dict.fromkeys(("actor_0", "learner", "replay_0", "evaluator", "actor_3"), 1)
    with running("binaries.train", *command(folder, 50_000)) as train:
        wait_until(lambda: progress(folder)["updates"] > 200, STARTUP_S, "The beginning of learning")
        for name in kills:
            wait_until(lambda name=name: process(folder, name), 60.0, name)
            victim = process(folder, name)
            assert victim is not None
            victim.kill()
            goes_on(folder, f"the death of {name}")
        train.read_rest()
        assert train.process.wait() == 0, train.text
    check_the_end(folder, kills, 50_000)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_ten_minutes_of_random_kills(tmp_path: Path) -> None:
    folder, seed = tmp_path / "run", random.randrange(2**31)
    choice = random.Random(seed)
    names = [*(f"actor_{actor}" for actor in range(ACTORS)), "learner", "replay_0", "evaluator"]
    kills = dict.fromkeys(names, 0)
    # As many steps as last for longer than the killing.
    with running("binaries.train", *command(folder, 10_000_000)) as train:
        wait_until(lambda: progress(folder)["updates"] > 200, STARTUP_S, "The beginning of learning")
        begun = time.monotonic()
        while time.monotonic() - begun < TEN_MINUTES:
            name = choice.choice(names)
            victim = process(folder, name)
            if victim is not None:
                victim.kill()
                kills[name] += 1
                # Until it is gone the next turn may find it once more.
                victim.wait(STARTUP_S)
            time.sleep(choice.uniform(0.0, 2 * PAUSE_S))
        assert train.process.poll() is None, f"seed {seed}: {train.read_rest() or train.text}"
        goes_on(folder, f"ten minutes of kills (seed {seed})")
        steps = progress(folder)["env_steps"]
        train.process.send_signal(signal.SIGTERM)
        train.read_rest()
        assert train.process.wait() == 0, train.text
    assert not processes_of(folder)
    assert killed(folder, names) == kills
    # The same command finishes, with the smaller and smaller steps of a training's end.
    with running("binaries.train", *command(folder, steps * 5 // 4)) as train:
        train.read_rest()
        assert train.process.wait() == 0, train.text
    check_the_end(folder, kills, steps * 5 // 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["learner", "replay_0", "actor_1"])
def test_a_process_that_stands_still_for_a_while_is_waited_for_in_words(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    with running("binaries.train", *command(folder, 15_000)) as train:
        wait_until(lambda: progress(folder)["updates"] > 200, STARTUP_S, "The beginning of learning")
        victim = process(folder, name)
        assert victim is not None
        victim.suspend()
        time.sleep(FROZEN_S)
        victim.resume()
        goes_on(folder, f"30 s of silence of {name}")
        train.read_rest()
        assert train.process.wait() == 0, train.text
    found = [(fault["process"], fault["fault"]) for fault in faults(folder)]
    assert SEEN_OF_ONE_THAT_STOOD_STILL[name] in found
    assert not any("killed" in how or "ended" in how for _, how in found), "Who stands still is waited for, not killed."
    said = {path.stem: path.read_text() for path in (folder / "logs").glob("*.log")}
    if name == "replay_0":
        assert "the replay server" in said["learner"]
    if name == "learner":
        assert any("waits for the learner" in said[f"actor_{actor}"] for actor in range(ACTORS))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_of_two_replay_servers_either_may_die(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kills = {"replay_0": 1, "replay_1": 1}
    with running("binaries.train", *command(folder, 20_000, shards=2)) as train:
        wait_until(lambda: progress(folder)["updates"] > 200, STARTUP_S, "The beginning of learning")
        for name in kills:
            victim = process(folder, name)
            assert victim is not None
            victim.kill()
            goes_on(folder, f"the death of {name}")
            time.sleep(PAUSE_S)
        train.read_rest()
        assert train.process.wait() == 0, train.text
    check_the_end(folder, kills, 20_000, learnt=False)
    assert "The learner reads from " in (folder / "logs" / "learner.log").read_text()
