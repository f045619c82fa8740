"""Every kind of space does what docs/worlds.md says: it is served to the end, or refused before anything starts."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dm_env.specs as specs
import numpy as np
import pytest
import tensorflow as tf
import tree

from agents.algos.algo import Algo
from agents.algos.registry import ALGOS
from binaries import export, settings
from binaries.experiment import Plan
from pipeline.envs import make as making
from pipeline.envs.closing import close
from pipeline.envs.environment import Environment, action_kind
from pipeline.index import ROOT
from pipeline.types import UserError
from tests.binaries import programs
from tests.binaries.odd_spaces import space

STATES, ACTIONS = "states", "actions"
SMALL = {
    "dqn": ("DQN.replay_size=500", "DQN.min_replay_size=32", "DQN.batch_size=8"),
    "ddpg": ("DDPG.replay_size=500", "DDPG.min_replay_size=32", "DDPG.batch_size=8", "DDPG.random_steps=16"),
    "ppo": ("PPO.rollout_length=8", "PPO.batch_size=16", "PPO.epochs=1"),
    "vpg": (),
    "tf_agents_dqn": ("TFAgentsDQN.replay_size=500", "TFAgentsDQN.min_replay_size=32", "TFAgentsDQN.batch_size=8"),
    "tf_agents_ppo": ("TFAgentsPPO.rollout_length=8", "TFAgentsPPO.batch_size=16", "TFAgentsPPO.epochs=1"),
    "tf_agents_sac": ("TFAgentsSAC.min_replay_size=32", "TFAgentsSAC.random_steps=16", "TFAgentsSAC.batch_size=8"),
    "tf_agents_td3": ("TFAgentsTD3.min_replay_size=32", "TFAgentsTD3.random_steps=16", "TFAgentsTD3.batch_size=8"),
}
"""by algorithm, what makes its first update come soon"""
QUICK = ("Experiment.lanes=2", "Experiment.eval_episodes=2", "Learner.updates_per_call=2", "Learner.xla=False")
OF_STATES = {"all": tuple(SMALL), "none": (), "not tf-agents": tuple(n for n in SMALL if "tf_agents" not in n)}
"""what the table says of states: which algorithms learn from them"""


class Row(NamedTuple):
    """A line of the table of spaces."""

    text: str
    states: tuple[str, ...]
    """algorithms that learn from such states"""
    actions: tuple[str, ...]
    """algorithms that act so"""


def table() -> list[Row]:
    """That of docs/worlds.md."""
    lines = re.findall(r"^\| `(.+)` \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/worlds.md").read_text(), re.MULTILINE)
    return [
        Row(
            text,
            OF_STATES[of_states.partition(":")[0]],
            tuple(n for n in re.findall(r"\w+", of_actions.partition(":")[0]) if n != "none"),
        )
        for text, of_states, of_actions in lines
        if re.match(r"[A-Z]\w*\(", text)
    ]


ROWS = table()


def prepare(role: str, text: str, algo: str, continuous: bool = False, more: Sequence[str] = ()) -> str:
    """Applies the settings of `algo`, and `more`, in a world with the space `text`; returns the world's name."""
    name = "tests.binaries.odd_spaces:World"
    options = {role: text}
    if continuous and role == STATES:
        options[ACTIONS] = "Box(-1, 1, (2,))"
    hparams = {"dqn": "dqn_cartpole_uniform", "ddpg": "ddpg_pendulum", "ppo": "ppo_cartpole", "vpg": "vpg_cartpole"}
    overrides = [
        f"Experiment.environment='{name}'",
        f"Experiment.algo='{algo}'",
        f"EnvironmentClass.options={options}",
        *SMALL[algo],
        *QUICK,
        *more,
    ]
    if algo == "ddpg" and action_kind_of(options.get(ACTIONS, "Discrete(2)")) == "discrete":
        overrides.append("DDPG.act_select='epsilon'")
    settings.apply(settings.read(hparams.get(algo, "tf_agents_dqn_cartpole"), overrides, {}))
    return name


def action_kind_of(text: str) -> str:
    made = space(text)
    return "discrete" if type(made).__name__ == "Discrete" else type(made).__name__


def check(role: str, text: str, algo: str) -> None:
    """What `train` does of it before it starts anything: raises UserError where it refuses."""
    needs_reals = algo in ("tf_agents_sac", "tf_agents_td3", "ddpg")
    environment = making.make(prepare(role, text, algo, needs_reals))
    try:
        making.check_begins(environment)
        made: Algo = ALGOS.get(algo)()
        kind = action_kind(environment.action_spec)
        if kind not in made.action_kinds:
            raise UserError(f"{kind} actions are not served.")
        made.check(environment.observation_spec, environment.action_spec)
    finally:
        close(environment)


def accepted(role: str, text: str) -> tuple[str, ...]:
    """The algorithms that do not refuse it."""
    found = []
    for algo in SMALL:
        with contextlib.suppress(UserError):
            check(role, text, algo)
            found.append(algo)
    return tuple(found)


def test_the_table_has_every_kind_of_space() -> None:
    kinds = "Discrete MultiDiscrete MultiBinary Box Dict Tuple Text Sequence Graph OneOf"
    said = {kind for row in ROWS for kind in re.findall(r"\b([A-Z]\w+)\(", row.text)}
    assert said == set(kinds.split())
    dtypes = {dtype for row in ROWS for dtype in re.findall(r"np\.(\w+\d+)", row.text)}
    whole = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    assert dtypes == whole | {"float16", "float32", "float64"}


