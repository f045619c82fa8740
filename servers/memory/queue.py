"""A queue: every window is learnt from once, in the order of writing. For on-policy algorithms."""

from __future__ import annotations

import reverb

from pipeline.types import Data
from servers.memory.memory import Memory, Ratio
from servers.memory.registry import MEMORIES


@MEMORIES.register("queue")
class Queue(Memory):
    """First in, first out; a full queue makes writers wait. One worker and one item in flight keep the order.

    An item is a rollout. Reverb's defaults for replay would take hundreds of items from the queue to give one batch.
    """

    on_policy = True
    max_times_sampled = 1

    def items(self, data: Data, lanes: int) -> int:
        del lanes
        return data.size

    def sampler(self) -> object:
        return reverb.selectors.Fifo()

    def limiter(self, items: int, ratio: Ratio | None) -> reverb.rate_limiters.RateLimiter:
        # More rollouts than a learner draws at once would be old when they are learnt from.
        return reverb.rate_limiters.Queue(items if ratio is None else max(1, round(ratio.slack)))

    def in_flight(self, draw: int, inline: bool) -> int:
        del draw, inline
        return 1
