"""How far each actor may go, so that all together make the steps of the training and none more.

Imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_ACTORS = 1_024
"""that a training has"""
Life = tuple[int, int]
"""an actor's number, and the life of its process"""


class Limits:
    """Hands out the steps that are left. Each actor gets half of its part ahead, so a fast one never waits for long."""

    def __init__(self, train_steps: int, lanes: int, unit: int):
        """`lanes`: steps that an actor makes at once. `unit`: those that belong together, of a rollout for example."""
        self._train_steps = train_steps
        self._lanes = lanes
        self._unit = unit
        self.limits: dict[Life, int] = {}
        """the steps, counted from the beginning of its life, that each actor may have made"""

    def all_made(self, made: int) -> bool:
        """Whether no actor can make another step of all its lanes after `made` steps of all actors."""
        return made + self._lanes > self._train_steps

    def share(self, made: Mapping[Life, int], acting: Sequence[Life]) -> bool:
        """Raises the limits of those that are `acting`, by what `made` says of all lives; others have none.

        Returns whether one of them had little left.
        """
        # What the others did not make is free again.
        self.limits = {life: self.limits.get(life, 0) for life in acting}
        left = {life: limit - made[life] for life, limit in self.limits.items()}
        left = {life: steps if steps >= self._lanes else 0 for life, steps in left.items()}
        remaining = self._train_steps - sum(made.values())
        free = remaining - sum(left.values())
        ahead = -(-remaining // (2 * max(len(acting), 1) * self._unit)) * self._unit
        urgent = False
        for life in sorted(acting, key=left.__getitem__):
            more = (ahead - left[life]) // self._unit * self._unit
            more = min(more, free) // self._lanes * self._lanes
            if more > 0:
                urgent |= left[life] < ahead / 2
                self.limits[life] = made[life] + left[life] + more
                free -= more
        return urgent