@pytest.mark.parametrize("row", ROWS, ids=[row.text for row in ROWS])
def test_what_is_accepted_is_what_the_table_says(row: Row) -> None:
    assert accepted(STATES, row.text) == row.states
    assert set(accepted(ACTIONS, row.text)) == set(row.actions)


def serve(role: str, text: str, algo: str, folder: Path) -> None:
    """Trains two calls of the learner, evaluates, exports, and calls what was exported with the world's own states."""
    name = prepare(role, text, algo, algo in ("tf_agents_sac", "tf_agents_td3"))
    parts = Plan("local").build(folder / "replay")
    try:
        agent, environment = parts.agent, parts.environment
        state: Any = environment.reset(0)
        calls = 0
        while calls < 2:
            assert agent.actor.env_steps < 2_000
            last_state = state
            action = agent.act(state)
            state, reward, done = environment.step(action)
            agent.observe(last_state, action, reward, done, state)
            if agent.update():
                calls += 1
                assert np.isfinite(list(agent.metrics.values())).all(), agent.metrics
        for evaluator in parts.evaluators.values():
            assert (evaluator.run(0) == 8.0).all()
        assert not parts.crashes.count
        one: Any = making.make(name)
        inputs, outputs = export.save(parts.algo, agent.learner.params, one, folder / "policy")
    finally:
        parts.close()
    world = one._environment
    policy = tf.saved_model.load(str(folder / "policy")).signatures["serving_default"]  # pyright: ignore
    samples = [world.observation_space.sample() for _ in range(3)]
    given = {port.name: np.stack([at(sample, port.path) for sample in samples]) for port in inputs}
    acted = policy(**{port.name: tf.constant(given[port.name], port.own.dtype) for port in inputs})
    (port,) = outputs
    for action in acted[port.name].numpy():
        assert world.action_space.contains(action[()]), action


def at(state: Any, path: tuple[Any, ...]) -> np.ndarray:
    for part in path:
        state = state[part]
    return np.asarray(state)


SERVED = [
    *((STATES, row.text, algo) for row in ROWS for algo in row.states),
    *((ACTIONS, row.text, algo) for row in ROWS for algo in row.actions),
]
ODD = [
    (STATES, "Box(-1, 1, (), np.float32)", "dqn"),
    (STATES, "Box(-1, 1, (3,), np.float16)", "dqn"),
    (STATES, "Box(0, 9, (2,), np.uint64)", "dqn"),
    (STATES, "Dict({'none': Box(-1, 1, (0,)), 'my key': Discrete(3), 'a/b': MultiBinary(2)})", "dqn"),
    (ACTIONS, "Box(-2, 2, (2, 3), np.float32)", "ddpg"),
    (ACTIONS, "Box(-2, 2, (), np.float32)", "tf_agents_td3"),
    (ACTIONS, "MultiDiscrete([3, 4], start=[1, -2])", "ppo"),
]
"""the quick ones"""


@pytest.mark.parametrize(("role", "text", "algo"), ODD)
def test_what_is_odd_is_served(role: str, text: str, algo: str, tmp_path: Path) -> None:
    assert (role, text, algo) in SERVED
    serve(role, text, algo, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "text", "algo"), [case for case in SERVED if case not in ODD])
def test_what_is_accepted_is_served(role: str, text: str, algo: str, tmp_path: Path) -> None:
    serve(role, text, algo, tmp_path)


class Bare(Environment):
    """One of our own API, whose specs a test sets."""

    observation_spec: Any = specs.Array((2,), np.float32)
    action_spec: Any = specs.DiscreteArray(2, np.int32)

    def _begin(self, seed: int | None) -> Any:
        return np.zeros(2, np.float32)

    def _advance(self, action: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("observation_spec", {}, r"states without numbers \(nothing at all\)"),
        ("observation_spec", specs.Array((0,), np.float32), r"states without numbers \(float32 \[0\]\)"),
        ("observation_spec", (specs.Array((2, 0), np.int32),), r"states without numbers \(int32 \[2, 0\]\)"),
        ("observation_spec", specs.Array((2,), np.float16), r"observation_spec .*float16.*: use np\.float32"),
        ("action_spec", {}, r"actions without numbers \(nothing at all\)"),
        ("action_spec", specs.BoundedArray((0,), np.float32, -1, 1), r"actions without numbers \(float32 \[0\]\)"),
        ("action_spec", specs.BoundedArray((2,), np.float16, -1, 1), r"action_spec .*float16.*: use np\.float32"),
        ("action_spec", specs.BoundedArray((2,), np.float64, -1, 1), r"action_spec .*float64.*: use np\.float32"),
    ],
)
def test_specs_of_an_environment_of_our_own_api_are_refused_in_a_sentence(
    kind: str, spec: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tree.flatten(Bare.action_spec)
    monkeypatch.setattr(Bare, kind, spec)
    with pytest.raises(UserError, match=said):
        making.make("tests.binaries.test_spaces:Bare")


@pytest.mark.parametrize("more", [[], ["--num_workers=2"]])
def test_what_is_refused_leaves_no_folder(more: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (done,) = programs.rejected(
        [
            [
                "--hparams=ppo_cartpole",
                "--env=tests.binaries.odd_spaces:World",
                "--hparam_override=EnvironmentClass.options={'states': 'Box(-1, 1, (0,))'}",
                f"--output_dir={folder}",
                *more,
            ]
        ]
    )
    assert done["code"] == 2
    assert done["stderr"] == (
        "train: 'tests.binaries.odd_spaces:World' has states without numbers (float32 [0]), and agents need one:"
        " a constant will do.\n"
    )
    assert not folder.exists()
