"""The exported policy, loaded by plain TensorFlow in a process that knows nothing of Encore."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
import tree
from gymnasium import spaces

from agents.algos.algo import networks
from agents.algos.registry import ALGOS
from binaries import export
from binaries.experiment import Parts
from pipeline.envs.gym import GymAdapter
from pipeline.envs.make import make
from pipeline.envs.wrappers.wrapper import Wrapper
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
        world = make(parts.experiment.environment)
        export.save(parts.algo, parts.agent.learner.params, world, tmp_path / "model")
        assert len(np.unique(check(parts, tmp_path / "model"))) > 1


VECTOR = spaces.Box(-1, 1, (3,), np.float32)
TWO = spaces.Discrete(2)
STATES = {
    "float64": spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "start": spaces.Discrete(4, start=10),
    "multi-start": spaces.MultiDiscrete([3, 4], start=[1, -2]),
    "multi-binary": spaces.MultiBinary([2, 3]),
    "bytes": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "int64": spaces.Box(-5, 5, (2,), np.int64),
    "tuple": spaces.Tuple((spaces.Discrete(3, start=-3), VECTOR)),
    "keys": spaces.Dict({"agent pos": VECTOR, "agent_pos": TWO, "rgb/front": TWO, "é": TWO, "è": TWO, "": TWO}),
    "case": spaces.Dict({"A": TWO, "a": VECTOR}),
    "nested": spaces.Dict({"x": spaces.Dict({"b": VECTOR, "a": spaces.Tuple((TWO, TWO))}), "x_b": VECTOR}),
}
ACTIONS = {
    "start": spaces.Discrete(3, start=-1),
    "multi-start": spaces.MultiDiscrete([3, 4], start=[1, -2]),
    "multi-matrix": spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
    "narrow": spaces.Box(0.2, 0.3, (2,), np.float32),
    "narrow float64": spaces.Box(0.2, 0.3, (2,), np.float64),
    "scalar": spaces.Box(5, 6, (), np.float32),
    "matrix": spaces.Box(-2, 2, (2, 3), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "half": spaces.Box(3, np.inf, (2,), np.float32),
    "one value": spaces.Box(np.array([-1, 7], np.float32), np.array([1, 7], np.float32)),
}


class World(gymnasium.Env):
    """Gives samples of the space of states, one after the other."""

    def __init__(self, states: spaces.Space, actions: spaces.Space):
        self.observation_space, self.action_space = states, actions
        states.seed(0)
        self.states = [states.sample() for _ in range(20)]
        self.given: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.states[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.given.append(action)
        return self.states[len(self.given) % len(self.states)], 0.0, False, False, {}


@pytest.mark.parametrize(
    ("algo", "states", "actions"),
    [
        *[("dqn", space, TWO) for space in STATES.values()],
        *[("ppo", VECTOR, space) for space in ACTIONS.values()],
        *[("ddpg", VECTOR, ACTIONS[name]) for name in ("start", "narrow float64", "scalar", "matrix", "one value")],
        ("tf_agents_sac", STATES["float64"], ACTIONS["narrow"]),
        ("tf_agents_dqn", STATES["start"], ACTIONS["start"]),
    ],
    ids=[
        *[f"dqn, states {name}" for name in STATES],
        *[f"ppo, actions {name}" for name in ACTIONS],
        *[f"ddpg, actions {name}" for name in ("start", "narrow float64", "scalar", "matrix", "one value")],
        "tf_agents_sac",
        "tf_agents_dqn",
    ],
)
def test_the_environments_own_states_give_its_own_actions(
    algo: str, states: spaces.Space, actions: spaces.Space, tmp_path: Path
) -> None:
    """The actions that the environment gets in training are those of the SavedModel, which knows nothing of Encore."""
    world = World(states, actions)
    environment = Wrapper(GymAdapter("World", world, lambda: world))
    agent = ALGOS.get(algo)()
    params = networks(agent, environment.observation_spec, environment.action_spec)
    rng = np.random.default_rng(1)
    for model in params.online.values():
        model.set_weights([rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()])
    inputs, _ = export.save(agent, params, environment, tmp_path / "model")
    policy = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    dtypes = {name: spec.dtype.as_numpy_dtype for name, spec in policy.structured_input_signature[1].items()}
    named = {port.name: [_part(state, port.path) for state in world.states] for port in inputs}
    found = policy(**{name: tf.constant(np.array(values, dtypes[name])) for name, values in named.items()})["action"]
    seen = environment.reset()
    for action in found.numpy():
        assert actions.contains(action), action
        batch = tree.map_structure(lambda leaf: leaf[None], seen)
        core = agent.initial_core(params, np.zeros(1))
        ours, _, _ = agent.select_action(params, batch, core, tf.zeros([2], tf.int32), training=False)
        seen, _, _ = environment.step(ours[0].numpy())
        np.testing.assert_allclose(world.given[-1], action, rtol=1e-4)


def _part(state: Any, path: tuple[Any, ...]) -> Any:
    for place in path:
        state = state[place]
    return state


def test_an_inputs_name_is_the_keys_where_that_can_be() -> None:
    for texts, names in (
        (["observation"], ["observation"]),
        (["observation_agent pos", "observation_agent_pos"], ["observation_agent_pos_2", "observation_agent_pos"]),
        (["observation_é", "observation_è"], ["observation__", "observation___2"]),
        (["observation_A", "observation_a"], ["observation_A", "observation_a_2"]),
    ):
        assert export.unique_names(texts) == names


def test_what_is_not_finite_gives_an_error_in_place_of_an_action(tmp_path: Path) -> None:
    environment = make("CartPole-v1")
    algo = ALGOS.get("dqn")()
    params = networks(algo, environment.observation_spec, environment.action_spec)
    export.save(algo, params, environment, tmp_path / "model")
    policy: Any = tf.saved_model.load(str(tmp_path / "model"))
    act = policy.signatures["serving_default"]
    assert act(observation=tf.ones([2, 4]))["action"].shape == [2]
    with pytest.raises(tf.errors.InvalidArgumentError, match="chooses actions from is not finite"):
        act(observation=tf.constant([[0.0] * 4, [np.inf] * 4]))


def test_code_in_the_runs_own_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, mark = tmp_path / "sent", tmp_path / "mark"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w')\n")
    # As in the folder that someone works in.
    monkeypatch.syspath_prepend(tmp_path)
    for flags in ({"env": "sent.code:Env"}, {"import": ["sent.code"]}):
        record = {"flags": {"hparams": "dqn_cartpole", **flags}, "settings": {}}
        (folder / "run.json").write_text(json.dumps(record))
        ended = run("binaries.export", f"--output_dir={folder}", f"--to={tmp_path / 'out'}")
        assert (ended.code, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
        assert "'sent.code' lies in the run's own folder" in ended.stderr
    assert not mark.exists()


def read_only(folder: Path) -> list[str]:
    """The words of a program that runs another one, which can only read `folder`."""
    if os.geteuid():
        # What it holds is not written to by anyone who only reads.
        folder.chmod(0o555)
        return []
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(folder)]


@pytest.mark.slow
def test_a_run_is_exported_from_its_newest_checkpoint_or_from_its_best_network(tmp_path: Path) -> None:
    folder, model = tmp_path / "run", tmp_path / "model"
    overrides = ["Learner.xla=False", "PPO.normalize_observations=True"]
    flags = ["--hparams=ppo_cartpole", "--train_steps=1100", "--eval_episodes=1", "--test_episodes=1"]
    flags += [f"--hparam_override={text}" for text in overrides]
    trained = run("binaries.train", f"--output_dir={folder}", *flags)
    assert trained.code == 0, trained.stderr
    ended = run("binaries.export", f"--output_dir={folder}", f"--to={model}", inside=read_only(folder))
    assert (ended.code, ended.stderr) == (0, ""), ended.stderr
    unit = max((folder / "checkpoints").glob("step-*"))
    with parts_of("ppo_cartpole", "inline_without_xla", tmp_path / "replay", *overrides[1:]) as (_, parts):
        parts.agent.learner.read(unit / "learner")
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
