"""How a row lies in Reverb: small leaves packed into one int32 column, large leaves in columns of their own.

A column costs Reverb the same whether it holds one number or a hundred, so the small ones travel together. Large
ones (images) stay apart, in their own dtype, so that windows share their chunks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import dm_env.specs as specs
import numpy as np
import tensorflow as tf
import tree

from pipeline.frames import Frames, history
from pipeline.types import Nest, Step

PACKED = "packed"
LARGE = 256
"""leaves of at least this many numbers have a column of their own"""
WHOLE = 1024
"""bytes of a lane's window, up to which it is stored whole: reading it costs a fifth of reading its rows, measured"""


class _Leaf(NamedTuple):
    spec: specs.Array
    size: int
    column: str
    begin: int
    """where it starts in the packed column"""
    stacked: bool
    """a row holds the newest of several frames"""


class Rows:
    """Packs steps of numpy arrays into columns, and unpacks columns of tensors into steps.

    Of a stack of frames (`pipeline.frames.Frames`) a row holds the newest; `restack` makes stacks of rows in a row.
    """

    def __init__(self, observation_spec: Nest, action_spec: Nest, extras_spec: Nest):
        scalar = lambda dtype: specs.Array((), dtype)  # noqa: E731
        self.spec = Step(
            observation=observation_spec,
            action=action_spec,
            reward=scalar(np.float32),
            discount=scalar(np.float32),
            first=scalar(np.bool_),
            last=scalar(np.bool_),
            extras=extras_spec,
        )
        self.history = history(observation_spec)
        """rows before a window's first that its stacks of frames reach back to; they lie in its item, in front"""
        self._leaves: list[_Leaf] = []
        self._packed_size = 0
        for path, whole in tree.flatten_with_path(self.spec):
            spec = whole.one if isinstance(whole, Frames) else whole
            if spec.dtype.itemsize > 4:
                raise ValueError(f"{path} is {spec.dtype}: rows hold numbers of at most 32 bits.")
            size = math.prod(spec.shape)
            if size < LARGE and spec.dtype == np.float16:
                raise ValueError(f"{path} is float16: rows hold fewer than {LARGE} such numbers as float32 only.")
            if size >= LARGE:
                column = "/".join(map(str, path))
                self._leaves.append(_Leaf(spec, size, column, 0, isinstance(whole, Frames)))
            else:
                self._leaves.append(_Leaf(spec, size, PACKED, self._packed_size, isinstance(whole, Frames)))
                self._packed_size += size
        self._layout: dict[str, Any] = {
            name: (column.shape.as_list(), column.dtype.as_numpy_dtype) for name, column in self.columns().items()
        }

    def columns(self) -> dict[str, tf.TensorSpec]:
        """Name, shape and dtype of each column of one row."""
        columns = {PACKED: tf.TensorSpec([self._packed_size], tf.int32, PACKED)}
        for leaf in self._leaves:
            if leaf.column != PACKED:
                columns[leaf.column] = tf.TensorSpec(leaf.spec.shape, leaf.spec.dtype, leaf.column)
        return columns

    def row_bytes(self) -> int:
        """Bytes of one row, uncompressed."""
        return sum(c.shape.num_elements() * c.dtype.size for c in self.columns().values())

    def stored_whole(self, window: int) -> bool:
        """Whether windows of so many rows are stored as they are; larger ones share their rows."""
        return (self.history + window) * self.row_bytes() <= WHOLE

    def pack(self, step: Step) -> dict[str, np.ndarray]:
        """The columns, [E, ...] each, of a step of arrays [E, ...]; arrays have their spec's dtype."""
        columns = self.empty((len(step.reward),))
        self.pack_into(step, columns)
        return columns

    def empty(self, leading: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Arrays [*leading, ...] for the columns."""
        return {name: np.empty([*leading, *shape], dtype) for name, (shape, dtype) in self._layout.items()}

    def pack_into(self, step: Step, columns: Mapping[str, np.ndarray]) -> None:
        """The same, into given arrays [E, ...]."""
        packed = columns[PACKED]
        for leaf, value in zip(self._leaves, tree.flatten(step), strict=True):
            if leaf.stacked:
                value = value[:, -1]
            if leaf.column != PACKED:
                columns[leaf.column][...] = value
                continue
            part = packed[:, leaf.begin : leaf.begin + leaf.size]
            part = part.view(np.float32) if leaf.spec.dtype == np.float32 else part
            part[...] = value.reshape(len(packed), leaf.size)

    def unpack(self, columns: Mapping[str, tf.Tensor]) -> Step:
        """The step of tensors [..., *shape] of columns [..., *column shape], shapes static.

        The inverse of `pack`, but that a stack of frames is its newest one: see `restack`.
        """
        packed: Any = columns[PACKED]
        leaves = []
        for leaf in self._leaves:
            if leaf.column != PACKED:
                leaves.append(columns[leaf.column])
                continue
            value = packed[..., leaf.begin : leaf.begin + leaf.size]
            value = tf.reshape(value, [*packed.shape[:-1], *leaf.spec.shape])
            dtype = tf.as_dtype(leaf.spec.dtype)
            leaves.append(tf.bitcast(value, dtype) if dtype == tf.float32 else tf.cast(value, dtype))
        step: Any = tree.unflatten_as(self.spec, leaves)
        return step


def only_finite(steps: Step, valid: tf.Tensor) -> tuple[Step, tf.Tensor]:
    """Rows [B, T, ...] -> the same, and which windows [B] bool are `valid` [B] and hold finite numbers only.

    The others become LAST rows of zeros, which no algorithm learns from: a weight of 0 is not enough for NaN.
    """
    floats = [leaf for leaf in tree.flatten(steps) if leaf.dtype.is_floating]
    flat = (tf.reshape(tf.math.is_finite(leaf), [leaf.shape[0], -1]) for leaf in floats)
    finite = functools.reduce(tf.logical_and, (tf.reduce_all(leaf, axis=1) for leaf in flat), valid)

    def clear(leaf: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.reshape(finite, [-1, *[1] * (leaf.shape.rank - 1)]), leaf, tf.zeros_like(leaf))

    observation = tree.map_structure(lambda leaf: clear(leaf) if leaf.dtype.is_floating else leaf, steps.observation)
    others: Any = tree.map_structure(clear, steps._replace(observation=()))
    return others._replace(observation=observation, last=steps.last | tf.logical_not(finite)[:, None]), finite


def restack(steps: Step, observation_spec: Nest) -> Step:
    """Rows [B, H + T, ...] as they are stored -> the last T, [B, T, ...], with their stacks of frames.

    H is the history that the stacks reach back to. Before an episode's first row its first frame is repeated.
    """
    past = history(observation_spec)
    if not past:
        return steps
    rows = steps.first.shape[1]
    index = tf.range(rows)[None]
    now = index[:, past:, None]  # [1, T, 1]
    begins = steps.first[:, None] & (index[:, None] <= now)  # [B, T, H + T]
    begin = tf.reduce_max(tf.where(begins, index[:, None], 0), axis=2)  # [B, T], where each row's episode began

    def stack(spec: specs.Array, leaf: tf.Tensor) -> tf.Tensor:
        if not isinstance(spec, Frames):
            return leaf[:, past:]
        count = spec.shape[0]
        back = [tf.maximum(index[:, past:] - age, begin) for age in reversed(range(count))]
        return tf.gather(leaf, tf.stack(back, axis=-1), batch_dims=1)  # [B, T, count, ...]

    observation = tree.map_structure_up_to(observation_spec, stack, observation_spec, steps.observation)
    others: Any = tree.map_structure(lambda leaf: leaf[:, past:], steps._replace(observation=()))
    return others._replace(observation=observation)
