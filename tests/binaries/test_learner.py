"""The learner as a process of its own, reading from a replay server that another process writes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.index import ROOT
from servers.checkpoint import Checkpoints

OVERRIDES = ["DQN.min_replay_size = 100", "Learner.updates_per_call = 8", "Experiment.lanes = 8"]

ACTOR = """
import sys
from pathlib import Path
from binaries import settings
from binaries.experiment import Plan
settings.apply(settings.read("dqn_cartpole", sys.argv[2:], {}))
parts = Plan("local").build(Path(sys.argv[1]))
print(parts.server.port, flush=True)
agent, environment, state = parts.agent, parts.environment, parts.environment.reset(0)
while agent.actor.env_steps < 1200:
    last_state, action = state, agent.act(state)
    state, reward, done = environment.step(action)
    agent.observe(last_state, action, reward, done, state)
agent.actor.flush()
print("written", flush=True)
sys.stdin.read()  # the server lives until the test has what it wants
"""


def command(port: int | str, folder: Path, *more: str) -> list[str]:
    overrides = [f"--hparam_override={text}" for text in OVERRIDES]
    program = [sys.executable, "-m", "binaries.learner", "--hparams=dqn_cartpole", "--train_steps=1000"]
    return [*program, f"--replay=localhost:{port}", f"--output_dir={folder}", *overrides, *more]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_it_learns_from_another_process_and_saves(tmp_path: Path) -> None:
    actor = subprocess.Popen(
        [sys.executable, "-c", ACTOR, str(tmp_path / "scratch"), *OVERRIDES],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert actor.stdout is not None
    try:
        port = actor.stdout.readline().strip()
        assert actor.stdout.readline().strip() == "written"
        other = run(command(port, tmp_path / "other", "--hparam_override=DQN.n_step = 2"))
        assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
        assert "need the same hparams" in other.stderr
        done = run(command(port, tmp_path / "run"))
    finally:
        actor.communicate("")
    assert done.returncode == 0, done.stderr
    # One update a step past the first 100, in whole calls of 8.
    assert "896 updates" in done.stdout
    unit = Checkpoints(tmp_path / "run" / "checkpoints", kept=3, warn=pytest.fail).latest()
    assert unit is not None
    assert unit.step == 896


def test_no_server_is_one_sentence(tmp_path: Path) -> None:
    done = run(command(1, tmp_path / "run"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "No replay server answers at --replay=localhost:1" in done.stderr
    assert not (tmp_path / "run").exists()
