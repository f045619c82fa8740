"""Every command of docs/running.md runs, in the order of the page, with fewer steps."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import environment
from tests.limits import LIMIT_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
PAGE = (ROOT / "docs" / "running.md").read_text()
COMMANDS = re.findall(r"(?m)^    (\./run .*)$", PAGE)
SETTINGS = {
    "dqn_cartpole": "DQN.min_replay_size=100;Experiment.lanes=4;Epsilon.decay_steps=300;Learner.xla=False",
    "ppo_cartpole": "Experiment.lanes=4;PPO.rollout_length=64;Learner.xla=False",
}


def quick(words: list[str], folder: Path) -> list[str]:
    """The command with folders of the test's own, and as short as it can be."""
    words = [word.replace("/tmp/", f"{folder}/") for word in words]
    if words[1] != "train":
        return words
    steps = 400 if any("train_steps" in word for word in words) else 300
    hparams = next(word.partition("=")[2] for word in words if word.startswith("--hparams="))
    words += [f"--train_steps={steps}", "--eval_episodes=1", "--test_episodes=2"]
    # The page's own settings come last.
    words.insert(2, f"--hparam_override={SETTINGS[hparams]}")
    words = [re.sub("--copies=.*", "--copies=2", word) for word in words]
    return [re.sub("--profile=.*", "--profile=150:200", word) for word in words]


def run(command: str, folder: Path) -> str:
    """Runs a command of the page to its end; returns what it said."""
    words = quick(shlex.split(command), folder)
    ended = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def check_tensorboard(command: str, folder: Path) -> None:
    """It serves its page, and the runs in the folder."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    words = [*quick(shlex.split(command), folder), f"--port={port}"]
    said = folder / "tensorboard.log"
    with said.open("w") as output:
        server = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                with urllib.request.urlopen(f"http://localhost:{port}/data/runs", timeout=10) as answer:
                    runs = json.loads(answer.read())
                if {"train", "eval"} <= set(runs):
                    # Where it serves, and no word of TensorFlow.
                    assert [line.split()[0] for line in said.read_text().splitlines()] == ["Serving", "TensorBoard"]
                    return
            except OSError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        server.kill()
        server.wait()


@pytest.mark.timeout(600)
def test_the_commands_of_the_page(tmp_path: Path) -> None:
    assert len(COMMANDS) == 15
    assert "DISPLAY" not in os.environ
    said = {}
    for command in COMMANDS:
        if "tensorboard" in command:
            check_tensorboard(command, tmp_path)
        else:
            said[command] = run(command, tmp_path)
    # What the page promises, beyond an end without errors; each command's own tests are elsewhere.
    assert "Resuming at " in said[COMMANDS[1]]
    assert list((tmp_path / "profiled/train/plugins/profile").glob("*/*.xplane.pb"))
    assert list((tmp_path / "recorded/videos").glob("test-*.mp4"))
    assert list((tmp_path / "cartpole/videos").glob("test-*.mp4"))
    assert (tmp_path / "compared/report.html").exists()
    assert (tmp_path / "policy/saved_model.pb").exists()
    fields = set(re.findall(r"`(\w+)`", PAGE.partition("| `kind`")[2].partition("\n\n")[0])) | {"kind"}
    result = json.loads((tmp_path / "sampled/results.jsonl").read_text().splitlines()[-1])
    assert set(result) == fields - {"eval", "test", "greedy", "sampled"}
    progress = tmp_path / "copies/run_0/progress.json"
    assert not progress.exists() or set(json.loads(progress.read_text())) <= set(re.findall(r"`(\w+)`", PAGE))
