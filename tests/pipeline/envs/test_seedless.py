"""Environments of gymnasium with a beginner's signatures: played where they can be, else told in a sentence."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from pipeline.envs import notices
from pipeline.envs.gym import GymAdapter, GymEnvironment
from pipeline.types import UserError

NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def unsaid() -> None:
    notices._said.clear()


class Base(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def begin(self) -> Any:
        return self.np_random.normal(size=1).astype(np.float32)

    def step(self, action: Any) -> Any:
        return self.begin(), 0.0, False, False, {}


class Bare(Base):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin(), {}


class BareState(Base):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin()


class SeedOnly(Base):
    def reset(self, seed: int | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gymnasium.Env.reset(self, seed=seed)
        return self.begin(), {}


class SeedAsked(Base):
    def reset(self, seed: int | None, options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gymnasium.Env.reset(self, seed=seed)
        return self.begin(), {}


class OptionsOnly(Base):
    def reset(self, options: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin(), {}


class OldSeed(Base):
    def seed(self, seed: int) -> None:
        self.drawn = np.random.default_rng(seed)

    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin(), {}

    def begin(self) -> Any:
        return self.drawn.normal(size=1).astype(np.float32)


class Anything(Base):
    def reset(self, **kwargs: Any) -> Any:
        gymnasium.Env.reset(self, seed=kwargs["seed"])
        return self.begin(), {}


class Around(gymnasium.Wrapper):
    def reset(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.env.reset()


def wrapped() -> Any:
    return Around(SeedOnly())


@pytest.mark.parametrize("cls", [Bare, BareState, SeedOnly, SeedAsked, OptionsOnly, OldSeed, wrapped])
@pytest.mark.parametrize("registered", [False, True], ids=["class", "id"])
def test_a_reset_gets_what_it_takes_and_the_seed_holds(
    cls: Any, registered: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def made() -> GymAdapter:
        if not registered:
            return GymAdapter("mine", cls(), cls)
        name = f"Seedless{next(NUMBERS)}-v0"
        gymnasium.register(name, entry_point=cls, max_episode_steps=2)
        return GymEnvironment(name)

    environment, other = made(), made()
    first = environment.reset(3)
    np.testing.assert_array_equal(first, other.reset(3))
    assert not np.array_equal(first, environment.reset(4))
    assert not np.array_equal(environment.reset(), environment.reset())
    np.testing.assert_array_equal(first, environment.reset(3))
    told = "takes no seed: what it draws from self.np_random repeats" in capsys.readouterr().out
    assert told == (cls in (Bare, BareState, OptionsOnly, wrapped))
    assert environment.state() is not None or registered


def test_it_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        GymAdapter("mine", Bare(), Bare).reset(0)
    assert capsys.readouterr().out.count("WARNING: The reset of 'mine' takes no seed") == 1


class NoAction(Base):
    def step(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin(), 0.0, False, False, {}


class TwoActions(Base):
    def step(self, action: Any, other: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin(), 0.0, False, False, {}


class Level(Base):
    def reset(self, level: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.begin(), {}


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (
            NoAction,
            r"The step of 'mine' is \(\) .*\(too many positional arguments\): it is called with the action",
        ),
        (TwoActions, "The step of 'mine' is .*missing a required argument: 'other'"),
        (Level, "The reset of 'mine' is .*missing a required argument: 'level'.*called with seed and options, by name"),
    ],
)
def test_other_arguments_are_told(cls: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        GymAdapter("mine", cls(), cls)


@pytest.mark.parametrize("result", [(np.zeros(1), 0.0, True), np.zeros(1), None])
def test_a_step_that_gives_something_else_is_told(result: Any) -> None:
    class Gives(Anything):
        def step(self, action: Any) -> Any:
            return result

    environment = GymAdapter("mine", Gives(), partial(Gives))
    environment.reset(0)
    with pytest.raises(
        UserError, match=r"step of 'mine' gives .*: it must give \(state, reward, terminated, truncated, in"
    ):
        environment.step(0)
