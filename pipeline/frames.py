"""Frame stacks: several states in a row as one observation, each of which is stored once."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import tree

from pipeline.types import Nest


class Frames(specs.BoundedArray):
    """The spec of `count` states in a row, [count, *one state's shape], the oldest first.

    An episode's first state stands for those before it. A row stores the newest state only, and the learner puts the
    stacks together again (`pipeline.rows.restack`).
    """

    def __init__(self, one: specs.Array, count: int):
        """`one`: the spec of one state."""
        low, high = (np.broadcast_to(bound, one.shape) for bound in _bounds(one))
        super().__init__((count, *one.shape), one.dtype, low, high, one.name)
        self.one = one

    def __reduce__(self) -> Any:
        return Frames, (self.one, self.shape[0])


class Stacks:
    """Makes the stacks that are acted on, of E environments, by the rule of `pipeline.rows.restack`."""

    def __init__(self, spec: Frames, environments: int):
        self._stacks = np.zeros((environments, *spec.shape), spec.dtype)

    def push(self, newest: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """The stacks [E, count, ...] that end with the states `newest` [E, ...], an array that nobody writes to later.

        `begins` [E] bool: where an episode begins with them.
        """
        self._stacks = np.concatenate([self._stacks[:, 1:], newest[:, None]], axis=1)
        if begins.any():
            self._stacks[begins] = newest[begins, None]
        return self._stacks


def _bounds(spec: specs.Array) -> tuple[Any, Any]:
    if isinstance(spec, specs.BoundedArray):
        return spec.minimum, spec.maximum
    if np.issubdtype(spec.dtype, np.floating):
        return -np.inf, np.inf
    return np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max


def history(observation_spec: Nest) -> int:
    """How many states before a row's own its stacks reach back to."""
    return max((leaf.shape[0] - 1 for leaf in tree.flatten(observation_spec) if isinstance(leaf, Frames)), default=0)
