"""Environments of gym 0.23 and gymnasium by id: either API, endings, specs, seeds, and errors that help."""

from __future__ import annotations

import collections
import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest
import tree

from binaries import settings
from pipeline import index
from pipeline.envs import gym as adapter
from pipeline.envs.environment import Done, Environment, action_kind
from pipeline.envs.gym import GymEnvironment
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make, make_block
from pipeline.envs.named import EnvironmentClass
from pipeline.envs.scripted import Scripted
from pipeline.types import Nest, UserError
from tests.limits import LIMIT_S

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
    actions: list[Any] | None = None,
    **registration: Any,
) -> GymEnvironment:
    """A world that shows `states` in turn and says `endings` (terminated, truncated) after its steps, in turn.

    It speaks its library's API; its reward is the action it was given, which it also adds to `actions`.
    """
    module: Any = importlib.import_module(library)

    class World(module.Env):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.time = 0
            return states[0] if library == "gym" else (states[0], {})

        def step(self, action: Any) -> Any:
            if actions is not None:
                actions.append(action)
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
        ("LunarLander-v2", "gym", "LunarLander-v2"),
        ("LunarLanderContinuous-v3", "gymnasium", "LunarLanderContinuous-v3"),
        ("HalfCheetah-v4", "gymnasium", "HalfCheetah-v4"),
        ("ALE/Pong-v5", "gymnasium", "ALE/Pong-v5"),
        ("gymnasium:PongNoFrameskip-v4", "gymnasium", "PongNoFrameskip-v4"),
        ("Taxi-v3", "gymnasium", "Taxi-v3"),  # gym's has no pictures
        ("gym:Taxi-v3", "gym", "Taxi-v3"),
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


def test_an_imported_module_is_asked_for_an_id_that_nobody_else_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_other_worlds.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyOther-v0', 'gymnasium.envs.classic_control:CartPoleEnv', max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(index, "_added", {})
    index.add("my_other_worlds")
    assert adapter.located("CartPole-v1") == "CartPole-v1"
    assert "my_other_worlds" not in sys.modules
    block = make_block("MyOther-v0", 1, processes=1, timeout=LIMIT_S)
    lanes = Lanes(block)
    lanes.reset(0)
    assert [int(lanes.step(np.zeros(1, np.int32))[2][0]) for _ in range(3)] == [Done.NO, Done.NO, Done.TRUNCATED]
    lanes.close()


def test_an_unknown_id_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"There is no environment 'CartPol-v1'; did you mean .*CartPole-v1.*\?"):
        make("CartPol-v1")
    with pytest.raises(UserError, match=r"There is no environment 'gymnasium:LunarLandr-v2'; did you mean LunarLander"):
        make("gymnasium:LunarLandr-v2")
    with pytest.raises(
        UserError, match=r"no environment 'Mine-v0'; one of a package that registers it is .* 'module:Mine-v0'"
    ):
        make("Mine-v0")
    with pytest.raises(
        UserError, match=r"no environment 'numpy:Mine-v0'; 'numpy' registers no such id, and has no such"
    ):
        make("numpy:Mine-v0")


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


MISSING = """
import sys
for package in ("ale_py", "Box2D", "mujoco"):
    sys.modules[package] = None  # so that importing it fails
from pipeline.envs.gym import GymEnvironment
from pipeline.types import UserError
for name in sys.argv[1:]:
    try:
        GymEnvironment(name)
    except UserError as error:
        print(error)
"""


