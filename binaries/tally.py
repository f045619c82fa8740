"""What all actors of a run did, from the reports that they send. Imports no TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from servers.limits import Life
    from servers.reports import Report

ACTORS = "actors"
"""where a unit of a run of several processes keeps `Tally.state`"""
BEGUN_AT = "begun_at"
"""where it says which step the learner's life went on from"""
FINISHED = "finished"
"""where it says whether the training was done"""
CONNECTED_S = 20.0
"""after its last report an actor counts as gone"""
RECENT = 100
"""episodes whose mean return is shown"""


class Tally:
    """Sums over the actors' lives; the newest report of a life stands for all before it."""

    def __init__(self) -> None:
        self._lives: dict[Life, tuple[int, int, int]] = {}
        """environment steps, episodes and crashes by actor and life"""
        self._newest: dict[int, int] = {}
        """the life of each actor that was heard of"""
        self._heard: dict[int, float] = {}
        self._silent: set[int] = set()
        self.finished: list[tuple[float, int]] = []
        """return and length of the episodes that ended since someone emptied this list"""
        self.recent: list[float] = []
        """the latest episodes' returns"""

    @property
    def made(self) -> dict[Life, int]:
        """Environment steps of each life."""
        return {life: steps for life, (steps, _, _) in self._lives.items()}

    @property
    def acting(self) -> list[Life]:
        """The lives that were heard of lately; of each actor the newest."""
        return [(actor, life) for actor, life in self._newest.items() if self._is_connected(actor)]

    @property
    def env_steps(self) -> int:
        """Of all actors."""
        return sum(steps for steps, _, _ in self._lives.values())

    @property
    def episodes(self) -> int:
        """Of all actors."""
        return sum(episodes for _, episodes, _ in self._lives.values())

    @property
    def crashes(self) -> int:
        """Failures of all actors' environments."""
        return sum(crashes for _, _, crashes in self._lives.values())

    @property
    def connected(self) -> int:
        """Actors that were heard of lately."""
        return sum(map(self._is_connected, self._heard))

    def _is_connected(self, actor: int) -> bool:
        return time.monotonic() - self._heard[actor] < CONNECTED_S

    def fell_silent(self) -> list[int]:
        """Actors that were not heard of for too long, since this was last asked."""
        now = time.monotonic()
        silent = {actor for actor, heard in self._heard.items() if now - heard >= CONNECTED_S}
        new, self._silent = silent - self._silent, silent
        return sorted(new)

    def take(self, reports: Iterable[Report]) -> None:
        """Takes note of `reports`; those of one life come in their order."""
        for report in reports:
            life = (report.actor, report.life)
            if life not in self._lives or report.actor not in self._newest:
                self._newest[report.actor] = report.life
            # With several servers an older report may come after a newer one.
            if report.env_steps >= self._lives.get(life, (0, 0, 0))[0]:
                self._lives[life] = (report.env_steps, report.episodes, report.crashes)
            self._heard[report.actor] = time.monotonic()
            self.finished += report.finished
            self.recent = [*self.recent, *(episode_return for episode_return, _ in report.finished)][-RECENT:]

    @property
    def mean_return(self) -> float | None:
        """Of the latest episodes; None before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else None

    def state(self) -> list[list[int]]:
        """For `restore`; of plain numbers."""
        return [[*life, *counts] for life, counts in self._lives.items()]

    def restore(self, state: Any) -> None:
        """Goes on from `state`."""
        self._lives = {(actor, life): (steps, *more) for actor, life, steps, *more in state}
