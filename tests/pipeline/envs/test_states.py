"""States enter as declared or are told of, and no state changes after it was given."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import dm_env
import dm_env.specs as specs
import gymnasium
import numpy as np
import pytest
import tree
from gymnasium import spaces

from pipeline.envs import notices
from pipeline.envs.block import InProcess
from pipeline.envs.crashes import CrashError, Crashes
from pipeline.envs.dm import DmEnvironment
from pipeline.envs.environment import Done, Environment
from pipeline.envs.gym import GymAdapter
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import check_begins
from pipeline.envs.processes import Processes
from pipeline.envs.spaces import actions
from pipeline.envs.states import StateError
from pipeline.envs.wrappers.frames import FrameStack
from pipeline.types import UserError

ACTIONS = np.zeros(1, np.int32)
PICTURE = spaces.Box(0, 255, (4, 4, 3), np.uint8)


@pytest.fixture(autouse=True)
def unsaid() -> None:
    notices._said.clear()


class Shows(gymnasium.Env):
    """Gives `states` in turn, one an episode's step, and `rewards`; the last of them again and again."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: Any, *states: Any, reward: Any = 1.0) -> None:
        self.observation_space, self.states, self.reward = space, list(states), reward

    def _state(self) -> Any:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._state(), {}

    def step(self, action: Any) -> Any:
        return self._state(), self.reward, False, False, {}


def adapted(space: Any, *states: Any, reward: Any = 1.0) -> GymAdapter:
    make = partial(Shows, space, *states, reward=reward)
    return GymAdapter("mine", make(), make)


def box(*shape: int, dtype: Any = np.float32, high: Any = 1) -> Any:
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("space", "state", "said"),
    [
        (box(3), np.zeros(1, np.float32), r"state of 'mine' has the shape \(1,\), and is declared as float32 \(3,\)"),
        (box(2, 3), np.zeros(3, np.float32), r"has the shape \(3,\), and is declared as float32 \(2, 3\)"),
        (box(3), np.zeros((1, 3), np.float32), r"has the shape \(1, 3\)"),
        (box(), np.zeros(1, np.float32), r"has the shape \(1,\), and is declared as float32 \(\)"),
        (box(3), [[0.0], [0.0, 1.0], []], "is no array"),
        (box(3), None, "is of type NoneType"),
        (box(1), np.array(["a"]), "is of type ndarray"),
        (box(1), np.array([1j]), "is of type ndarray"),
        (
            PICTURE,
            np.full((4, 4, 3), 0.5),
            r"has fractions \(0.5\) and nothing beyond 1, .* uint8 \(4, 4, 3\): declare it",
        ),
        (PICTURE, np.full((4, 4, 3), np.nan), "has the float64 nan, and is declared as uint8"),
        (PICTURE, np.full((4, 4, 3), -1), "has the int64 -1, and is declared as uint8"),
        (
            box(1, dtype=np.int64, high=2**40),
            np.array([2**40]),
            "the int64 1099511627776, beyond the int32 that is kept",
        ),
        (box(1, dtype=np.uint64, high=2**63), np.array([2**63], np.uint64), "beyond the uint32 that is kept of it"),
        (box(1, dtype=np.bool_), np.array([2]), "has the int64 2, and is declared as bool"),
        (spaces.Discrete(4), 7, r"is 7, and is declared as integers \(\) from 0 to 3"),
        (spaces.Discrete(4, start=10), 3, "is 3, and is declared as integers .* from 10 to 13"),
        (spaces.Discrete(4), np.array([1]), r"has the shape \(1,\)"),
        (spaces.Discrete(4), 1.5, "is 1.5, .*: give whole numbers"),
        (
            spaces.MultiDiscrete([2, 3]),
            np.array([2, 0]),
            r"is \[2, 0\], and is declared as integers \(2,\) from \[0, 0\]",
        ),
        (spaces.MultiBinary(2), np.array([0, 2]), r"is \[0, 2\]"),
        (spaces.Dict(a=box(1), b=box(2)), {"a": np.zeros(1)}, r"has the keys \['a'\], .* a dict of 'a', 'b'"),
        (spaces.Dict(a=box(1)), np.zeros(1), "is a ndarray, and is declared as a dict of 'a'"),
        (
            spaces.Dict(a=spaces.Dict(b=box(2))),
            {"a": {"b": np.zeros(1)}},
            r"state\['a'\]\['b'\] of 'mine' has the shape",
        ),
        (spaces.Tuple([box(1), box(2)]), (np.zeros(1),), "is 1 parts, and is declared as a tuple of 2"),
        (spaces.Tuple([box(1), box(2)]), (np.zeros(1), np.zeros(3)), r"state\[1\] of 'mine' has the shape \(3,\)"),
    ],
)
def test_a_state_that_is_not_as_declared_is_refused_at_the_first_one(space: Any, state: Any, said: str) -> None:
    with pytest.raises(StateError, match=said):
        check_begins(adapted(space, state))
    with pytest.raises(StateError, match=said):  # before any environment is made anew
        Lanes(InProcess([partial(adapted, space, state)]), crashes=Crashes(1.0, 60.0)).reset(0)


