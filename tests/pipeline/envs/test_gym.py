"""Environments of gym 0.23 and gymnasium by id: either API, endings, specs, seeds, and errors that help."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
import tree

from pipeline.envs import gym as adapter
from pipeline.envs.environment import Done, Environment, action_kind
from pipeline.envs.gym import GymEnvironment
from pipeline.envs.make import make
from pipeline.envs.scripted import Scripted
from pipeline.types import Nest, UserError

NUMBERS = itertools.count()
BOTH = pytest.mark.parametrize("library", ["gym", "gymnasium"])


def spaces(library: str) -> Any:
    return importlib.import_module(f"{library}.spaces")


def world(
    library: str,
    observation_space: Any = None,
    action_space: Any = None,
    states: Sequence[Any] = (np.zeros(1, np.float32),),
    endings: Sequence[tuple[bool, bool]] = ((False, False),),
    **registration: Any,
) -> GymEnvironment:
    """A world that shows `states` in turn and says `endings` (terminated, truncated) after its steps, in turn.

    It speaks its library's API; its reward is the action it was given.
    """
    module: Any = importlib.import_module(library)

    class World(module.Env):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.time = 0
            return states[0] if library == "gym" else (states[0], {})

        def step(self, action: Any) -> Any:
            terminated, truncated = endings[self.time % len(endings)]
            self.time += 1
            state, reward = states[self.time % len(states)], np.float32(sum(map(np.sum, tree.flatten(action))))
            if library == "gymnasium":
                return state, reward, terminated, truncated, {}
            return state, reward, terminated or truncated, {"TimeLimit.truncated": True} if truncated else {}

    World.observation_space = observation_space or spaces(library).Box(-1, 1, (1,), np.float32)
    World.action_space = action_space or spaces(library).Discrete(2)
    name = f"World{next(NUMBERS)}-v0"
    module.register(name, entry_point=World, **registration)
    return GymEnvironment(f"{library}:{name}")


def play(environment: Environment, action: Any, seed: int = 0, limit: int = 1000) -> tuple[int, Done]:
    """Steps until the episode ends; returns its length and how it ended."""
    environment.reset(seed)
    for step in range(1, limit + 1):
        _, reward, done = environment.step(action)
        assert type(reward) is float
        if done:
            return step, done
    raise AssertionError(f"no ending within {limit} steps")


@pytest.mark.parametrize(
    ("environment_id", "library", "name"),
    [
        ("CartPole-v1", "gym", "CartPole-v1"),
        ("gym:CartPole-v1", "gym", "CartPole-v1"),
        ("gymnasium:CartPole-v1", "gymnasium", "CartPole-v1"),
        ("phys2d/CartPole-v1", "gymnasium", "phys2d/CartPole-v1"),
    ],
)
def test_ids_choose_the_library(environment_id: str, library: str, name: str) -> None:
    assert adapter.find(environment_id) == (library, name)


def test_a_module_that_registers_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_worlds.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyWorld-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="There is no environment 'MyWorld-v0'"):
        make("MyWorld-v0")
    environment = make("my_worlds:MyWorld-v0")
    assert play(environment, 0) == (3, Done.TRUNCATED)


def test_an_unknown_id_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"There is no environment 'CartPol-v1'; did you mean .*CartPole-v1.*\?"):
        make("CartPol-v1")
    with pytest.raises(UserError, match=r"There is no environment 'gymnasium:LunarLandr-v2'; did you mean LunarLander"):
        make("gymnasium:LunarLandr-v2")


def test_an_unknown_module_is_named() -> None:
    with pytest.raises(UserError, match="Environment 'no_such_worlds:World-v0': No module named 'no_such_worlds'"):
        make("no_such_worlds:World-v0")


@BOTH
def test_a_world_whose_parts_are_missing_says_how_to_get_them(library: str) -> None:
    module: Any = importlib.import_module(library)

    def broken() -> None:
        raise ImportError("no engine\nlong story")

    module.register(f"Broken-v{len(library)}", entry_point=broken)
    with pytest.raises(UserError, match=r"cannot be made \(no engine\); optional worlds are installed with ./setup.sh"):
        make(f"{library}:Broken-v{len(library)}")


def test_names_of_the_registry_come_first() -> None:
    assert isinstance(make("scripted"), Scripted)
    assert isinstance(make("CartPole-v1"), GymEnvironment)


@BOTH
def test_falling_over_terminates(library: str) -> None:
    steps, done = play(make(f"{library}:CartPole-v1"), 0)
    assert done is Done.TERMINATED
    assert 8 <= steps <= 12


@BOTH
def test_the_time_limit_truncates(library: str) -> None:
    assert play(make(f"{library}:MountainCar-v0"), 1) == (200, Done.TRUNCATED)


@BOTH
@pytest.mark.parametrize(
    ("ending", "limit", "done"),
    [
        ((True, False), None, Done.TERMINATED),
        ((False, True), None, Done.TRUNCATED),
        ((False, False), 1, Done.TRUNCATED),
        ((True, False), 1, Done.TERMINATED),
    ],
    ids=["terminated", "truncated", "at the limit", "terminated at the limit"],
)
def test_endings(library: str, ending: tuple[bool, bool], limit: int | None, done: Done) -> None:
    environment = world(library, endings=[ending], max_episode_steps=limit)
    assert play(environment, 0) == (1, done)


@BOTH
def test_after_an_ending_comes_the_next_first_state(library: str) -> None:
    states = [np.array([i / 10], np.float32) for i in range(3)]
    environment = world(library, states=states, endings=[(False, False), (True, False)])
    first = environment.reset()
    results = [environment.step(1) for _ in range(5)]
    expected = [
        (states[1], 1.0, Done.NO),
        (states[2], 1.0, Done.TERMINATED),
        (states[0], 0.0, Done.NO),
        (states[1], 1.0, Done.NO),
        (states[2], 1.0, Done.TERMINATED),
    ]
    assert first == states[0]
    assert results == expected


def test_termination_goes_before_truncation() -> None:
    assert play(world("gymnasium", endings=[(True, True)]), 0) == (1, Done.TERMINATED)


BOX = (-2.0, 2.0, (3,))


@BOTH
@pytest.mark.parametrize(
    ("space", "spec"),
    [
        (lambda s: s.Box(*BOX, np.float64), specs.BoundedArray((3,), np.float32, -2, 2)),
        (lambda s: s.Box(*BOX, np.float32), specs.BoundedArray((3,), np.float32, -2, 2)),
        (lambda s: s.Box(0, 9, (2,), np.int64), specs.BoundedArray((2,), np.int32, 0, 9)),
        (lambda s: s.Box(0, 255, (4, 4), np.uint8), specs.BoundedArray((4, 4), np.uint8, 0, 255)),
        (lambda s: s.Discrete(5), specs.DiscreteArray(5, np.int32)),
        (lambda s: s.MultiDiscrete([2, 3]), specs.BoundedArray((2,), np.int32, 0, [1, 2])),
        (lambda s: s.MultiBinary(4), specs.BoundedArray((4,), np.int32, 0, 1)),
        (
            lambda s: s.Dict(b=s.Discrete(2), a=s.Tuple([s.Discrete(3), s.Box(*BOX, np.float64)])),
            {
                "a": (specs.DiscreteArray(3, np.int32), specs.BoundedArray((3,), np.float32, -2, 2)),
                "b": specs.DiscreteArray(2, np.int32),
            },
        ),
    ],
    ids=["f64", "f32", "i64", "u8", "discrete", "multi-discrete", "multi-binary", "nested"],
)
def test_spaces_become_specs_and_states_have_their_dtypes(
    library: str, space: Callable[[Any], Any], spec: Nest
) -> None:
    made = space(spaces(library))
    environment = world(library, observation_space=made, action_space=made, states=[made.sample() for _ in range(3)])
    assert_same_specs(environment.observation_spec, spec)
    assert_same_specs(environment.action_spec, spec)
    for state in (environment.reset(0), environment.step(tree.map_structure(lambda s: s.generate_value(), spec))[0]):
        tree.map_structure(lambda part, value: part.validate(value), spec, state)


def assert_same_specs(one: Nest, other: Nest) -> None:
    tree.assert_same_structure(one, other)
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        assert type(a) is type(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a.minimum, b.minimum)
        np.testing.assert_array_equal(a.maximum, b.maximum)


@BOTH
def test_a_pair_as_state_is_not_taken_for_state_and_info(library: str) -> None:
    s = spaces(library)
    pair = (np.array([0.5], np.float32), 2)
    environment = world(library, observation_space=s.Tuple([s.Box(0, 1, (1,)), s.Discrete(3)]), states=[pair])
    for state in (environment.reset(), environment.step(0)[0]):
        assert len(state) == 2
        assert state == pair


@BOTH
def test_unsupported_spaces_are_refused(library: str) -> None:
    class Strange(spaces(library).Space):
        pass

    with pytest.raises(UserError, match="Spaces of kind Strange are not supported; use Discrete"):
        world(library, observation_space=Strange((), np.float32))


@BOTH
def test_discrete_actions_begin_where_the_space_begins(library: str) -> None:
    environment = world(library, action_space=spaces(library).Discrete(3, start=5))
    assert environment.action_spec.num_values == 3
    environment.reset()
    assert [environment.step(np.int32(a))[1] for a in range(3)] == [5.0, 6.0, 7.0]


@BOTH
@pytest.mark.parametrize("environment_id", ["CartPole-v1", "Blackjack-v1", "FrozenLake-v1"])
def test_a_seed_reproduces_states_rewards_and_endings(library: str, environment_id: str) -> None:
    environment = make(f"{library}:{environment_id}")

    def trajectory(seed: int) -> list[Any]:
        first = environment.reset(seed)
        return [tree.map_structure(np.ndarray.tolist, first)] + [
            (tree.map_structure(np.ndarray.tolist, state), reward, done)
            for state, reward, done in (environment.step(np.int32(1)) for _ in range(60))
        ]

    once, again = trajectory(7), trajectory(7)
    assert once == again
    assert len({str(trajectory(seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (specs.DiscreteArray(2), "discrete"),
        (specs.BoundedArray((2,), np.float32, -1, 1), "continuous"),
        (specs.BoundedArray((2,), np.int32, 0, 3), "multi-discrete"),
        ({"a": specs.DiscreteArray(2)}, "nested"),
        ((specs.DiscreteArray(2), specs.DiscreteArray(2)), "nested"),
    ],
)
def test_kinds_of_actions(spec: Nest, kind: str) -> None:
    assert action_kind(spec) == kind


def test_an_environment_older_than_seeds_in_reset_is_seeded_by_its_method() -> None:
    module: Any = importlib.import_module("gym")

    class Old(module.Env):
        observation_space = module.spaces.Box(-1, 1, [1])
        action_space = module.spaces.Discrete(2)

        def seed(self, seed: int | None = None) -> list[int | None]:
            self.seeded = np.float32(seed)
            return [seed]

        def reset(self) -> np.ndarray:
            return np.array([self.seeded])

    name = f"Old{next(NUMBERS)}-v0"
    module.register(name, entry_point=Old)
    assert GymEnvironment(name).reset(seed=7) == [7]
