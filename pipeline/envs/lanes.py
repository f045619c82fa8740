"""E environments stepped together, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tree

from pipeline.envs.environment import Done, Environment
from pipeline.types import Nest


class Lanes:
    """Environments side by side: states [E, ...], rewards [E] f32, dones [E] i8 (values of `Done`).

    Each lane follows `Environment`: one vector step after its episode ended it stands at its next first state. With
    `together` a lane that ended waits at its final state, still done, until one vector step after all of them ended.
    """

    def __init__(self, environments: Sequence[Environment], together: bool = False):
        self._environments = list(environments)
        self._together = together
        self._latest: list[tuple[Nest, float, Done]] = []
        """of lanes that may have to wait"""
        self.observation_spec = self._environments[0].observation_spec
        self.action_spec = self._environments[0].action_spec
        # One array each is the common case and needs no walk through a nest.
        self._stack = _stack_nests if tree.is_nested(self.observation_spec) else self._stack_arrays
        self._split = _split_nest if tree.is_nested(self.action_spec) else list

    @classmethod
    def make(cls, maker: Callable[[], Environment], lanes: int, together: bool = False) -> Lanes:
        """`lanes` environments from `maker`."""
        return cls([maker() for _ in range(lanes)], together)

    def __len__(self) -> int:
        return len(self._environments)

    def reset(self, seed: int | None = None) -> Nest:
        """Starts an episode in every lane, each with a seed of its own drawn from `seed`."""
        seeds: Sequence[int | None] = [None] * len(self)
        if seed is not None:
            seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(len(self)) >> 1]
        self._latest = []
        return self._stack([e.reset(s) for e, s in zip(self._environments, seeds, strict=True)])

    def step(self, actions: Nest) -> tuple[Nest, np.ndarray, np.ndarray]:
        """Steps every lane with its action, [E, ...]."""
        waiting = [bool(done) for _, _, done in self._latest]
        if not any(waiting) or all(waiting):
            results = [e.step(a) for e, a in zip(self._environments, self._split(actions), strict=True)]
        else:
            results = [
                (state, 0.0, done) if done else environment.step(action)
                for environment, action, (state, _, done) in zip(
                    self._environments, self._split(actions), self._latest, strict=True
                )
            ]
        if self._together:
            self._latest = results
        states, rewards, dones = zip(*results, strict=True)
        return self._stack(states), np.array(rewards, np.float32), np.array(dones, np.int8)

    def _stack_arrays(self, states: Sequence[np.ndarray]) -> np.ndarray:
        # A third of np.stack's time for small states.
        stacked = np.empty((len(states), *self.observation_spec.shape), self.observation_spec.dtype)
        for lane, state in enumerate(states):
            stacked[lane] = state
        return stacked

    def state(self) -> dict[str, Any] | None:
        """All that the next steps depend on, picklable; None where an environment cannot give its own."""
        states = [environment.state() for environment in self._environments]
        return None if None in states else {"environments": states, "latest": self._latest}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, which like lanes gave."""
        for environment, own in zip(self._environments, state["environments"], strict=True):
            environment.restore(own)
        self._latest = state["latest"]

    def close(self) -> None:
        """Closes every environment."""
        for environment in self._environments:
            environment.close()


def _stack_nests(nests: Sequence[Nest]) -> Nest:
    return tree.map_structure(lambda *leaves: np.stack(leaves), *nests)


def _split_nest(nest: Nest) -> list[Nest]:
    leaves = [list(leaf) for leaf in tree.flatten(nest)]
    return [tree.unflatten_as(nest, lane) for lane in zip(*leaves, strict=True)]
