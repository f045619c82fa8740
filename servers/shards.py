"""The replay servers of a run as the learner sees them: who answers, what they hold, how much may be learnt from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import reverb

from servers import identity, tables, variables
from servers.memory.memory import Ratio

TIMEOUT_S = 5
"""for a server to say how it is; it says nothing while it writes its checkpoint"""
RETRY_S = 2.0
"""between two questions to a server that did not answer"""


class Counts(NamedTuple):
    """What a server says of its table."""

    inserted: int
    """items, ever"""
    sampled: int
    items: int
    """that it holds"""
    published: bool
    """whether it holds weights"""
    claims: int
    """how often a learner said that the server is its own, ever"""


class Shards:
    """The replay servers, and the samples that their limiters' counts allow.

    Every sample but those of an iterator that was given up is learnt from, so this holds the replay ratio whatever the
    number of servers and actors. What may be sampled is `credit`: items inserted times samples an insert, beyond the
    first `min_items`, less what was sampled.
    """

    def __init__(self, clients: Sequence[reverb.Client], ratio: Ratio):
        """`ratio`: of all servers together."""
        self.clients = list(clients)
        self._ratio = ratio
        self.counts: list[Counts | None] = [None] * len(clients)
        """None where the server does not answer"""
        self._asked = [0.0] * len(clients)
        self._credits = [0.0] * len(clients)
        self._drawn = 0.0
        self._last_insert = time.monotonic()
        self.changed = True
        """whether a server was lost or came back since `begin`: iterators must be made anew"""

    @property
    def alive(self) -> list[int]:
        """Numbers of the servers that answer."""
        return [shard for shard, counts in enumerate(self.counts) if counts is not None]

    @property
    def items(self) -> list[int]:
        """That each server holds."""
        return [0 if counts is None else counts.items for counts in self.counts]

    @property
    def inserted(self) -> int:
        """Items that the servers which answer have taken, ever."""
        return sum(counts.inserted for counts in self.counts if counts is not None)

    @property
    def sampled(self) -> int:
        """Samples that they have given, ever."""
        return sum(counts.sampled for counts in self.counts if counts is not None)

    @property
    def credit(self) -> float:
        """Items that may be sampled now."""
        # Each server's limiter holds its actors back at its own part of the first items.
        first = self._ratio.min_items * len(self.alive) / len(self.clients)
        gained = sum(self._credits[shard] for shard in self.alive)
        return gained - self._ratio.samples_per_insert * first - self._drawn

    @property
    def seconds_since_insert(self) -> float:
        """How long nothing was inserted."""
        return time.monotonic() - self._last_insert

    def poll(self) -> None:
        """Asks every server how it is; one that did not answer is asked again after `RETRY_S`."""
        now = time.monotonic()
        for shard, before in enumerate(self.counts):
            if before is None and now - self._asked[shard] < RETRY_S:
                continue
            self._asked[shard] = now
            self.counts[shard] = counts = self._ask(shard)
            if counts is None or before is None or counts.inserted < before.inserted:
                # A server that counts less than before is another one, with what its checkpoint held.
                self.changed |= (counts is None) != (before is None) or counts is not None
                continue
            if counts.inserted > before.inserted:
                self._credits[shard] += self._ratio.samples_per_insert * (counts.inserted - before.inserted)
                self._last_insert = now

    def claims(self, shard: int) -> int | None:
        """How often a learner said that the server is its own; None where it does not answer."""
        counts = self.counts[shard]
        return None if counts is None else counts.claims

    def lose(self, shard: int) -> None:
        """Takes note that the server does not answer."""
        self.counts[shard] = None
        self.changed = True

    def begin(self) -> None:
        """Takes the servers' own counts for what was sampled: to be called where iterators are made anew."""
        self.changed = False
        self._drawn = 0.0
        for shard, counts in enumerate(self.counts):
            if counts is not None:
                self._credits[shard] = self._ratio.samples_per_insert * counts.inserted - counts.sampled

    def draw(self, items: float) -> None:
        """Takes note that `items` were drawn."""
        self._drawn += items

    def contents(self, queue: bool) -> list[float]:
        """What each server has to draw from: its items; a `queue` that is empty may have one on its way."""
        return [0.0 if counts is None else counts.items + 0.01 * queue for counts in self.counts]

    def unpublished(self) -> list[int]:
        """Numbers of the servers that answer and hold no weights."""
        return [shard for shard, counts in enumerate(self.counts) if counts is not None and not counts.published]

    def _ask(self, shard: int) -> Counts | None:
        try:
            info: Any = self.clients[shard].server_info(timeout=TIMEOUT_S)
        except (reverb.ReverbError, RuntimeError):
            return None
        limiter = info[tables.TABLE].rate_limiter_info
        return Counts(
            inserted=limiter.insert_stats.completed,
            sampled=limiter.sample_stats.completed,
            items=info[tables.TABLE].current_size,
            published=bool(info[variables.TABLE].current_size),
            claims=info[identity.OWNER].rate_limiter_info.insert_stats.completed,
        )
