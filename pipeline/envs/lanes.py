"""E environments side by side, as an agent meets them: they wait for each other if asked to, and outlive failures."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tree

from pipeline.envs.block import Block
from pipeline.envs.closing import close
from pipeline.envs.crashes import Crashes
from pipeline.envs.environment import Done
from pipeline.envs.guard import failure
from pipeline.types import Nest, UserError
from pipeline.waiting import Stopped


class Lanes:
    """States [E, ...], rewards [E] f32, dones [E] i8 (values of `Done`) of the environments of a block.

    Each lane follows `Environment`: one vector step after its episode ended it stands at its next first state. With
    `together` a lane that ended waits at its final state, still done, until one vector step after all of them ended.

    With `crashes` an environment that raises, hangs or gives what is not finite is made anew, and its episode is
    truncated at the state before.
    """

    def __init__(self, block: Block, together: bool = False, crashes: Crashes | None = None):
        self._block = block
        self._closed = False
        self._together = together
        self._crashes = crashes
        self._state: Nest = None
        """[E, ...], what each lane stands at"""
        self._done = np.zeros(len(block), np.int8)
        self._has_stepped = False
        self.observation_spec = block.observation_spec
        self.action_spec = block.action_spec

    def __len__(self) -> int:
        return len(self._block)

    def reset(self, seed: int | Sequence[int] | None = None) -> Nest:
        """Starts an episode in every lane, with `seed` of each, or with its own of those that one seed makes."""
        seeds: Sequence[int | None] = [None] * len(self)
        if seed is not None:
            seeds = episode_seeds(seed, len(self)) if isinstance(seed, int) else seed
        # The first one may start a simulator, so nothing limits it.
        self._state, self._done = self._begin(seeds, contextlib.nullcontext()), np.zeros(len(self), np.int8)
        return self._state

    def step(self, actions: Nest) -> tuple[Nest, np.ndarray, np.ndarray]:
        """Steps every lane with its action, [E, ...]."""
        waiting = self._done != Done.NO if self._together else None
        if waiting is not None and not waiting.any():
            waiting = None
        if waiting is not None and waiting.all():
            watch = contextlib.nullcontext() if self._crashes is None else self._crashes.watch(len(self))
            self._state, self._done = self._begin([None] * len(self), watch), np.zeros(len(self), np.int8)
            return self._state, np.zeros(len(self), np.float32), self._done
        if self._crashes is None:
            result = self._block.step(actions, waiting)
            self._find_not_finite(*result[:2])
            if self._block.failures:
                raise next(iter(self._block.failures.values()))
        else:
            result = self._guarded(self._crashes, actions, waiting)
        self._has_stepped = True
        if waiting is not None:
            result = self._instead(result, waiting, self._done)
        self._state, _, self._done = result
        return result

    def _begin(self, seeds: Sequence[int | None], watch: contextlib.AbstractContextManager[None]) -> Nest:
        """First states; environments that fail are made anew until all begin.

        `watch` surrounds their beginning, and not their making, which may take long.
        """
        while True:
            try:
                with watch:
                    state = self._block.reset(seeds)
            except Stopped:
                raise
            except BaseException as error:
                if self._crashes is None:
                    raise
                self._block.failures[0] = failure(error)
                state = None
            else:
                self._find_not_finite(state, np.zeros(len(self), np.float32))
            if not self._block.failures:
                return state
            if self._crashes is None:
                raise next(iter(self._block.failures.values()))
            self._renew(self._crashes)

    def _guarded(self, crashes: Crashes, actions: Nest, waiting: np.ndarray | None) -> Any:
        """A step; where a lane failed, its episode ends at the state before."""
        failures = self._block.failures
        with crashes.watch(len(self)):
            try:
                result = self._block.step(actions, waiting)
            except Stopped:
                raise
            except BaseException as error:
                failures[0] = failure(error)
                result = None
        if result is not None:
            self._find_not_finite(*result[:2])
        if not failures:
            return result
        lost = np.zeros(len(self), bool)
        lost[self._renew(crashes)] = True
        if result is None:
            while not lost.all():
                lost[[*self._anew(int(np.flatnonzero(~lost)[0])), *self._renew(crashes)]] = True
            result = (self._state, np.zeros(len(self), np.float32), self._done)
        return self._instead(result, lost, np.full(len(self), Done.TRUNCATED, np.int8))

    def _find_not_finite(self, states: Nest, rewards: np.ndarray) -> None:
        """Adds the lanes whose state or reward is not finite to the failures."""
        if _is_finite(states, rewards):
            return
        for lane in range(len(self)):
            if not _is_finite(tree.map_structure(lambda leaf, n=lane: leaf[n], states), rewards[lane]):
                self._block.failures.setdefault(lane, ValueError("its state or reward is not finite"))

    def _renew(self, crashes: Crashes) -> list[int]:
        """Counts the failures and makes the environments anew; returns the lanes that begin with their next step.

        A UserError counts only where a step was taken: before, somebody has to mend something.
        """
        lost: list[int] = []
        failures = self._block.failures
        while failures:
            lane = min(failures)
            failed = failures.pop(lane)
            if isinstance(failed, UserError) and not self._has_stepped:
                raise failed
            crashes.note(failed, lane)
            lost += self._anew(lane)
        return lost

    def _anew(self, lane: int) -> Sequence[int]:
        """Makes the environment of `lane` anew, as `Block.renew`; one that cannot be made fails once more."""
        try:
            return self._block.renew(lane)
        except BaseException as error:
            self._block.failures[lane] = failure(error)
            return []

    def _instead(self, result: Any, lanes: np.ndarray, done: np.ndarray) -> Any:
        """`result` with the state before, no reward and `done` in `lanes` [E] bool."""
        state, reward, other = result
        keep = lambda old, new: np.where(lanes.reshape(-1, *[1] * (new.ndim - 1)), old, new)  # noqa: E731
        return (
            tree.map_structure(keep, self._state, state),
            np.where(lanes, np.float32(0), reward),
            np.where(lanes, done, other),
        )

    def state(self) -> dict[str, Any] | None:
        """All that the next steps depend on, picklable; None where an environment cannot give its own."""
        own = None if self._closed else self._block.state()
        return None if own is None else {"block": own, "state": self._state, "done": self._done}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from `state`, which like lanes gave."""
        self._block.restore(state["block"])
        self._state, self._done = state["state"], state["done"]

    def close(self) -> None:
        """Closes every environment; what goes wrong in it is said."""
        if not self._closed:
            self._closed = True
            close(self._block)

    def replace(self, block: Block) -> None:
        """Goes on with other, like environments, which begin with a `reset`."""
        self.close()
        self._block, self._closed = block, False


def episode_seeds(seed: int, count: int) -> list[int]:
    """The first `count` of the seeds in [0, 2^31) that `seed` makes."""
    return [int(own) for own in np.random.SeedSequence(seed).generate_state(count) >> 1]


def _is_finite(state: Nest, reward: Any) -> bool:
    return bool(np.isfinite(reward).all()) and all(
        bool(np.isfinite(leaf).all()) for leaf in tree.flatten(state) if np.issubdtype(leaf.dtype, np.floating)
    )