def test_a_missing_package_is_named_with_its_extra() -> None:
    packages = {
        "LunarLander-v2": ("Box2D", "box2d"),
        "BipedalWalker-v3": ("Box2D", "box2d"),
        "LunarLander-v3": ("Box2D", "box2d"),
        "HalfCheetah-v4": ("mujoco", "mujoco"),
        "ALE/Pong-v5": ("ale_py", "atari"),
        "PongNoFrameskip-v4": ("ale_py", "atari"),
    }
    command = [sys.executable, "-W", "ignore", "-c", MISSING, *packages, "HalfCheetah-v2", "CartPol-v1"]
    *told, old, last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for sentence, (package, extra) in zip(told, packages.values(), strict=True):
        assert f" needs {package}, which is not installed" in sentence
        assert sentence.endswith(f": ./setup.sh --with={extra} installs it.")
    assert old.endswith(": use HalfCheetah-v5.")  # which then says what it needs
    assert "did you mean CartPole-v1" in last


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("environment_id", "reason", "newer"),
    [
        ("HalfCheetah-v2", "No module named 'mujoco_py'", "HalfCheetah-v5"),
        ("gymnasium:Hopper-v3", "The mujoco v2 and v3 based environments have been moved", "Hopper-v5"),
        ("CliffWalking-v0", "module 'numpy' has no attribute 'bool'", "CliffWalking-v1"),
    ],
)
def test_an_id_that_works_no_longer_names_the_newer_one(environment_id: str, reason: str, newer: str) -> None:
    with pytest.raises(UserError, match=rf"'{environment_id}' cannot be made \({reason}.*\): use {newer}\.$"):
        GymEnvironment(environment_id)


@BOTH
def test_options_are_handed_to_the_library(library: str) -> None:
    environment = GymEnvironment(f"{library}:FrozenLake-v1", options={"map_name": "8x8"})
    assert environment.observation_spec.num_values == 64
    with pytest.raises(UserError, match=rf"'{library}:FrozenLake-v1' cannot be made \(.*unexpected keyword .*'map'"):
        GymEnvironment(f"{library}:FrozenLake-v1", options={"map": "8x8"})


def test_options_can_be_set_in_gin() -> None:
    bound = settings.read("dqn_cartpole", ["GymEnvironment.options={'continuous': True, 'gravity': -5.0}"], {})
    try:
        settings.apply({name: b for name, b in bound.items() if b.owner == "GymEnvironment"})
        assert make("LunarLander-v3").action_spec.shape == (2,)
    finally:
        gin.clear_config()
    with pytest.raises(UserError, match=r"must be of type dict\[str, object\] \| None"):
        settings.read("dqn_cartpole", ["GymEnvironment.options='continuous'"], {})


def test_a_value_that_an_option_cannot_have_is_told_in_the_words_of_the_library() -> None:
    with pytest.raises(
        UserError, match=r"cannot be made \(gravity \(current value: 3\) must be between -12 and 0\)\.$"
    ):
        GymEnvironment("LunarLander-v3", options={"gravity": 3})


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
        (lambda s: s.Box(-1, 1, (), np.float32), specs.BoundedArray((), np.float32, -1, 1)),
        (lambda s: s.Discrete(5, start=-2), specs.DiscreteArray(5, np.int32)),
        (lambda s: s.MultiDiscrete([2, 3]), specs.BoundedArray((2,), np.int32, 0, [1, 2])),
        (lambda s: s.MultiDiscrete([[2, 3], [4, 5]]), specs.BoundedArray((2, 2), np.int32, 0, [[1, 2], [3, 4]])),
        (lambda s: s.MultiBinary(4), specs.BoundedArray((4,), np.int32, 0, 1)),
        (lambda s: s.MultiBinary([2, 3]), specs.BoundedArray((2, 3), np.int32, 0, 1)),
        (
            lambda s: s.Dict(b=s.Discrete(2), a=s.Tuple([s.Discrete(3), s.Box(*BOX, np.float64)])),
            {
                "a": (specs.DiscreteArray(3, np.int32), specs.BoundedArray((3,), np.float32, -2, 2)),
                "b": specs.DiscreteArray(2, np.int32),
            },
        ),
    ],
    ids=[
        *[
            "f64",
            "f32",
            "i64",
            "u8",
            "discrete",
            "scalar",
            "discrete from -2",
            "multi-discrete",
            "multi-discrete matrix",
        ],
        *["multi-binary", "multi-binary matrix", "nested"],
    ],
)
def test_values_of_every_space_are_translated(library: str, space: Callable[[Any], Any], spec: Nest) -> None:
    made = space(spaces(library))
    states, actions = [made.sample() for _ in range(3)], []
    environment = world(library, observation_space=made, action_space=made, states=states, actions=actions)
    assert_same_specs(environment.observation_spec, spec)
    # What bytes there are to choose from is counted.
    count = lambda s: specs.BoundedArray(s.shape, np.int32, 0, 255) if s.dtype == np.uint8 else s  # noqa: E731
    assert_same_specs(environment.action_spec, tree.map_structure(count, spec))
    action = tree.map_structure(lambda s: s.generate_value(), spec)
    for state in (environment.reset(0), environment.step(action)[0]):
        tree.map_structure(lambda part, value: part.validate(value), spec, state)
    assert made.contains(actions[0])
    # What was seen of a state leads back to it where it is taken for an action.
    environment.step(environment.reset(0))
    tree.map_structure(lambda own, back: np.testing.assert_allclose(own, back, 1e-6), states[0], actions[1])


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
def test_discrete_states_and_actions_begin_where_the_space_begins(library: str) -> None:
    s, actions = spaces(library), []
    environment = world(library, s.Discrete(3, start=5), s.Discrete(3, start=5), states=[5, 6, 7], actions=actions)
    assert environment.action_spec.num_values == 3
    assert [environment.reset(), *(environment.step(np.int32(a))[0] for a in range(2))] == [0, 1, 2]
    assert actions == [5, 6]
    assert all(type(action) is int for action in actions)


