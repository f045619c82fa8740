"""E environments stepped together, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tree

from pipeline.envs.crashes import Crashes
from pipeline.envs.environment import Done, Environment
from pipeline.types import Nest

Result = tuple[Nest, float, Done]
"""state, reward and done of one lane"""


class Lanes:
    """Environments side by side: states [E, ...], rewards [E] f32, dones [E] i8 (values of `Done`).

    Each lane follows `Environment`: one vector step after its episode ended it stands at its next first state. With
    `together` a lane that ended waits at its final state, still done, until one vector step after all of them ended.

    With `crashes` an environment that raises, hangs or gives what is not finite is made anew, and its episode is
    truncated at the state before.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], Environment]],
        together: bool = False,
        crashes: Crashes | None = None,
    ):
        """`makers` makes each lane's environment."""
        self._makers = list(makers)
        self._environments = [make() for make in self._makers]
        self._together = together
        self._crashes = crashes
        self._latest: list[Result] = []
        """what each lane gave last"""
        self.observation_spec = self._environments[0].observation_spec
        self.action_spec = self._environments[0].action_spec
        # One array each is the common case and needs no walk through a nest.
        self._stack = _stack_nests if tree.is_nested(self.observation_spec) else self._stack_arrays
        self._split = _split_nest if tree.is_nested(self.action_spec) else list

    def __len__(self) -> int:
        return len(self._environments)

    def reset(self, seed: int | Sequence[int] | None = None) -> Nest:
        """Starts an episode in every lane, with `seed` of each, or with its own of those that one seed makes."""
        seeds: Sequence[int | None] = [None] * len(self)
        if seed is not None:
            seeds = episode_seeds(seed, len(self)) if isinstance(seed, int) else seed
        states = [self._begin(lane, own) for lane, own in enumerate(seeds)]
        self._latest = [(state, 0.0, Done.NO) for state in states]
        return self._stack(states)

    def _begin(self, lane: int, seed: int | None) -> Nest:
        """The lane's first state; an environment that fails is made anew until one begins."""
        while True:
            try:
                return self._environments[lane].reset(seed)
            except Exception as error:
                if self._crashes is None:
                    raise
                self._renew(lane, error)

    def step(self, actions: Nest) -> tuple[Nest, np.ndarray, np.ndarray]:
        """Steps every lane with its action, [E, ...]."""
        if self._crashes is None:
            results = self._results(lambda lane, action: self._environments[lane].step(action), actions)
        else:
            with self._crashes.watch(len(self)):
                results = self._results(self._guarded, actions)
        stepped = self._arrays(results)
        if self._crashes is not None and not _is_finite(*stepped[:2]):
            error = ValueError("its state or reward is not finite")
            results = [r if _is_finite(*r[:2]) else self._failed(lane, error) for lane, r in enumerate(results)]
            stepped = self._arrays(results)
        self._latest = results
        return stepped

    def _results(self, advance: Callable[[int, Nest], Result], actions: Nest) -> list[Result]:
        """One result for each lane: it advances, or waits for the others."""
        waits = [self._together and bool(done) for _, _, done in self._latest]
        if not any(waits) or all(waits):
            return [advance(lane, action) for lane, action in enumerate(self._split(actions))]
        return [
            (state, 0.0, done) if wait else advance(lane, action)
            for lane, (action, wait, (state, _, done)) in enumerate(
                zip(self._split(actions), waits, self._latest, strict=True)
            )
        ]

    def _guarded(self, lane: int, action: Nest) -> Result:
        """The lane's step, or what stands for one that failed."""
        try:
            return self._environments[lane].step(action)
        except Exception as error:
            return self._failed(lane, error)

    def _failed(self, lane: int, error: Exception) -> Result:
        """What stands for a step that failed: the episode ends at the state before."""
        self._renew(lane, error)
        return self._latest[lane][0], 0.0, Done.TRUNCATED

    def _renew(self, lane: int, error: Exception) -> None:
        """Counts the failure and makes the lane's environment anew; it begins with its next step."""
        assert self._crashes is not None
        self._crashes.note(error, lane)
        with contextlib.suppress(Exception):
            self._environments[lane].close()
        self._environments[lane] = self._makers[lane]()

    def _arrays(self, results: Sequence[Result]) -> tuple[Nest, np.ndarray, np.ndarray]:
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


def episode_seeds(seed: int, count: int) -> list[int]:
    """The first `count` of the seeds in [0, 2^31) that `seed` makes."""
    return [int(own) for own in np.random.SeedSequence(seed).generate_state(count) >> 1]


def _is_finite(state: Nest, reward: Any) -> bool:
    return bool(np.isfinite(reward).all()) and all(
        bool(np.isfinite(leaf).all()) for leaf in tree.flatten(state) if np.issubdtype(leaf.dtype, np.floating)
    )


def _stack_nests(nests: Sequence[Nest]) -> Nest:
    return tree.map_structure(lambda *leaves: np.stack(leaves), *nests)


def _split_nest(nest: Nest) -> list[Nest]:
    leaves = [list(leaf) for leaf in tree.flatten(nest)]
    return [tree.unflatten_as(nest, lane) for lane in zip(*leaves, strict=True)]
