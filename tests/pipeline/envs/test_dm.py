"""dm_env's environments and the Control Suite: specs, endings, actions, seeds, pictures, states, errors that help."""

from __future__ import annotations

import collections
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import dm_env
import dm_env.specs as specs
import numpy as np
import pytest
import tree

from pipeline.envs import dm
from pipeline.envs.dm import DeepMindControl, DmEnvironment
from pipeline.envs.environment import Done, Environment, action_kind
from pipeline.envs.make import make
from pipeline.types import Nest, UserError

needs_suite = pytest.mark.skipif(
    importlib.util.find_spec("dm_control") is None, reason="needs ./setup.sh --with=mujoco"
)
needs_driver = pytest.mark.skipif(
    dm._headless() == "disabled" and "DISPLAY" not in os.environ, reason="needs libegl1 or libosmesa6"
)


WIDE: Any = np.int64
NUMBER = specs.Array((), np.float64)
LINE = specs.Array((1,), np.float64)
CHOICE = specs.DiscreteArray(2, WIDE)


class World(dm_env.Environment):
    """Gives `time_steps` in turn, the first of them from `reset`, and remembers the actions it was given."""

    def __init__(
        self,
        time_steps: Sequence[dm_env.TimeStep] = (dm_env.restart(np.zeros(1)),),
        observation_spec: Nest = LINE,
        action_spec: Nest = CHOICE,
        reward_spec: Nest = NUMBER,
    ):
        self._time_steps = time_steps
        self._specs = observation_spec, action_spec, reward_spec
        self.actions: list[Any] = []
        self.closed = False

    def reset(self) -> dm_env.TimeStep:
        self._time = 0
        return self._time_steps[0]

    def step(self, action: Any) -> dm_env.TimeStep:
        self.actions.append(action)
        self._time += 1
        return self._time_steps[self._time]

    def observation_spec(self) -> Nest:
        return self._specs[0]

    def action_spec(self) -> Nest:
        return self._specs[1]

    def reward_spec(self) -> Nest:
        return self._specs[2]

    def close(self) -> None:
        self.closed = True