@pytest.mark.parametrize(
    ("space", "state", "expected"),
    [
        (box(2, dtype=np.float64), np.array([0.5, 1]), np.array([0.5, 1], np.float32)),
        (box(2, dtype=np.float16), np.array([0.5, 1], np.float16), np.array([0.5, 1], np.float32)),
        (box(2), [0.5, 1], np.array([0.5, 1], np.float32)),
        (box(2), np.array([0, 1]), np.array([0, 1], np.float32)),
        (box(), 0.5, np.array(0.5, np.float32)),
        (box(2, dtype=np.int64, high=9), np.array([3, 9]), np.array([3, 9], np.int32)),
        (PICTURE, np.full((4, 4, 3), 255.0), np.full((4, 4, 3), 255, np.uint8)),
        (PICTURE, np.full((4, 4, 3), 7), np.full((4, 4, 3), 7, np.uint8)),
        (spaces.Discrete(4, start=10), np.int64(11), np.array(1, np.int32)),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), [2, -1], np.array([1, 0], np.int32)),
    ],
)
def test_other_numbers_of_the_same_values_are_taken(space: Any, state: Any, expected: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = adapted(space, state).reset(0)
    np.testing.assert_array_equal(read, expected)
    assert (read.dtype, read.shape) == (expected.dtype, expected.shape)


def test_fractions_that_are_cut_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    environment = adapted(PICTURE, np.full((4, 4, 3), 2.5))
    assert environment.reset(0)[0, 0, 0] == 2
    environment.step(0)
    said = capsys.readouterr().out
    assert said.count("WARNING: The state of 'mine' has fractions (2.5) and is declared as uint8 (4, 4, 3)") == 1


def test_what_no_network_takes_is_left_out_and_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    space = spaces.Dict(
        direction=spaces.Discrete(4),
        mission=spaces.Text(20),
        more=spaces.Tuple([spaces.Sequence(spaces.Discrete(3)), box(1), spaces.Graph(box(2), None)]),
        words=spaces.Dict(text=spaces.Text(3)),
    )
    state = {"direction": 2, "mission": "go there", "more": ((1, 2), np.ones(1), None), "words": {"text": "abc"}}
    environment, _ = adapted(space, state), adapted(space, state)
    assert environment.observation_spec.keys() == {"direction", "more"}
    assert environment.own_observation().keys() == {"direction", "more"}
    read = environment.reset(0)
    tree.map_structure(lambda spec, leaf: spec.validate(leaf), environment.observation_spec, read)
    assert (read["direction"], read["more"][0].tolist()) == (2, [1.0])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[0] == "WARNING: The state['mission'] of 'mine' is a Text, which no network takes: it is left out."
    for alone in (spaces.Text(3), spaces.Dict(a=spaces.Text(3)), spaces.Dict({})):
        with pytest.raises(UserError):
            adapted(alone, "a")
    with pytest.raises(UserError, match=r"Spaces of kind Text are not supported; use Discrete.*actions of 'mine'"):
        actions(spaces.Dict(a=spaces.Text(3)), "mine")


def test_a_later_state_that_is_not_as_declared_is_a_failure_of_its_environment() -> None:
    good, bad = np.zeros(3, np.float32), np.zeros(2, np.float32)
    crashes = Crashes(1.0, 60.0)
    lanes = Lanes(InProcess([partial(adapted, box(3), good, good, bad, good)]), crashes=crashes)
    lanes.reset(0)
    assert [int(lanes.step(ACTIONS)[2][0]) for _ in range(3)] == [Done.NO, Done.TRUNCATED, Done.NO]
    assert crashes.count == 1


@pytest.mark.parametrize("reward", [np.ones(2), None, "much", [1.0, 2.0]])
def test_a_reward_that_is_not_one_number_is_refused(reward: Any) -> None:
    lanes = Lanes(InProcess([partial(adapted, box(1), np.zeros(1), reward=reward)]), crashes=Crashes(1.0, 60.0))
    lanes.reset(0)
    with pytest.raises(UserError, match=r"'mine' gives the reward .*: it must be one number"):
        lanes.step(ACTIONS)


@pytest.mark.parametrize("reward", [1, True, np.float32(1), np.ones(1), np.ones(())])
def test_a_reward_of_one_number_is_taken(reward: Any) -> None:
    environment = adapted(box(1), np.zeros(1), reward=reward)
    environment.reset(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert environment.step(0)[1] == 1.0


class Wrong(Environment):
    """Its state has another shape than it says."""

    def __init__(self) -> None:
        self.observation_spec = specs.Array((3,), np.float32)
        self.action_spec = specs.DiscreteArray(2, np.int32)

    def _begin(self, seed: int | None) -> Any:
        return np.zeros(1, np.float32)

    def _advance(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, Done.NO


def test_a_state_that_is_not_as_declared_is_told_out_of_processes_too() -> None:
    lanes = Lanes(Processes([Wrong] * 2, 1, 60.0), crashes=Crashes(1.0, 60.0))
    with pytest.raises(UserError, match=r"state of 'Wrong' has the shape \(1,\), and is declared as float32 \(3,\)"):
        lanes.reset(0)
    lanes.close()


class Nan(Environment):
    """Every second episode begins with a state that is not finite; episodes have one step."""

    def __init__(self, value: float = np.nan, period: int = 2) -> None:
        self.observation_spec = {"a": specs.Array((2,), np.float32), "b": specs.Array((), np.int32)}
        self.action_spec = specs.DiscreteArray(2, np.int32)
        self.begun, self.value, self.period = 0, value, period

    def _begin(self, seed: int | None) -> Any:
        self.begun += 1
        bad = self.begun % self.period == 0
        return {"a": np.array([0.0, self.value if bad else 1.0], np.float32), "b": 1}

    def _advance(self, action: Any) -> Any:
        return {"a": np.zeros(2, np.float32), "b": 1}, 0.0, Done.TERMINATED


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("together", [False, True], ids=["training", "evaluation"])
def test_a_first_state_that_is_not_finite_is_a_failure(together: bool, value: float) -> None:
    crashes = Crashes(1.0, 60.0)
    lanes = Lanes(InProcess([partial(Nan, value)] * 2), together=together, crashes=crashes)
    for _ in range(3):
        state = lanes.reset(0)
        assert np.isfinite(state["a"]).all()
        for _ in range(4):
            assert np.isfinite(lanes.step(np.zeros(2, np.int32))[0]["a"]).all()
    assert crashes.count


def test_a_first_state_that_is_never_finite_ends_the_run_in_processes_too() -> None:
    lanes = Lanes(Processes([partial(Nan, period=1)], 1, 60.0), crashes=Crashes(1.0, 60.0))
    with pytest.raises(CrashError, match="its state or reward is not finite"):
        lanes.reset(0)
    lanes.close()
    with pytest.raises(ValueError, match="not finite"):
        Lanes(InProcess([partial(Nan, period=1)])).reset(0)


class Reuses(Environment):
    """Writes every state into one array, as simulators do; it shows the step."""

    def __init__(self) -> None:
        self.observation_spec = specs.Array((2,), np.float32)
        self.action_spec = specs.DiscreteArray(2, np.int32)
        self.buffer = np.zeros(2, np.float32)

    def _begin(self, seed: int | None) -> Any:
        self.buffer[:] = 0
        return self.buffer

    def _advance(self, action: Any) -> Any:
        self.buffer += 1
        return self.buffer, 0.0, Done.NO


class GymReuses(gymnasium.Env):
    observation_space = spaces.Box(0, 9, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.inner = Reuses()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.inner._begin(None), {}

    def step(self, action: Any) -> Any:
        return self.inner._advance(action)[0], 0.0, False, False, {}


class DmReuses(dm_env.Environment):
    def __init__(self) -> None:
        self.inner = Reuses()

    def reset(self) -> Any:
        return dm_env.restart(self.inner._begin(None))

    def step(self, action: Any) -> Any:
        return dm_env.transition(0.0, self.inner._advance(action)[0])

    def observation_spec(self) -> Any:
        return self.inner.observation_spec

    def action_spec(self) -> Any:
        return self.inner.action_spec


@pytest.mark.parametrize(
    "make",
    [Reuses, lambda: GymAdapter("mine", GymReuses(), GymReuses), lambda: DmEnvironment(DmReuses())],
    ids=["own", "gymnasium", "dm_env"],
)
def test_no_state_changes_after_it_was_given(make: Any) -> None:
    environment = make()
    states = [environment.reset(0), *(environment.step(0)[0] for _ in range(3))]
    assert [state[0] for state in states] == [0, 1, 2, 3]
    stacked = FrameStack(make(), 3)
    stacks = [stacked.reset(0), *(stacked.step(0)[0] for _ in range(3))]
    assert [stack[:, 0].tolist() for stack in stacks] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
