"""The exported policy, loaded by plain TensorFlow in a process that knows nothing of Encore."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from binaries import export
from binaries.experiment import Parts
from tests.binaries.programs import environment, run
from tests.configs.test_conformance import parts_of

LOADER = """
import json, sys
import numpy as np, tensorflow as tf
states = np.array(json.loads(sys.stdin.read()), np.float32)
policy = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
(name, spec), = policy.structured_input_signature[1].items()
action = policy(**{name: tf.constant(states)})["action"].numpy()
print(json.dumps({"name": name, "shape": spec.shape.as_list(), "dtype": spec.dtype.name, "action": action.tolist()}))
"""


def in_a_fresh_process(model: Path, states: np.ndarray) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-c", LOADER, str(model)],
        input=json.dumps(states.tolist()),
        capture_output=True,
        text=True,
        cwd=model.parent,
        env={k: v for k, v in environment().items() if k != "PYTHONPATH"},
        check=True,
    )
    return json.loads(ended.stdout.splitlines()[-1])


def check(parts: Parts, model: Path) -> np.ndarray:
    """Holds the SavedModel's actions, which it returns, against those of the agent without exploration."""
    spec = parts.environment.observation_spec
    states = np.random.default_rng(0).normal(size=[50, *spec.shape]).astype(np.float32)
    found = in_a_fresh_process(model, states)
    assert (found["name"], found["shape"], found["dtype"]) == ("observation", [None, *spec.shape], "float32")
    params = parts.agent.learner.params
    core = parts.algo.initial_core(params, np.zeros(50))
    action, _, _ = parts.algo.select_action(params, states, core, tf.zeros([2], tf.int32), training=False)
    np.testing.assert_allclose(found["action"], np.asarray(action), rtol=1e-5, atol=1e-5)
    return np.asarray(action)


@pytest.mark.parametrize("hparams", ["noisy_dqn_cartpole", "ddpg_pendulum"])
def test_a_fresh_process_gets_the_agents_actions(hparams: str, tmp_path: Path) -> None:
    with parts_of(hparams, "inline_without_xla", tmp_path / "replay") as (_, parts):
        # Weights with which states make a difference.
        rng = np.random.default_rng(1)
        for model in parts.agent.learner.params.online.values():
            model.set_weights([rng.normal(size=w.shape, scale=0.3) for w in model.get_weights()])
        export.save(parts, tmp_path / "model")
        assert len(np.unique(check(parts, tmp_path / "model"))) > 1


def test_a_run_is_exported_from_its_newest_checkpoint_or_from_its_best_network(tmp_path: Path) -> None:
    folder, model = tmp_path / "run", tmp_path / "model"
    overrides = ["Learner.xla=False", "PPO.normalize_observations=True"]
    flags = ["--hparams=ppo_cartpole", "--train_steps=1100", "--eval_episodes=1", "--test_episodes=1"]
    flags += [f"--hparam_override={text}" for text in overrides]
    trained = run("binaries.train", f"--output_dir={folder}", *flags)
    assert trained.code == 0, trained.stderr
    ended = run("binaries.export", f"--output_dir={folder}", f"--to={model}")
    assert (ended.code, ended.stderr) == (0, ""), ended.stderr
    unit = max((folder / "checkpoints").glob("step-*"))
    with parts_of("ppo_cartpole", "inline_without_xla", tmp_path / "replay", *overrides[1:]) as (_, parts):
        parts.checkpoint().read(str(unit / "learner")).expect_partial()
        check(parts, model)
        # Its only evaluation was that of the newest.
        shutil.rmtree(folder / "checkpoints")
        ended = run("binaries.export", f"--output_dir={folder}", f"--to={tmp_path / 'best'}", "--best")
        assert ended.code == 0, ended.stderr
        check(parts, tmp_path / "best")


def test_what_cannot_be_exported_is_one_sentence(tmp_path: Path) -> None:
    for arguments, sentence in (
        ([], "Name the run's folder and the SavedModel's"),
        ([f"--output_dir={tmp_path}", f"--to={tmp_path}"], "exists already: name a new folder"),
        ([f"--output_dir={tmp_path}", f"--to={tmp_path / 'model'}"], "holds no run"),
    ):
        ended = run("binaries.export", *arguments)
        assert ended.code == 2
        assert sentence in ended.stderr
        assert ended.stderr.count("\n") == 1