def assert_same(one: Nest, other: Nest) -> None:
    """Of states or specs: the same structure, and in it the same values of the same types."""
    tree.assert_same_structure(one, other)
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        assert type(a) is type(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a == b if isinstance(a, specs.Array) else np.array_equal(a, b)


@pytest.mark.parametrize(
    ("theirs", "observations", "actions"),
    [
        (specs.Array((3,), np.float64), specs.Array((3,), np.float32), specs.Array((3,), np.float32)),
        (specs.Array((), np.float64), specs.Array((), np.float32), specs.Array((), np.float32)),
        (specs.Array((2, 2), np.uint8), specs.Array((2, 2), np.uint8), specs.Array((2, 2), np.uint8)),
        (
            specs.BoundedArray((2,), np.float64, [-1, -np.inf], 0.5),
            specs.BoundedArray((2,), np.float32, [-1, -np.inf], 0.5),
            specs.BoundedArray((2,), np.float32, [-1, -np.inf], 0.5),
        ),
        (specs.DiscreteArray(4, WIDE), specs.DiscreteArray(4, np.int32), specs.DiscreteArray(4, np.int32)),
        (
            specs.BoundedArray((), np.int64, 3, 7),
            specs.BoundedArray((), np.int32, 3, 7),
            specs.DiscreteArray(5, np.int32),
        ),
        (
            specs.BoundedArray((2,), np.int8, -100, [100, 27]),
            specs.BoundedArray((2,), np.int8, -100, [100, 27]),
            specs.BoundedArray((2,), np.int32, 0, [200, 127]),
        ),
        (
            collections.OrderedDict(b=specs.Array((1,), np.float64), a=[CHOICE]),
            {"b": specs.Array((1,), np.float32), "a": (specs.DiscreteArray(2, np.int32),)},
            {"b": specs.Array((1,), np.float32), "a": (specs.DiscreteArray(2, np.int32),)},
        ),
    ],
    ids=["f64", "no dimension", "u8", "bounded", "discrete", "an integer", "integers", "nested"],
)
def test_specs_and_states_become_ours(theirs: Nest, observations: Nest, actions: Nest) -> None:
    value = tree.map_structure(lambda spec: spec.generate_value(), theirs)
    world = World([dm_env.restart(value), dm_env.transition(0.0, value)], theirs, theirs)
    environment = DmEnvironment(world)
    assert_same(environment.observation_spec, observations)
    assert_same(environment.action_spec, actions)
    expected = tree.unflatten_as(
        observations,
        [np.asarray(v, s.dtype) for v, s in zip(tree.flatten(value), tree.flatten(observations), strict=True)],
    )
    assert_same(environment.reset(), expected)
    action = tree.map_structure(lambda spec: spec.generate_value(), actions)
    assert_same(environment.step(action)[0], expected)
    tree.map_structure(lambda spec, leaf: spec.validate(leaf), theirs, world.actions[0])


def test_bounds_beyond_32_bits_are_those_of_32_bits() -> None:
    wide = np.iinfo(np.int64)
    environment = DmEnvironment(World(observation_spec=specs.BoundedArray((1,), np.int64, wide.min, wide.max)))
    narrow = np.iinfo(np.int32)
    assert_same(environment.observation_spec, specs.BoundedArray((1,), np.int32, narrow.min, narrow.max))


def test_numbers_that_are_no_arrays_are_states() -> None:
    environment = DmEnvironment(World([dm_env.restart({"height": 0.5})], {"height": specs.Array((), np.float64)}))
    assert_same(environment.reset(), {"height": np.array(0.5, np.float32)})


@pytest.mark.parametrize(
    ("ending", "done"),
    [
        (dm_env.termination(2.0, np.ones(1)), Done.TERMINATED),
        (dm_env.truncation(2.0, np.ones(1)), Done.TRUNCATED),
        (dm_env.truncation(2.0, np.ones(1), discount=0.9), Done.TRUNCATED),
        (dm_env.transition(2.0, np.ones(1)), Done.NO),
        (dm_env.transition(2.0, np.ones(1), discount=0.0), Done.NO),
    ],
)
def test_the_last_discount_tells_how_an_episode_ended(ending: dm_env.TimeStep, done: Done) -> None:
    environment = DmEnvironment(World([dm_env.restart(np.zeros(1)), ending]))
    environment.reset()
    assert environment.step(0) == (np.ones(1, np.float32), 2.0, done)


def test_after_the_final_state_comes_the_next_first_one() -> None:
    first, middle, last = (np.array([value]) for value in (1.0, 2.0, 3.0))
    time_steps = [dm_env.restart(first), dm_env.transition(0.5, middle), dm_env.termination(0.25, last)]
    environment = DmEnvironment(World(time_steps))
    assert environment.reset() == first
    results = [environment.step(0) for _ in range(4)]
    assert results == [
        (middle, 0.5, Done.NO),
        (last, 0.25, Done.TERMINATED),
        (first, 0.0, Done.NO),
        (middle, 0.5, Done.NO),
    ]


@pytest.mark.parametrize(("theirs", "ours"), [(None, 0.0), (np.float32(0.5), 0.5), (np.array(0.5), 0.5), (1, 1.0)])
def test_rewards_are_floats(theirs: Any, ours: float) -> None:
    environment = DmEnvironment(World([dm_env.restart(np.zeros(1)), dm_env.transition(theirs, np.zeros(1))]))
    environment.reset()
    _, reward, _ = environment.step(0)
    assert type(reward) is float
    assert reward == ours


def test_actions_arrive_as_the_environment_has_them() -> None:
    spec = collections.OrderedDict(
        push=[specs.BoundedArray((2,), np.float64, [-0.1, -2.0], 0.1)],
        choice=specs.DiscreteArray(3, WIDE),
        level=specs.BoundedArray((), np.int32, 5, 7),
        dials=specs.BoundedArray((2,), np.int64, [-1, 2], 4),
    )
    world = World([dm_env.restart(np.zeros(1)), dm_env.transition(0.0, np.zeros(1))], action_spec=spec)
    environment = DmEnvironment(world)
    environment.reset()
    environment.step(
        {
            "push": (np.array([0.1, -3.0], np.float32),),
            "choice": np.int32(2),
            "level": np.int32(1),
            "dials": np.array([3, 0], np.int32),
        }
    )
    given = world.actions[0]
    # 0.1 is above the bound as a number of 32 bits.
    expected = {"push": [[0.1, -2.0]], "choice": 2, "level": 6, "dials": [2, 2]}
    assert tree.map_structure(lambda leaf: leaf.tolist(), dict(given)) == expected
    tree.map_structure(lambda part, leaf: part.validate(leaf), spec, given)
    assert {2: "right"}[given["choice"]] == "right"


def test_a_single_choice_is_discrete_however_it_is_written() -> None:
    assert (
        action_kind(DmEnvironment(World(action_spec=specs.BoundedArray((), np.int64, 0, 3))).action_spec) == "discrete"
    )


@pytest.mark.parametrize("reward", [specs.Array((2,), np.float32), [specs.Array((), np.float32)] * 2])
def test_several_rewards_are_refused(reward: Nest) -> None:
    with pytest.raises(UserError, match=r"^World has several rewards .*: wrap it into an environment whose reward is"):
        DmEnvironment(World(reward_spec=reward))


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"StringArray.* are not supported: they must be numbers"):
        DmEnvironment(World(observation_spec={"text": specs.StringArray(())}))


