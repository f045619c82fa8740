"""Environments that end the program that steps them, each where it is told to."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np


class Away(BaseException):
    """No Exception, and none of Python's own."""


KINDS = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit, "Away": Away}


class Quitter(gymnasium.Env):
    """Does in every episode's third step, or wherever else it is told, what ends a program. Rewards are 1."""

    observation_space = gymnasium.spaces.Box(0, 1e9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = "rgb_array"
    made = 0

    def __init__(self, kind: str = "SystemExit", places: tuple[str, ...] = ("step",), first: int = 0) -> None:
        """`places`: 'making', 'reset', 'step', 'render', 'close'; `first`: which of those made begins with it."""
        self.kind, self.first = KINDS[kind], first
        self.number, Quitter.made = Quitter.made, Quitter.made + 1
        self.places = places
        self.metadata = {"render_modes": ["rgb_array"]}
        self.time = 0
        self._at("making")

    def _at(self, place: str) -> None:
        if place in self.places and self.number >= self.first:
            if self.kind is SystemExit:
                sys.exit()
            raise self.kind

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._at("reset")
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        if self.time == 3:
            self._at("step")
        return np.full(1, self.time, np.float32), 1.0, False, False, {}

    def render(self) -> Any:
        self._at("render")
        return np.zeros((4, 4, 3), np.uint8)

    def close(self) -> None:
        self._at("close")
