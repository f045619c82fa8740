"""Each wrapper changes one thing, goes on from its state, and refuses what it cannot serve."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest

from pipeline import index
from pipeline.envs.environment import Done, Environment
from pipeline.envs.make import make
from pipeline.envs.scripted import Scripted
from pipeline.envs.wrappers.basic import ActionRepeat, OneHot, StickyActions, TimeLimit
from pipeline.envs.wrappers.frames import FrameStack, Grey, Resize
from pipeline.types import UserError


def endless() -> Scripted:
    return Scripted((10**9,), (False,))


class Echo(Environment):
    """Its reward is its action; its state is a picture of that brightness, or a number."""

    def __init__(self, pictures: bool = False) -> None:
        self._pictures = pictures
        shape = specs.BoundedArray((8, 6, 3), np.uint8, 0, 255)
        self.observation_spec = shape if pictures else {"number": specs.DiscreteArray(5, np.int32)}
        self.action_spec = specs.DiscreteArray(5, np.int32)

    def _begin(self, seed: int | None) -> Any:
        return self._state(0)

    def _advance(self, action: Any) -> tuple[Any, float, Done]:
        return self._state(action), float(action), Done.NO

    def _state(self, number: int) -> Any:
        if not self._pictures:
            return {"number": np.int32(number)}
        picture = np.zeros((8, 6, 3), np.uint8)
        picture[:4] = (255, 0, 0)
        picture[4:] = number
        return picture


def test_a_time_limit_truncates() -> None:
    environment = TimeLimit(endless(), steps=3)
    for _ in range(2):
        environment.reset(0)
        assert [environment.step(0)[2] for _ in range(3)] == [Done.NO, Done.NO, Done.TRUNCATED]


def test_a_time_limit_leaves_a_termination_as_it_is() -> None:
    environment = TimeLimit(Scripted((3,), (False,)), steps=3)
    environment.reset(0)
    assert [environment.step(0)[2] for _ in range(3)][-1] == Done.TERMINATED


def test_an_action_is_repeated_until_the_episode_ends() -> None:
    environment = ActionRepeat(Scripted((5,), (False,)), times=3)
    environment.reset(0)
    state, reward, done = environment.step(0)
    assert (state[1], reward, done) == (3, 1 + 2 + 3, Done.NO)
    state, reward, done = environment.step(0)
    assert (state[1], reward, done) == (5, 4 + 5, Done.TERMINATED)
    assert environment.step(0)[0].tolist() == [1, 0]


def test_actions_stick_with_the_probability_and_repeat_with_the_seed() -> None:
    def taken(seed: int) -> list[float]:
        environment = StickyActions(Echo(), probability=0.25)
        environment.reset(seed)
        return [environment.step(step % 5)[1] for step in range(4_000)]

    rewards = taken(0)
    stuck = np.mean([reward != step % 5 for step, reward in enumerate(rewards)])
    # A stuck action is another one in four fifths of the cases at least.
    assert 0.2 < stuck < 0.3
    assert taken(0) == rewards
    assert taken(1) != rewards


def test_an_episode_begins_without_an_action_to_stick_to() -> None:
    environment = StickyActions(Echo(), probability=1.0)
    environment.reset(0)
    assert [environment.step(3)[1] for _ in range(3)] == [0, 0, 0]


def test_discrete_states_become_one_hot() -> None:
    environment = OneHot(Echo())
    assert environment.observation_spec["number"].shape == (5,)
    assert environment.reset(0)["number"].tolist() == [1, 0, 0, 0, 0]
    state, _, _ = environment.step(3)
    assert state["number"].tolist() == [0, 0, 0, 1, 0]
    assert state["number"].dtype == np.float32


def test_grey_is_brightness() -> None:
    environment = Grey(Echo(pictures=True))
    environment.reset(0)
    state, _, _ = environment.step(4)
    assert state.shape == environment.observation_spec.shape == (8, 6, 1)
    assert state.dtype == np.uint8
    assert (state[:4] == round(0.299 * 255)).all()
    assert (state[4:] == 4).all()


def test_a_smaller_picture_has_the_means_of_its_areas() -> None:
    environment = Resize(Echo(pictures=True), height=2, width=3)
    state = environment.reset(0)
    assert state.shape == environment.observation_spec.shape == (2, 3, 3)
    assert state[0, 0].tolist() == [255, 0, 0]
    assert state[1, 0].tolist() == [0, 0, 0]


def test_wrappers_stand_in_their_order() -> None:
    environment = FrameStack(Grey(Resize(Echo(pictures=True), 4, 4)), frames=2)
    environment.reset(0)
    environment.step(1)
    state, _, _ = environment.step(2)
    assert state.shape == (2, 4, 4, 1)
    assert state[:, 3, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("wrapped", "sentence"),
    [
        (lambda: Grey(endless()), "Grey needs states that are pictures"),
        (lambda: Resize(Grey(Echo(pictures=True)), height=0), "Resize.height is 0: it must be positive"),
        (lambda: Grey(Grey(Echo(pictures=True))), "Grey needs pictures of 3 colours, and these have 1"),
        (lambda: FrameStack(Echo()), "FrameStack needs states of one array"),
        (lambda: TimeLimit(endless(), 0), "TimeLimit.steps is 0"),
        (lambda: StickyActions(endless(), 1.5), "StickyActions.probability is 1.5"),
        (lambda: ActionRepeat(endless(), 0), "ActionRepeat.times is 0"),
        (lambda: make("scripted", wrappers=["gray"]), "There is no wrapper 'gray'; did you mean grey"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(wrapped: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrapped()


def wrapped_in(name: str) -> Environment:
    pictures = name in ("grey", "resize", "frame_stack")
    return next(
        getattr(__import__(entry.module, fromlist=[entry.class_name]), entry.class_name)(Echo(pictures))
        for entry in index.scan("pipeline.envs.wrappers")
        if entry.name == name
    )


@pytest.mark.parametrize("name", [entry.name for entry in index.scan("pipeline.envs.wrappers")])
def test_every_wrapper_goes_on_from_its_state_and_closes_what_it_wraps(name: str) -> None:
    environment, other = wrapped_in(name), wrapped_in(name)
    environment.reset(3)
    for step in range(20):
        environment.step(step % 5)
    state = environment.state()
    assert state is not None
    other.restore(state)
    for step in range(40):
        for one, two in zip(environment.step(step % 5), other.step(step % 5), strict=True):
            np.testing.assert_equal(one, two)
    closed = []
    inner: Any = environment
    inner.environment.close = lambda: closed.append(True)
    environment.close()
    assert closed
