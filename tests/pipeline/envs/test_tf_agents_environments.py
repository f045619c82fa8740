"""tf-agents' environments as ours and ours as theirs: specs, endings, seeds, batches, drivers, and there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
import tensorflow as tf
import tree
from tf_agents.drivers.dynamic_step_driver import DynamicStepDriver
from tf_agents.drivers.py_driver import PyDriver
from tf_agents.environments import suite_gym
from tf_agents.environments.batched_py_environment import BatchedPyEnvironment
from tf_agents.environments.py_environment import PyEnvironment
from tf_agents.environments.tf_py_environment import TFPyEnvironment
from tf_agents.environments.utils import validate_py_environment
from tf_agents.policies.random_py_policy import RandomPyPolicy
from tf_agents.policies.random_tf_policy import RandomTFPolicy
from tf_agents.specs.array_spec import ArraySpec, BoundedArraySpec
from tf_agents.trajectories import time_step as ts

from pipeline.envs.environment import Done, Environment
from pipeline.envs.make import make
from pipeline.envs.scripted import Scripted
from pipeline.envs.tf_agents import FromPyEnvironment, to_py_environment
from pipeline.types import Nest, UserError

LINE: Any = ArraySpec((1,), np.float32)
NUMBER: Any = ArraySpec((), np.float32)


class Theirs(PyEnvironment):
    """Ends after two steps as `ending` has it, and remembers the actions it was given; the state counts the steps."""

    def __init__(
        self,
        ending: Callable[..., ts.TimeStep] = ts.termination,
        observation_spec: Any = LINE,
        action_spec: Any = LINE,
        reward_spec: Any = NUMBER,
    ):
        super().__init__(handle_auto_reset=True)
        self._ending = ending
        self._specs = observation_spec, action_spec, reward_spec
        self.actions: list[Any] = []

    def observation_spec(self) -> Any:
        return self._specs[0]

    def action_spec(self) -> Any:
        return self._specs[1]

    def reward_spec(self) -> Any:
        return self._specs[2]

    def _reset(self) -> ts.TimeStep:
        self._time = 0
        return ts.restart(np.zeros(1, np.float32))

    def _step(self, action: Any) -> ts.TimeStep:
        self.actions.append(action)
        self._time += 1
        state, reward = np.full(1, self._time, np.float32), 0.5
        return ts.transition(state, reward) if self._time < 2 else self._ending(state, reward)


class Nested(Environment):
    """States and actions of several parts."""

    def __init__(self) -> None:
        self.observation_spec = {"a": specs.BoundedArray((2,), np.float32, -1, np.inf), "b": (specs.DiscreteArray(3),)}
        self.action_spec = {"push": specs.BoundedArray((1,), np.float32, -1, 1), "choice": specs.DiscreteArray(2)}

    def _begin(self, seed: int | None) -> Nest:
        return {"a": np.zeros(2, np.float32), "b": (np.array(1, np.int32),)}

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        tree.map_structure(lambda spec, part: spec.validate(part), self.action_spec, action)
        return self._begin(None), 1.0, Done.TRUNCATED if action["choice"] else Done.NO


def assert_same(one: Nest, other: Nest) -> None:
    tree.assert_same_structure(one, other)
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        assert type(a) is type(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a == b


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (ArraySpec((), np.int64), specs.Array((), np.int32)),
        (
            BoundedArraySpec((2,), np.float64, -1.0, [1.0, np.inf]),
            specs.BoundedArray((2,), np.float32, -1, [1, np.inf]),
        ),
        (BoundedArraySpec((2,), np.float32), specs.BoundedArray((2,), np.float32, -np.inf, np.inf)),
        (BoundedArraySpec((), np.int64, 3, 5), specs.DiscreteArray(3, np.int32)),
        (
            {"a": [BoundedArraySpec((2,), np.int64, 0, [1, 2])]},
            {"a": (specs.BoundedArray((2,), np.int32, 0, [1, 2]),)},
        ),
    ],
    ids=["f64", "bounded", "without bounds", "an integer", "nested"],
)
def test_specs_of_actions_become_ours(theirs: Any, ours: Nest) -> None:
    environment = Theirs(action_spec=theirs)
    adapted = FromPyEnvironment(environment)
    assert_same(adapted.action_spec, ours)
    adapted.reset()
    adapted.step(tree.map_structure(lambda spec: np.ones(spec.shape, spec.dtype), ours))
    if not tree.is_nested(theirs):
        assert theirs.check_array(environment.actions[0])


@pytest.mark.parametrize(
    ("ending", "done"),
    [
        (ts.termination, Done.TERMINATED),
        (ts.truncation, Done.TRUNCATED),
        (lambda state, reward: ts.truncation(state, reward, 0.9), Done.TRUNCATED),
    ],
)
def test_endings_are_told_apart_and_final_states_are_kept(ending: Callable[..., ts.TimeStep], done: Done) -> None:
    environment = FromPyEnvironment(Theirs(ending))
    assert environment.reset() == 0
    results = [environment.step(np.zeros(1, np.float32)) for _ in range(4)]
    assert results == [(1, 0.5, Done.NO), (2, 0.5, done), (0, 0.0, Done.NO), (1, 0.5, Done.NO)]
    assert {type(reward) for _, reward, _ in results} == {float}


@pytest.mark.parametrize(("limit", "done", "steps"), [(500, Done.TERMINATED, range(8, 13)), (5, Done.TRUNCATED, [5])])
def test_suite_gym_says_how_an_episode_ended(limit: int, done: Done, steps: Any) -> None:
    environment = FromPyEnvironment(suite_gym.load("CartPole-v1", max_episode_steps=limit))
    environment.reset(0)
    dones = []
    while not any(dones):
        dones.append(environment.step(np.int32(0))[2])
    assert dones[-1] is done
    assert len(dones) in steps


def test_a_batch_of_one_is_an_environment_and_two_are_refused() -> None:
    batched = FromPyEnvironment(BatchedPyEnvironment([Theirs(ts.truncation)]))
    assert_same(batched.observation_spec, specs.Array((1,), np.float32))
    assert batched.reset() == 0
    results = [batched.step(np.zeros(1, np.float32)) for _ in range(2)]
    assert results == [(1, 0.5, Done.NO), (2, 0.5, Done.TRUNCATED)]
    assert results[0][0].shape == (1,)
    with pytest.raises(UserError, match=r"^BatchedPyEnvironment is a batch of 2 environments: hand over one of them"):
        FromPyEnvironment(BatchedPyEnvironment([Theirs(), Theirs()]))


def test_several_rewards_are_refused() -> None:
    with pytest.raises(UserError, match="has several rewards"):
        FromPyEnvironment(Theirs(reward_spec=ArraySpec((2,), np.float32)))


def test_seeds_are_handed_on_where_there_are_any() -> None:
    environment = FromPyEnvironment(suite_gym.load("CartPole-v1"))
    states = [environment.reset(seed).tolist() for seed in (3, 3, 4)]
    assert states[0] == states[1] != states[2]
    assert FromPyEnvironment(Theirs()).reset(3) == 0


def test_pictures_are_handed_on_where_there_are_any() -> None:
    class Drawn(Theirs):
        def render(self, mode: str = "rgb_array") -> Any:
            return np.full((4, 6, 3), len(mode), np.uint8)

    assert FromPyEnvironment(Drawn()).render().shape == (4, 6, 3)
    with pytest.raises(UserError, match=r"^Theirs cannot be drawn here \(No rendering support.\)"):
        FromPyEnvironment(Theirs()).render()


# Ours as theirs.


@pytest.mark.parametrize(
    "environment",
    [lambda: Scripted((3, 1), (False, True)), lambda: make("gymnasium:CartPole-v1"), Nested],
    ids=["scripted", "cartpole", "nested"],
)
def test_tf_agents_finds_ours_valid(environment: Callable[[], Environment]) -> None:
    validate_py_environment(to_py_environment(environment()), episodes=4)


def test_episodes_end_and_begin_as_tf_agents_has_it() -> None:
    environment: Any = to_py_environment(Scripted((2, 1), (False, True)))
    time_steps = [environment.step(np.int32(0)) for _ in range(6)]
    found = [(int(s.step_type), float(s.reward), float(s.discount), s.observation.tolist()) for s in time_steps]
    assert found == [
        (0, 0.0, 1.0, [0.0, 0.0]),
        (1, 1.0, 1.0, [0.0, 1.0]),
        (2, 2.0, 0.0, [0.0, 2.0]),
        (0, 0.0, 1.0, [1.0, 0.0]),
        (2, 1.0, 1.0, [1.0, 1.0]),
        (0, 0.0, 1.0, [2.0, 0.0]),
    ]


def test_a_seed_is_of_the_next_reset() -> None:
    environment: Any = to_py_environment(make("CartPole-v1"))
    states = []
    for seed in (3, 3, None):
        if seed is not None:
            environment.seed(seed)
        states.append(environment.reset().observation.tolist())
    assert states[0] == states[1] != states[2]


def test_pictures_and_closing_are_handed_on() -> None:
    class Drawn(Scripted):
        closed = False

        def render(self) -> np.ndarray:
            return np.zeros((4, 6, 3), np.uint8)

        def close(self) -> None:
            self.closed = True

    drawn = Drawn()
    environment: Any = to_py_environment(drawn)
    assert environment.render().shape == (4, 6, 3)
    with pytest.raises(NotImplementedError):
        environment.render("human")
    environment.close()
    assert drawn.closed


def test_there_and_back_the_transitions_are_the_same() -> None:
    theirs: Any = suite_gym.load("CartPole-v1", max_episode_steps=12)
    back: Any = to_py_environment(FromPyEnvironment(suite_gym.load("CartPole-v1", max_episode_steps=12)))
    for environment in (theirs, back):
        environment.seed(5)
    assert back.time_step_spec() == theirs.time_step_spec()
    generator = np.random.default_rng(0)
    one, other = theirs.reset(), back.reset()
    endings = set()
    for _ in range(200):
        tree.map_structure(np.testing.assert_array_equal, tuple(one), tuple(other))
        endings.add((int(one.step_type), float(one.discount)))
        action = np.array(generator.integers(2), np.int64)
        one, other = theirs.step(action), back.step(action)
    assert {(2, 0.0), (2, 1.0)} < endings


def test_their_drivers_play_ours() -> None:
    environment: Any = to_py_environment(Scripted((3, 1, 5)))
    seen: list[Any] = []
    policy = RandomPyPolicy(environment.time_step_spec(), environment.action_spec())
    PyDriver(environment, policy, [seen.append], max_episodes=3).run(environment.reset())
    assert sum(float(trajectory.reward) for trajectory in seen) == 6 + 1 + 15

    batch: Any = TFPyEnvironment(to_py_environment(Scripted((3, 1, 5))))
    transitions: list[Any] = []
    DynamicStepDriver(
        batch,
        RandomTFPolicy(batch.time_step_spec(), batch.action_spec()),
        [lambda trajectory: transitions.append(tf.nest.map_structure(lambda leaf: leaf.numpy()[0], trajectory))],
        num_steps=9,
    ).run()
    assert [float(t.reward) for t in transitions if not t.is_boundary()] == [1, 2, 3, 1, 1, 2, 3, 4, 5]
