"""Lanes stay in step whatever the lengths of their episodes, and lose no final state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest

from pipeline.envs.block import InProcess
from pipeline.envs.environment import Done, Environment
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make
from pipeline.envs.scripted import Scripted
from pipeline.types import Nest

A = ((2, 1), (False, True))
B = ((1, 3), (True, False))
NO, TERMINATED, TRUNCATED = Done.NO, Done.TERMINATED, Done.TRUNCATED


def these(environments: Sequence[Environment]) -> list[Callable[[], Environment]]:
    """Makers of environments that were made already."""
    return [lambda environment=environment: environment for environment in environments]


def scripted_lanes() -> Lanes:
    return Lanes(InProcess([partial(Scripted, *A), partial(Scripted, *B)]))


def test_lanes_of_different_lengths_stay_in_step() -> None:
    lanes = scripted_lanes()
    states = [lanes.reset(0)]
    rewards, dones = [], []
    for _ in range(6):
        state, reward, done = lanes.step(np.zeros(2, np.int32))
        states.append(state)
        rewards.append(reward)
        dones.append(done)
    a, b = np.swapaxes(states, 0, 1).astype(int).tolist()
    assert a == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert b == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [1, 3], [2, 0]]
    assert np.transpose(rewards).tolist() == [[1, 2, 0, 1, 0, 1], [1, 0, 1, 2, 3, 0]]
    assert np.transpose(dones).tolist() == [
        [NO, TERMINATED, NO, TRUNCATED, NO, NO],
        [TRUNCATED, NO, NO, NO, TERMINATED, NO],
    ]


def test_shapes_and_dtypes() -> None:
    lanes = scripted_lanes()
    assert len(lanes) == 2
    assert lanes.reset(0).dtype == np.float32
    state, reward, done = lanes.step(np.zeros(2, np.int32))
    assert (state.shape, state.dtype) == ((2, 2), np.float32)
    assert (reward.shape, reward.dtype) == ((2,), np.float32)
    assert (done.shape, done.dtype) == ((2,), np.int8)


def test_stepping_before_a_reset_begins_an_episode() -> None:
    state, reward, done = scripted_lanes().step(np.zeros(2, np.int32))
    np.testing.assert_array_equal(state, np.zeros([2, 2]))
    assert reward.tolist() == [0, 0]
    assert done.tolist() == [NO, NO]


@pytest.mark.parametrize(
    ("lengths", "truncated"), [((1,), (False,)), ((1, 1), (True, False)), ((3, 1, 5), (True,) * 3)]
)
def test_every_final_state_is_seen(lengths: tuple[int, ...], truncated: tuple[bool, ...]) -> None:
    lanes = Lanes(InProcess([partial(Scripted, lengths, truncated), partial(Scripted, *A)]))
    lanes.reset(0)
    finals = []
    while len(finals) < 7:
        state, _, done = lanes.step(np.zeros(2, np.int32))
        if done[0]:
            finals.append((state[0].astype(int).tolist(), Done(done[0])))
    assert finals == [
        ([episode, lengths[episode % len(lengths)]], TRUNCATED if truncated[episode % len(lengths)] else TERMINATED)
        for episode in range(7)
    ]


class Nested(Environment):
    """Remembers its seeds and shows its last action in a nested state."""

    def __init__(self) -> None:
        self.observation_spec = {
            "action": (specs.Array((), np.int32), specs.Array((2,), np.float32)),
            "image": specs.Array((2, 2), np.uint8),
        }
        self.action_spec = {"a": specs.DiscreteArray(9, np.int32), "b": specs.BoundedArray((2,), np.float32, 0, 9)}
        self.seeds: list[int | None] = []
        self.closed = False

    def _begin(self, seed: int | None) -> Nest:
        self.seeds.append(seed)
        return self._state({"a": 0, "b": np.zeros(2)})

    def _advance(self, action: Any) -> tuple[Nest, float, Done]:
        assert action.keys() == {"a", "b"}
        return self._state(action), 1.0, Done.NO

    def _state(self, action: Any) -> Nest:
        shown = (np.asarray(action["a"], np.int32), np.asarray(action["b"], np.float32))
        return {"action": shown, "image": np.full([2, 2], 255, np.uint8)}

    def close(self) -> None:
        self.closed = True


def test_nested_states_and_actions_keep_their_lanes() -> None:
    lanes = Lanes(InProcess([Nested] * 3))
    lanes.reset(0)
    a, b = np.array([1, 2, 3], np.int32), np.arange(6, dtype=np.float32).reshape(3, 2)
    state, _, _ = lanes.step({"a": a, "b": b})
    np.testing.assert_array_equal(state["action"][0], a)
    np.testing.assert_array_equal(state["action"][1], b)
    assert state["action"][0].dtype == np.int32
    assert (state["image"].shape, state["image"].dtype) == ((3, 2, 2), np.uint8)
    assert (state["image"] == 255).all()


def seeds_of(seed: int | None) -> list[int | None]:
    environments = [Nested() for _ in range(8)]
    Lanes(InProcess(these(environments))).reset(seed)
    return [environment.seeds[0] for environment in environments]


def test_every_lane_has_a_seed_of_its_own_and_the_same_seed_gives_the_same() -> None:
    seeds = [seed for start in range(4) for seed in seeds_of(start)]
    assert len(set(seeds)) == 32
    assert all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)  # what gym takes
    assert seeds_of(0) == seeds[:8]
    assert seeds_of(None) == [None] * 8


def test_the_episodes_after_a_reset_are_not_seeded_anew() -> None:
    environment = Nested()
    lanes = Lanes(InProcess(these([environment])))
    lanes.reset(1)
    lanes.reset()
    assert environment.seeds[1] is None


@pytest.mark.parametrize("library", ["gym", "gymnasium"])
def test_seeded_lanes_of_gym_reproduce(library: str) -> None:
    def trajectory(seed: int) -> np.ndarray:
        lanes = Lanes(InProcess([partial(make, f"{library}:CartPole-v1")] * 3))
        states = [lanes.reset(seed), *(lanes.step(np.ones(3, np.int32))[0] for _ in range(40))]
        lanes.close()
        return np.stack(states)

    once = trajectory(3)
    np.testing.assert_array_equal(once, trajectory(3))
    assert not np.array_equal(once, trajectory(4))
    assert len(np.unique(once[0], axis=0)) == 3


def test_closing_closes_every_lane() -> None:
    environments = [Nested() for _ in range(3)]
    Lanes(InProcess(these(environments))).close()
    assert all(environment.closed for environment in environments)


@pytest.mark.parametrize("environment_id", ["CartPole-v1", "gymnasium:CartPole-v1", "Pendulum-v1"])
def test_lanes_go_on_from_their_state(environment_id: str) -> None:
    lanes, others = (Lanes(InProcess([partial(make, environment_id)] * 3)) for _ in range(2))
    lanes.reset(7)
    spec = lanes.action_spec
    if hasattr(spec, "num_values"):
        action: Any = np.array([0, 1, 0], np.int32)
    else:
        action = np.ones((3, *spec.shape), np.float32)
    for _ in range(25):
        lanes.step(action)
    state = lanes.state()
    assert state is not None
    others.restore(state)
    # Far enough for new episodes, whose first states come from the generators.
    for _ in range(250):
        for one, other in zip(lanes.step(action), others.step(action), strict=True):
            np.testing.assert_array_equal(one, other)


def test_an_environment_whose_state_cannot_be_saved_says_so() -> None:
    class Held(Scripted):
        def __init__(self) -> None:
            super().__init__()
            self.window = lambda: None  # what no library can pickle

    assert Held().state() is None
    assert Lanes(InProcess([Scripted, Held])).state() is None