def test_multi_discrete_states_and_actions_begin_where_the_space_begins() -> None:
    space, actions = spaces("gymnasium").MultiDiscrete([[2, 3]], start=[[1, -1]]), []
    environment = world("gymnasium", space, space, states=[np.array([[2, -1]])], actions=actions)
    np.testing.assert_array_equal(environment.reset(), np.array([[1, 0]], np.int32), strict=True)
    environment.step(np.array([[0, 2]], np.int32))
    np.testing.assert_array_equal(actions[0], np.array([[1, 1]]), strict=True)


@BOTH
@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (lambda s: s.Box(*BOX, np.float32), np.array([-3, 0.5, 3], np.float32), np.array([-2, 0.5, 2], np.float32)),
        (lambda s: s.Box(*BOX, np.float64), np.array([-3, 0.5, 3], np.float32), np.array([-2, 0.5, 2], np.float64)),
        (lambda s: s.Box(-1, 1, (), np.float32), np.array(7, np.float32), np.float32(1)),
        (lambda s: s.Box(*BOX, np.float16), np.array([-3, 0.5, 3], np.float32), np.array([-2, 0.5, 2], np.float16)),
        (lambda s: s.Box(1, 4, (3,), np.int64), np.array([0, 1, 3], np.int32), np.array([1, 2, 4])),
        (lambda s: s.Box(-128, 127, (2,), np.int8), np.array([0, 255], np.int32), np.array([-128, 127], np.int8)),
        (lambda s: s.MultiBinary(2), np.array([0, 1], np.int32), np.array([0, 1], np.int8)),
    ],
    ids=["f32", "f64", "scalar", "f16", "i64", "i8", "multi-binary"],
)
def test_actions_are_clipped_and_have_the_dtype_of_the_space(
    library: str, space: Callable[[Any], Any], action: np.ndarray, expected: np.ndarray
) -> None:
    made, actions = space(spaces(library)), []
    environment = world(library, action_space=made, actions=actions)
    environment.reset()
    environment.step(action)
    np.testing.assert_array_equal(actions[0], expected)
    assert actions[0].dtype == expected.dtype
    assert made.contains(actions[0])


