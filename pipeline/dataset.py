"""From a Reverb table to draws of k batches; a queue and a replay differ in numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import reverb
import tensorflow as tf
import tree

from pipeline.rows import Rows
from pipeline.types import Data, Step, UserError
from servers.memory.memory import Memory


class Draw(NamedTuple):
    """k batches in one element: one Python call, and one pass through tf.data, serves k updates."""

    steps: Step
    """[k, B, T + 1, ...]"""
    correction: tf.Tensor
    """[k, B] f32, 1 / (items in the table x probability of the sample)"""
    keys: tf.Tensor
    """[k * items a batch] u64; for the host only, in the order of the batches"""
    shard: tf.Tensor
    """[k * items a batch] i32, which server each item is from; for the host too"""


class Shares:
    """What decides how often each of several replay servers is drawn from: what they hold, by number or by priority."""

    def __init__(self, servers: int):
        self.items = tf.Variable(tf.ones([servers], tf.float64), trainable=False)
        """that each server holds; 0 where it does not answer"""
        self.means = tf.Variable(tf.ones([servers], tf.float64), trainable=False)
        """of priority ** exponent over the items of each server, as last seen"""

    def now(self) -> tf.Tensor:
        """[S] f64, the probability of each server."""
        weight = self.items * self.means
        return weight / tf.reduce_sum(weight)


def check_divides(data: Data, memory: Memory, lanes: int, replicas: int) -> None:
    """Raises UserError where a batch is not a whole number of items on each replica."""
    if memory.on_policy:
        transitions = lanes * (data.window - 1)
        if data.batch_size and (data.batch_size % replicas or transitions % (data.batch_size // replicas)):
            raise UserError(
                f"batch_size is {data.batch_size}: its part for each of {replicas} replicas must divide the"
                f" {transitions} transitions of a rollout ({lanes} lanes x {data.window - 1} steps)."
            )
        return
    windows = lanes if memory.blocks else 1
    if data.batch_size % (windows * replicas):
        raise UserError(
            f"batch_size is {data.batch_size}: it must be a multiple of {windows * replicas}"
            f" ({replicas} replicas x {windows} windows an item of {data.memory} memory holds)."
        )


def dataset(
    addresses: Sequence[str],
    table: str,
    rows: Rows,
    data: Data,
    memory: Memory,
    *,
    lanes: int,
    signature: dict[str, tf.TensorSpec],
    batches: int,
    replicas: int,
    timeout_ms: int,
    alive: Sequence[int] = (0,),
    shares: Shares | None = None,
    inline: bool = False,
) -> tf.data.Dataset:
    """Endless `Draw`s of `batches` batches for one of `replicas` replicas; a draw from a queue is one rollout.

    Where there are several `addresses`, `alive` says which of them answer, and `shares` which of those each item is
    drawn from: its probability is that of its server times that in its table. `inline`: the server is in this process.

    Its iterator ends where a table gives no sample for `timeout_ms`: that is a stall, never the end of the data.
    """
    windows = lanes if memory.blocks else 1
    batch = lanes if memory.on_policy else data.batch_size // replicas
    items = batches * batch // windows

    def source(address: str) -> tf.data.Dataset:
        return reverb.TrajectoryDataset(
            server_address=address,
            table=table,
            dtypes={name: spec.dtype for name, spec in signature.items()},
            shapes={name: spec.shape for name, spec in signature.items()},
            max_in_flight_samples_per_worker=memory.in_flight(items, inline),
            num_workers_per_iterator=memory.workers,
            rate_limiter_timeout_ms=timeout_ms,
        )

    def batched(column: tf.Tensor) -> tf.Tensor:  # [items, T + 1, ...] -> [k, B, T + 1, ...]
        if memory.blocks:  # [items, T + 1, E, ...]
            column = tf.transpose(column, [0, 2, 1, *range(3, column.shape.rank)])
            return tf.reshape(column, [batches, batch, *column.shape[2:]])
        return tf.reshape(column, [batches, batch, *column.shape[1:]])

    def drawn(sample: reverb.ReplaySample, correction: tf.Tensor, shard: tf.Tensor) -> Draw:
        columns: Any = tree.map_structure(batched, sample.data)
        info: Any = sample.info
        correction = tf.repeat(tf.cast(correction, tf.float32), windows)
        return Draw(
            steps=rows.unpack(columns),
            correction=tf.reshape(correction, [batches, batch]),
            keys=info.key,
            shard=shard,
        )

    def draw(sample: reverb.ReplaySample) -> Draw:
        info: Any = sample.info
        correction = 1.0 / (tf.cast(info.table_size, tf.float64) * info.probability)
        return drawn(sample, correction, tf.zeros([items], tf.int32))

    def draw_of_several(sample: reverb.ReplaySample, shard: tf.Tensor) -> Draw:
        assert shares is not None
        info: Any = sample.info
        # Priorities of a server add up to this times its number of items.
        seen = info.priority**memory.exponent / (info.probability * tf.cast(info.table_size, tf.float64))
        probability = tf.gather(shares.now(), shard) * info.probability
        correction = 1.0 / (tf.reduce_sum(shares.items) * probability)
        # An item whose priority is no share of anything says nothing about the others.
        valid = tf.math.is_finite(seen)
        seen = tf.where(valid, seen, 0.0)
        count = tf.math.unsorted_segment_sum(tf.cast(valid, seen.dtype), shard, len(addresses))
        mean = tf.math.divide_no_nan(tf.math.unsorted_segment_sum(seen, shard, len(addresses)), count)
        with tf.control_dependencies([correction]):
            shares.means.assign(tf.where(count > 0, mean, shares.means))
        return drawn(sample, correction, shard)

    options = tf.data.Options()
    options.autotune.enabled = False
    if shares is None:
        draws = source(addresses[0]).batch(items, drop_remainder=True)
        return draws.map(tf.autograph.experimental.do_not_convert(draw)).with_options(options)
    sources = [source(addresses[shard]).map(lambda sample, i=shard: (sample, tf.constant(i))) for shard in alive]
    weights: Any = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.gather(shares.now(), list(alive)))
    mixed = tf.data.Dataset.sample_from_datasets(sources, weights, stop_on_empty_dataset=True)
    draws = mixed.batch(items, drop_remainder=True).map(tf.autograph.experimental.do_not_convert(draw_of_several))
    return draws.with_options(options)
