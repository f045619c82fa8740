"""Environments with habits that users' own have: opened and closed with care, one at a time, slow, without an end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np


class Counted(gym.Env):
    """Ten steps an episode; counts how many of its class are open."""

    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)
    length = 10
    opened: set[int] = set()  # noqa: RUF012 it is meant to be shared
    most = 0
    """that were open together"""

    def __init__(self) -> None:
        self.opened.add(id(self))
        type(self).most = max(self.most, len(self.opened))
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        return self._seen(), 1.0, False, self._steps >= self.length, {}

    def close(self) -> None:
        self.opened.discard(id(self))

    def _seen(self) -> np.ndarray:
        return np.full(3, 0.1, np.float32)


class Single(Counted):
    """Holds what only one can hold."""

    opened: set[int] = set()  # noqa: RUF012

    def __init__(self) -> None:
        if self.opened:
            raise OSError(98, "Address already in use")
        super().__init__()


class Unclosable(Counted):
    """Cannot be closed without an error."""

    opened: set[int] = set()  # noqa: RUF012

    def close(self) -> None:
        super().close()
        raise RuntimeError("already closed")


class Endless(Counted):
    """Its episodes have no end."""

    opened: set[int] = set()  # noqa: RUF012
    length = 10**9


class Levels(Counted):
    """Draws its levels with the global generators of numpy and Python, as many custom environments do."""

    opened: set[int] = set()  # noqa: RUF012
    drawn: list[tuple[int, int]] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self.drawn.append((int(np.random.randint(10**9)), random.randrange(10**9)))
        return super().reset(seed=seed)

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot be pickled")


class Saved(Levels):
    """The same, with a state that can be saved."""

    opened: set[int] = set()  # noqa: RUF012
    drawn: list[tuple[int, int]] = []  # noqa: RUF012

    def __reduce__(self) -> Any:
        return object.__reduce_ex__(self, 2)


class Interrupting(Counted):
    """Calls its `hooks` in every step: a test then has the process asked to stop."""

    opened: set[int] = set()  # noqa: RUF012
    hooks: list[Callable[[], None]] = []  # noqa: RUF012

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        for hook in self.hooks:
            hook()
        return super().step(action)


class Wide(Counted):
    """Takes many actions at once, each a number."""

    opened: set[int] = set()  # noqa: RUF012
    action_space = gym.spaces.Box(-1, 1, (200,), np.float32)  # pyright: ignore[reportAssignmentType]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:  # pyright: ignore[reportIncompatibleMethodOverride]
        state, _, terminated, truncated, info = super().step(0)
        return state, -float(np.square(action).mean()), terminated, truncated, info