@BOTH
def test_nested_actions_are_translated_leaf_by_leaf_in_the_order_of_the_space(library: str) -> None:
    s, actions = spaces(library), []
    move = s.Tuple([s.Box(-1, 1, (1,), np.float32), s.MultiBinary(1)])
    space = s.Dict(collections.OrderedDict(way=s.Discrete(3, start=5), move=move))
    environment = world(library, action_space=space, actions=actions)
    environment.reset()
    environment.step({"move": (np.array([9], np.float32), np.array([1], np.int32)), "way": np.int32(2)})
    assert actions == [{"way": 7, "move": (np.array([1.0], np.float32), np.array([1], np.int8))}]
    assert list(actions[0]) == ["way", "move"]
    assert type(actions[0]["way"]) is int
    assert space.contains(actions[0])


@BOTH
@pytest.mark.filterwarnings("error")
def test_bounds_that_no_32_bits_hold_become_the_nearest(library: str) -> None:
    s = spaces(library)
    integers = s.Box(-(2**62), 2**62, (1,), np.int64)
    reals = s.Box(-(10.0**300), 10.0**300, (1,), np.float64)
    environment = world(library, observation_space=s.Tuple([integers, reals]))
    of_integers, of_reals = environment.observation_spec
    assert (of_integers.minimum, of_integers.maximum) == (-(2**31), 2**31 - 1)
    assert (of_reals.minimum, of_reals.maximum) == (-np.inf, np.inf)


@BOTH
def test_a_space_of_ones_own_is_what_it_derives_from(library: str) -> None:
    class Angles(spaces(library).Box):
        pass

    environment = world(library, observation_space=Angles(-3, 3, (2,), np.float32))
    assert_same_specs(environment.observation_spec, specs.BoundedArray((2,), np.float32, -3, 3))


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


@BOTH
def test_a_restored_state_goes_on_exactly(library: str) -> None:
    one, other = make(f"{library}:CartPole-v1"), make(f"{library}:CartPole-v1")
    one.reset(3)
    for _ in range(20):  # into the second episode
        one.step(np.int32(1))
    state = one.state()
    assert state is not None
    other.restore(state)
    for _ in range(20):
        for own, restored in zip(one.step(np.int32(1)), other.step(np.int32(1)), strict=True):
            np.testing.assert_array_equal(own, restored)


def trajectory(environment: Environment, seed: int, steps: int) -> list[Any]:
    """Random steps after `seed`, over the ends of episodes."""
    random = np.random.default_rng(0)
    states = [environment.reset(seed)]
    spec = environment.action_spec
    for _ in range(steps):
        discrete = isinstance(spec, specs.DiscreteArray)
        action = random.integers(spec.num_values) if discrete else random.uniform(-1, 1, spec.shape)
        states.append(environment.step(np.asarray(action, spec.dtype)))
    return states


def assert_reproducible(environment: Environment, steps: int) -> None:
    """The same environment does the same again after a seed, and something else after another one."""
    first, other, again = (trajectory(environment, seed, steps) for seed in (3, 4, 3))
    tree.map_structure(np.testing.assert_array_equal, first, again)
    assert any(np.any(a != b) for a, b in zip(tree.flatten(first), tree.flatten(other), strict=True))


def assert_drawn(environment: Environment) -> None:
    frame = environment.render()
    assert frame.dtype == np.uint8
    assert frame.shape[-1] == 3
    assert 10 < frame.std() < 245


