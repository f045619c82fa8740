"""A scripted environment: episodes of known lengths, endings and rewards, for tests and examples."""

from __future__ import annotations

import dm_env.specs as specs
import numpy as np

from pipeline.envs.environment import Done, Environment
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import Nest


@ENVIRONMENTS.register("scripted")
class Scripted(Environment):
    """Plays the scripted episodes in turn; the state is [episode, step] and the reward of step i (from 0) is i + 1."""

    def __init__(self, lengths: tuple[int, ...] = (3, 1, 5), truncated: tuple[bool, ...] = (False, True, False)):
        """`lengths`: steps of each episode; `truncated`: whether it is cut (True) or terminates."""
        self._script = list(zip(lengths, truncated, strict=True))
        self._episode = -1
        self._step = 0
        self.observation_spec = specs.Array((2,), np.float32)
        self.action_spec = specs.DiscreteArray(2, np.int32)

    def _begin(self, seed: int | None) -> Nest:
        self._episode = 0 if seed is not None else self._episode + 1
        self._step = 0
        return self._state()

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        self._step += 1
        length, truncated = self._script[self._episode % len(self._script)]
        ending = Done.TRUNCATED if truncated else Done.TERMINATED
        return self._state(), float(self._step), ending if self._step == length else Done.NO

    def _state(self) -> np.ndarray:
        return np.array([self._episode, self._step], np.float32)
