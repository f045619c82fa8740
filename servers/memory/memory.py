"""The base of every memory: what a kind of replay means as a Reverb table, and what reading it takes."""

from __future__ import annotations

import sys
from typing import NamedTuple

import reverb
import tensorflow as tf

from pipeline.types import Data


class Ratio(NamedTuple):
    """How much is learnt from what comes in, where actors and learner are processes of their own; for one table."""

    samples_per_insert: float
    """samples of an item, while others come in"""
    min_items: float
    """before the first sample"""
    slack: float
    """samples by which the actors may be ahead: a few draws, or actors and learner would wait for each other"""


class Memory:
    """A kind of memory. The name in `Data.memory` chooses one; everything that depends on the kind is here."""

    blocks = True
    """an item holds the rows of all lanes over the same time steps: E windows for the price of one"""
    prioritized = False
    """the learner writes new priorities back"""
    exponent = 0.0
    """an item's share of the samples grows with its priority to the power of this"""
    on_policy = False
    """items are rollouts, each is learnt from once, by the parameters that acted in it"""
    max_times_sampled = 0
    """an item is removed once it was sampled so often; 0: never"""
    workers = 1
    """threads that sample for one dataset iterator"""

    def sampler(self) -> object:
        """Which item is sampled next."""
        return reverb.selectors.Uniform()

    def limiter(self, items: int, ratio: Ratio | None) -> reverb.rate_limiters.RateLimiter:
        """When a table of `items` lets itself be sampled and written.

        In one process (`ratio` None) the training loop itself waits for `Data.min_size` and holds the replay ratio: a
        stricter limiter would deadlock with it. Else actors wait where they are too far ahead of the learner; the
        learner waits by itself, for what `servers.shards.Shards` reads of the limiter's counts.
        """
        del items
        if ratio is None:
            return reverb.rate_limiters.MinSize(1)
        ahead = ratio.samples_per_insert * ratio.min_items + ratio.slack
        return reverb.rate_limiters.RateLimiter(ratio.samples_per_insert, 1, -sys.float_info.max, ahead)

    def in_flight(self, draw: int, inline: bool) -> int:
        """Items that one worker may hold ready, for draws of `draw` items: more would be stale when they are used.

        `inline`: whether the table is in this process, where waiting for an item costs little.
        """
        del inline
        return max(1, draw // self.workers)

    def weight(self, correction: tf.Tensor, progress: tf.Tensor) -> tf.Tensor:
        """Importance weights before normalisation, [B] f32.

        `correction`: [B] f32, 1 / (items in the table x probability of the sample). `progress`: [] f32 in [0, 1], the
        part of the training that is done.
        """
        del progress
        return tf.ones_like(correction)

    def items(self, data: Data, lanes: int) -> int:
        """How many items the table of `data` keeps."""
        return max(1, data.size // lanes) if self.blocks else data.size

    def table(
        self, name: str, data: Data, lanes: int, signature: dict[str, tf.TensorSpec], ratio: Ratio | None = None
    ) -> reverb.Table:
        """The Reverb table of `data` for writers of `lanes` lanes; `ratio`: see `limiter`."""
        items = self.items(data, lanes)
        return reverb.Table(
            name=name,
            sampler=self.sampler(),
            remover=reverb.selectors.Fifo(),
            max_size=items,
            max_times_sampled=self.max_times_sampled,
            rate_limiter=self.limiter(items, ratio),
            signature=signature,
        )