@pytest.mark.parametrize(
    ("environment_id", "steps"),
    [
        ("LunarLander-v2", 300),
        ("LunarLanderContinuous-v2", 300),
        ("LunarLander-v3", 300),
        ("LunarLanderContinuous-v3", 300),
        ("gym:BipedalWalker-v3", 300),
        ("gymnasium:BipedalWalker-v3", 300),
        ("BipedalWalkerHardcore-v3", 300),
        ("CarRacing-v1", 2),
        ("CarRacing-v3", 2),
    ],
)
def test_box2d_worlds_are_reproducible_and_drawn_without_a_screen(
    environment_id: str, steps: int, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = make(environment_id, "rgb_array")
    assert_reproducible(environment, steps)
    assert_drawn(environment)
    environment.close()
    assert capfd.readouterr().out == ""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("environment_id", ["HalfCheetah-v4", "HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_worlds_are_reproducible_and_drawn_without_a_screen(
    environment_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = make(environment_id, "rgb_array")
    assert_reproducible(environment, 50)
    assert_drawn(environment)
    environment.close()
    assert "deprecated" not in capfd.readouterr().err
    assert not list(tmp_path.iterdir())  # MuJoCo would leave its complaints there


def test_without_a_screen_mujoco_draws_with_egl_unless_the_person_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_has_egl", lambda: True)
    for screen, chosen, expected in (("", "", "egl"), ("", "osmesa", "osmesa"), (":0", "", None)):
        for name, value in (("DISPLAY", screen), ("MUJOCO_GL", chosen)):
            monkeypatch.setenv(name, value)
            if not value:
                monkeypatch.delenv(name)
        adapter.prepare(None)
        assert os.environ.get("MUJOCO_GL") == expected


def test_atari_games_of_gymnasium_are_played() -> None:
    environment = make("ALE/Pong-v5", "rgb_array")
    assert environment.reset(0).shape == (210, 160, 3)
    assert environment.step(np.int32(0))[1:] == (0.0, Done.NO)
    assert_drawn(environment)


def test_a_world_of_gymnasium_may_have_kept_what_gym_told_with_every_picture() -> None:
    module: Any = importlib.import_module("gymnasium")

    class Ported(module.Env):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
        observation_space = action_space = module.spaces.Discrete(2)

        def __init__(self, render_mode: str | None = None):
            self.render_mode = render_mode

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return 0, {}

        def render(self, mode: str = "human") -> np.ndarray:
            return np.zeros((4, 4, 3), np.uint8)

    name = f"Ported{next(NUMBERS)}-v0"
    module.register(name, entry_point=Ported)
    environment = make(name, "rgb_array")
    environment.reset()
    assert environment.render().shape == (4, 4, 3)


@pytest.mark.filterwarnings("ignore")
def test_a_world_that_knows_no_pictures_cannot_be_made_for_them() -> None:
    with pytest.raises(UserError, match=r"cannot be made \(World\(\) takes no arguments .*'rgb_array'"):
        GymEnvironment(world("gymnasium")._name, "rgb_array")


def test_a_world_that_only_writes_text_has_no_pictures() -> None:
    environment = make("gym:Taxi-v3", "rgb_array")
    environment.reset(0)
    with pytest.raises(UserError, match="gym:Taxi-v3 has no pictures to record"):
        environment.render()
    assert not sys.stdout.closed  # as gym leaves it
    drawn = make("Taxi-v3", "rgb_array")
    drawn.reset(0)
    assert_drawn(drawn)


class Sampling:
    """An environment whose states and rewards are samples of its own spaces."""

    def __new__(cls, library: str = "gymnasium") -> Any:
        module = importlib.import_module(library)

        class Environment(module.Env):
            def __init__(self) -> None:
                self.observation_space = module.spaces.Dict({"a": module.spaces.Box(-1, 1, (2,), np.float32)})
                self.action_space = module.spaces.Discrete(1000)

            def reset(self, *, seed: int | None = None, **_: Any) -> Any:
                state = self.observation_space.sample()
                return (state, {}) if library == "gymnasium" else state

            def step(self, action: int) -> Any:
                ended = (False, False) if library == "gymnasium" else (False,)
                return self.observation_space.sample(), float(self.action_space.sample()), *ended, {}

        return Environment()


@pytest.mark.parametrize("library", ["gym", "gymnasium"])
def test_what_an_environment_samples_of_its_own_spaces_repeats_with_its_seed(library: str) -> None:
    def play(seed: int) -> list[Any]:
        environment = EnvironmentClass("tests.pipeline.envs.test_gym:Sampling", options={"library": library})
        first = environment.reset(seed)["a"].tolist()
        return [first, *((state["a"].tolist(), reward) for state, reward, _ in (environment.step(0) for _ in range(5)))]

    assert play(1) == play(1)
    assert play(1) != play(2)
