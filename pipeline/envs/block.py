"""E environments that one call steps: `InProcess` here, in other processes, or inside a library of their world."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tree

from pipeline.envs.closing import close, told
from pipeline.envs.environment import Done, Environment
from pipeline.envs.guard import guarded
from pipeline.types import Nest, UserError
from pipeline.waiting import Stopped

ONE_ONLY = (
    "Where only one may exist at a time (a port, a licence), set Experiment.exclusive_environment=True and"
    " Experiment.lanes=1."
)
Result = tuple[Nest, np.ndarray, np.ndarray]
"""states [E, ...], rewards [E] f32, dones [E] i8 (values of `Done`); arrays that nobody writes to later"""


class Block(abc.ABC):
    """Environments that keep in step, each as `Environment` has it: the step after an episode's end begins the next.

    So the true final state is never lost. A lane that failed in `reset` or `step` is told in `failures`; what the
    call gave of it counts for nothing. Where the call itself raises, every lane is lost.
    """

    observation_spec: Nest
    """`dm_env.specs` of one lane's state"""
    action_spec: Nest
    """`dm_env.specs` of one lane's action"""
    frame_rate: float = 30.0
    """pictures a second at which it looks natural"""
    failures: dict[int, Exception]
    """by lane; whoever reads it empties it, after `renew` of each"""

    @abc.abstractmethod
    def __len__(self) -> int:
        """E, the number of lanes."""

    @abc.abstractmethod
    def reset(self, seeds: Sequence[int | None]) -> Nest:
        """Begins an episode in every lane, each with its seed; returns the states [E, ...]."""

    @abc.abstractmethod
    def step(self, actions: Nest, waiting: np.ndarray | None = None) -> Result:
        """Steps every lane with its action [E, ...].

        `waiting` [E] bool: lanes whose results count for nothing until all lanes begin together, by `reset`.
        """

    @abc.abstractmethod
    def renew(self, lane: int) -> Sequence[int]:
        """Makes the environment of `lane` anew; returns the lanes that begin with their next step because of it.

        One that cannot be made raises, or is told in `failures`.
        """

    def render(self) -> np.ndarray:
        """A picture of the first lane's state, u8 [height, width, 3]; raises UserError where it can give none."""
        raise UserError(f"{type(self).__name__} draws no pictures: leave out --record_video.")

    def state(self) -> Any | None:
        """All that the next steps depend on, picklable; None where that cannot be had."""
        return None

    def restore(self, state: Any) -> None:
        """Goes on from `state`, which a like block gave."""
        raise NotImplementedError

    @abc.abstractmethod
    def close(self) -> None:
        """Frees windows and processes."""


class InProcess(Block):
    """Environments stepped one after the other in this process."""

    def __init__(self, makers: Sequence[Callable[[], Environment]], stop: Callable[[], bool] | None = None):
        """`makers` makes each lane's environment.

        `stop`: whether the process was asked to stop. It is asked between two environments, whose calls may be slow;
        `Stopped` then leaves them as they are, and only a `reset` may follow.

        Raises UserError where the first environment can be made and another cannot.
        """
        self._makers = list(makers)
        self._stop = stop
        self._environments: list[Environment] = []
        try:
            for make in self._makers:
                self._listen()
                with guarded():
                    self._environments.append(make())
        except Exception as error:
            made = len(self._environments)
            self.close()
            if not made or isinstance(error, UserError | Stopped):
                raise
            raise UserError(
                f"Of {len(self._makers)} environments {made} could be made and the next one not ({told(error)})."
                f" {ONE_ONLY}"
            ) from error
        self._latest: list[tuple[Nest, float, Done]] = []
        """what each lane gave last"""
        self.failures = {}
        first = self._environments[0]
        self.observation_spec, self.action_spec = first.observation_spec, first.action_spec
        self.frame_rate = first.frame_rate
        # One array each is the common case and needs no walk through a nest.
        self._stack = _stack_nests if tree.is_nested(self.observation_spec) else self._stack_arrays
        self._split = _split_nest if tree.is_nested(self.action_spec) else list

    def __len__(self) -> int:
        return len(self._environments)

    def reset(self, seeds: Sequence[int | None]) -> Nest:
        results = []
        for lane, (environment, seed) in enumerate(zip(self._environments, seeds, strict=True)):
            self._listen()
            try:
                results.append((environment.reset(seed), 0.0, Done.NO))
            except Exception as error:
                self.failures[lane] = error
                results.append((_zeros(self.observation_spec), 0.0, Done.NO))
        self._latest = results
        return self._stack([state for state, _, _ in results])

    def step(self, actions: Nest, waiting: np.ndarray | None = None) -> Result:
        results = []
        for lane, (environment, action) in enumerate(zip(self._environments, self._split(actions), strict=True)):
            self._listen()
            if waiting is not None and waiting[lane]:
                results.append(self._latest[lane])
                continue
            try:
                results.append(environment.step(action))
            except Exception as error:
                self.failures[lane] = error
                results.append(self._latest[lane] if self._latest else (_zeros(self.observation_spec), 0.0, Done.NO))
        self._latest = results
        states, rewards, dones = zip(*results, strict=True)
        return self._stack(states), np.array(rewards, np.float32), np.array(dones, np.int8)

    def renew(self, lane: int) -> Sequence[int]:
        with contextlib.suppress(Exception), guarded():
            self._environments[lane].close()
        with guarded():
            self._environments[lane] = self._makers[lane]()
        return [lane]

    def state(self) -> Any | None:
        states = [environment.state() for environment in self._environments]
        return None if None in states else {"environments": states, "latest": self._latest}

    def restore(self, state: Any) -> None:
        for environment, own in zip(self._environments, state["environments"], strict=True):
            environment.restore(own)
        self._latest = state["latest"]

    def close(self) -> None:
        for environment in self._environments:
            close(environment)
        self._environments = []

    def _listen(self) -> None:
        if self._stop is not None and self._stop():
            raise Stopped

    def _stack_arrays(self, states: Sequence[np.ndarray]) -> np.ndarray:
        # A third of np.stack's time for small states.
        stacked = np.empty((len(states), *self.observation_spec.shape), self.observation_spec.dtype)
        for lane, state in enumerate(states):
            stacked[lane] = state
        return stacked


class Alone(Environment):
    """The one lane of a block, as an environment."""

    def __init__(self, block: Block):
        self._block = block
        self.observation_spec, self.action_spec = block.observation_spec, block.action_spec
        self.frame_rate = block.frame_rate

    def _begin(self, seed: int | None) -> Nest:
        return tree.map_structure(lambda leaf: leaf[0], self._block.reset([seed]))

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        actions = tree.map_structure(lambda leaf: np.asarray(leaf)[None], action)
        state, reward, done = self._block.step(actions)
        return tree.map_structure(lambda leaf: leaf[0], state), float(reward[0]), Done(int(done[0]))

    def _read(self, state: Nest, /) -> Nest:
        return state  # a block's arrays are nobody's

    def render(self) -> np.ndarray:
        return self._block.render()

    def state(self) -> bytes | None:
        return None

    def close(self) -> None:
        self._block.close()


def _zeros(spec: Nest) -> Nest:
    return tree.map_structure(lambda leaf: np.zeros(leaf.shape, leaf.dtype), spec)


def _stack_nests(nests: Sequence[Nest]) -> Nest:
    return tree.map_structure(lambda *leaves: np.stack(leaves), *nests)


def _split_nest(nest: Nest) -> list[Nest]:
    leaves = [list(leaf) for leaf in tree.flatten(nest)]
    return [tree.unflatten_as(nest, lane) for lane in zip(*leaves, strict=True)]