def test_a_subclass_can_seed_its_world_and_others_ignore_seeds() -> None:
    seeds = []

    class Seeded(DmEnvironment):
        def _seed(self, seed: int) -> None:
            seeds.append(seed)

    environment = Seeded(World())
    environment.reset()
    environment.reset(7)
    assert seeds == [7]
    assert DmEnvironment(World()).reset(7) == 0


def test_the_environment_is_closed_and_keeps_its_frame_rate() -> None:
    world = World()
    environment = DmEnvironment(world, frame_rate=12.5)
    environment.close()
    assert world.closed
    assert environment.frame_rate == 12.5


def test_an_unknown_object_has_neither_state_nor_pictures() -> None:
    environment = DmEnvironment(World())
    assert environment.state() is None
    with pytest.raises(UserError, match="has no pictures to record"):
        environment.render()


# The Control Suite.


def trajectory(environment: Environment, steps: int, seed: int = 0) -> list[Any]:
    """What random actions lead to."""
    generator = np.random.default_rng(seed)
    spec = environment.action_spec
    results = [environment.step(generator.uniform(-1, 1, spec.shape).astype(np.float32)) for _ in range(steps)]
    return [(tree.map_structure(np.ndarray.tolist, state), reward, done) for state, reward, done in results]


@needs_suite
def test_a_task_by_name() -> None:
    environment = make("dm_control:walker-walk")
    assert_same(
        environment.observation_spec,
        {
            "orientations": specs.Array((14,), np.float32),
            "height": specs.Array((), np.float32),
            "velocity": specs.Array((9,), np.float32),
        },
    )
    assert_same(environment.action_spec, specs.BoundedArray((6,), np.float32, [-1] * 6, [1] * 6))
    assert environment.frame_rate == pytest.approx(40.0)
    state = environment.reset(0)
    tree.map_structure(lambda spec, leaf: spec.validate(leaf), environment.observation_spec, state)


@needs_suite
def test_a_seed_gives_the_episode_that_the_suite_gives() -> None:
    environment = DeepMindControl("ball_in_cup-catch")
    trajectory(environment, 30)
    from dm_control import suite

    theirs = suite.load("ball_in_cup", "catch", {"random": 7})
    generator = np.random.default_rng(1)
    assert_same(environment.reset(7), single(theirs.reset().observation))
    for _ in range(60):
        action = generator.uniform(-1, 1, 2).astype(np.float32)
        state, reward, done = environment.step(action)
        expected = theirs.step(action)
        assert_same(state, single(expected.observation))
        assert (reward, done) == (expected.reward, Done.NO)


def single(observation: Nest) -> Nest:
    return {name: np.asarray(part, np.float32) for name, part in observation.items()}


@needs_suite
@pytest.mark.parametrize("name", ["reacher-easy", "lqr-lqr_2_1"])
def test_a_seed_reproduces_episodes_in_any_environment(name: str) -> None:
    one, other = DeepMindControl(name), DeepMindControl(name)
    trajectory(other, 20)
    states = [tree.map_structure(np.ndarray.tolist, environment.reset(3)) for environment in (one, other)]
    assert states[0] == states[1]
    assert trajectory(one, 20) == trajectory(other, 20)
    assert_differ(one.reset(), other.reset(4))


@needs_suite
def test_without_a_seed_environments_differ() -> None:
    assert_differ(DeepMindControl("reacher-easy").reset(), DeepMindControl("reacher-easy").reset())


def assert_differ(one: Nest, other: Nest) -> None:
    assert any(not np.array_equal(a, b) for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True))


@needs_suite
def test_the_time_limit_truncates_and_skipped_frames_count() -> None:
    environment = DeepMindControl("pendulum-swingup", frame_skip=7)
    environment.reset(0)
    dones = [environment.step(np.zeros(1, np.float32))[2] for _ in range(143)]
    assert dones == [Done.NO] * 142 + [Done.TRUNCATED]
    assert environment.step(np.zeros(1, np.float32))[1:] == (0.0, Done.NO)


@needs_suite
def test_the_rewards_of_skipped_frames_add_up() -> None:
    one, three = DeepMindControl("cartpole-balance"), DeepMindControl("cartpole-balance", frame_skip=3)
    one.reset(0)
    three.reset(0)
    action = np.array([0.5], np.float32)
    states, rewards, _ = zip(*[one.step(action) for _ in range(3)], strict=True)
    state, reward, _ = three.step(action)
    assert_same(state, states[-1])
    assert reward == sum(rewards)
    assert three.frame_rate == one.frame_rate / 3


