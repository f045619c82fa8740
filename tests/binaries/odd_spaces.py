"""Environments of any spaces: they give samples of the one, and take nothing but the other."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LENGTH = 8
"""steps of an episode"""


def space(text: str) -> spaces.Space:
    """The space that `text` makes of the names of `gymnasium.spaces` and of `np`."""
    return eval(text, {"np": np, **vars(spaces)})


class World(gymnasium.Env):
    """States and actions of spaces that two texts say."""

    def __init__(self, states: str = "Box(-1, 1, (3,))", actions: str = "Discrete(2)"):
        self.observation_space = space(states)
        self.action_space = space(actions)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not of {self.action_space}.")
        self._steps += 1
        return self.observation_space.sample(), 1.0, False, self._steps == LENGTH, {}
