"""From a Reverb table to draws of k batches; a queue and a replay differ in numbers only."""

from __future__ import annotations

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
    address: str,
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
) -> tf.data.Dataset:
    """Endless `Draw`s of `batches` batches for one of `replicas` replicas; a draw from a queue is one rollout.

    Its iterator ends where the table gives no sample for `timeout_ms`: that is a stall, never the end of the data.
    """
    windows = lanes if memory.blocks else 1
    batch = lanes if memory.on_policy else data.batch_size // replicas
    items = batches * batch // windows

    def draw(sample: reverb.ReplaySample) -> Draw:
        def batched(column: tf.Tensor) -> tf.Tensor:  # [items, T + 1, ...] -> [k, B, T + 1, ...]
            if memory.blocks:  # [items, T + 1, E, ...]
                column = tf.transpose(column, [0, 2, 1, *range(3, column.shape.rank)])
                return tf.reshape(column, [batches, batch, *column.shape[2:]])
            return tf.reshape(column, [batches, batch, *column.shape[1:]])

        info: Any = sample.info
        columns: Any = tree.map_structure(batched, sample.data)
        correction = 1.0 / (tf.cast(info.table_size, tf.float64) * info.probability)
        correction = tf.repeat(tf.cast(correction, tf.float32), windows)
        return Draw(
            steps=rows.unpack(columns),
            correction=tf.reshape(correction, [batches, batch]),
            keys=info.key,
        )

    source = reverb.TrajectoryDataset(
        server_address=address,
        table=table,
        dtypes={name: spec.dtype for name, spec in signature.items()},
        shapes={name: spec.shape for name, spec in signature.items()},
        max_in_flight_samples_per_worker=memory.in_flight(items),
        num_workers_per_iterator=memory.workers,
        rate_limiter_timeout_ms=timeout_ms,
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    draws = source.batch(items, drop_remainder=True).map(tf.autograph.experimental.do_not_convert(draw))
    return draws.with_options(options)
