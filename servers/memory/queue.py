"""A queue: every window is learnt from once, in the order of writing. For on-policy algorithms."""

from __future__ import annotations

import reverb

from servers.memory.memory import Memory
from servers.memory.registry import MEMORIES


@MEMORIES.register("queue")
class Queue(Memory):
    """First in, first out; a full queue makes writers wait. One worker and one item in flight keep the order.

    Reverb's defaults for replay would take hundreds of items from the queue to give one batch.
    """

    max_times_sampled = 1

    def sampler(self) -> object:
        return reverb.selectors.Fifo()

    def limiter(self, items: int) -> reverb.rate_limiters.RateLimiter:
        return reverb.rate_limiters.Queue(items)

    def in_flight(self, draw: int) -> int:
        del draw
        return 1