@needs_suite
# Their targets and their actuators are drawn anew for every episode, and are in the model.
@pytest.mark.parametrize("name", ["reacher-easy", "point_mass-hard"])
@pytest.mark.parametrize("steps", [0, 25, 999, 1000])
def test_a_restored_state_goes_on_exactly(name: str, steps: int) -> None:
    one, other = DeepMindControl(name), DeepMindControl(name)
    one.reset(0)
    trajectory(one, steps)
    state = one.state()
    assert len(state) < 100_000
    other.reset(5)
    other.restore(state)
    assert trajectory(other, 20) == trajectory(one, 20)
    assert_same(other.reset(), one.reset())


@needs_suite
@needs_driver
def test_it_is_drawn_without_a_screen() -> None:
    environment = DeepMindControl("cartpole-swingup")
    environment.reset(0)
    before = environment.render()
    assert (before.shape, before.dtype) == ((240, 320, 3), np.uint8)
    assert before.std() > 10
    trajectory(environment, 20)
    assert np.mean(before != environment.render()) > 0.001
    environment.close()


@needs_suite
@needs_driver
def test_states_can_be_pictures() -> None:
    environment = DeepMindControl("cartpole-swingup", pixels=True, height=48, width=64, frame_skip=10, camera=1)
    assert_same(environment.observation_spec, specs.BoundedArray((48, 64, 3), np.uint8, 0, 255))
    first = environment.reset(0)
    state, _, _ = environment.step(np.ones(1, np.float32))
    for picture in (first, state):
        environment.observation_spec.validate(picture)
    assert not np.array_equal(first, state)
    other = DeepMindControl("cartpole-swingup", pixels=True, height=48, width=64, camera=0)
    assert not np.array_equal(other.reset(0), first)


@needs_suite
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"frame_skip": 0}, r"^DeepMindControl.frame_skip is 0: it must be positive"),
        (
            {"camera": 2},
            r"^DeepMindControl.camera is 2: 'cheetah-run' has the cameras 0 to 1, and -1, which stands free",
        ),
        ({"pixels": True, "height": 481}, r"height is 481 and its width 84: pictures .* have at most 480 times 640"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DeepMindControl("cheetah-run", **settings)


@needs_suite
@pytest.mark.parametrize("name", ["cheetah-rn", "cheeta-run", "cheetah"])
def test_an_unknown_task_lists_the_near_ones(name: str) -> None:
    with pytest.raises(UserError, match=rf"The Control Suite has no task '{name}'; did you mean .*cheetah-run.*\?"):
        make(f"dm_control:{name}")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dm_control.suite", None)
    with pytest.raises(UserError, match=r"needs dm_control.suite, which is not installed .*\./setup.sh --with=mujoco"):
        DeepMindControl("cheetah-run")


@needs_suite
def test_a_machine_that_cannot_draw_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = DeepMindControl("cheetah-run")

    def render(*_: Any, **__: Any) -> None:
        raise RuntimeError("no driver")

    monkeypatch.setenv("MUJOCO_GL", "disabled")
    monkeypatch.setattr(environment._control.physics, "render", render)
    advice = r"\(no driver\): MUJOCO_GL is 'disabled', .* 'egl' .*libegl1.* 'osmesa' \(libosmesa6\)"
    with pytest.raises(UserError, match=rf"^'cheetah-run' cannot be drawn here {advice}"):
        environment.render()


def without_driver(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """As where a library is installed that cannot draw: `dm_control` can be imported without drawing only."""

    def load(name: str) -> str:
        if os.environ.get("MUJOCO_GL") != "disabled":
            raise AttributeError("no display")
        return name

    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")  # so that it is as before when the test has ended
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name)
    monkeypatch.setattr(dm.importlib, "import_module", load)


def test_a_library_that_misses_its_driver_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    without_driver(monkeypatch)
    assert dm._suite() == "dm_control.suite"


@pytest.mark.parametrize("environment", [{"MUJOCO_GL": "egl"}, {"DISPLAY": ":0"}])
def test_a_choice_that_misses_its_driver_is_told(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    without_driver(monkeypatch, **environment)
    with pytest.raises(UserError, match=r"^MuJoCo cannot be imported \(no display\): MUJOCO_GL is .*'disabled' does"):
        dm._suite()


@pytest.mark.parametrize(
    ("libraries", "choice"), [(["EGL", "OSMesa"], "egl"), (["OSMesa"], "osmesa"), ([], "disabled")]
)
def test_without_a_screen_what_is_there_draws(
    libraries: list[str], choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name if name in libraries else None)
    assert dm._headless() == choice


@needs_suite
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, dm._headless()),
        ({"DISPLAY": ":0"}, None),
        ({"MUJOCO_GL": "osmesa"}, "osmesa"),
    ],
    ids=["no screen", "a screen", "chosen"],
)
def test_what_draws_is_chosen_where_nobody_did(
    before: dict[str, str], after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dm._suite()
    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")  # so that it is as before when the test has ended
        monkeypatch.delenv(name)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    dm._suite()
    assert os.environ.get("MUJOCO_GL") == after
