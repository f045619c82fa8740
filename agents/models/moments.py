"""Running means and variances, for normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

CLIP = 10.0
"""standard deviations"""


class Sample(NamedTuple):
    """What `Moments` grow by."""

    rows: tf.Tensor
    """[] f32, how many"""
    mean: tf.Tensor
    """[*shape] f32"""
    squares: tf.Tensor
    """[*shape] f32, the sum of squared distances to `mean`"""


def measure(rows: tf.Tensor, counted: tf.Tensor, add: Callable[[tf.Tensor], tf.Tensor] = tf.identity) -> Sample:
    """Of those of `rows` [B, *shape] f32 that are `counted` [B] bool; `add` sums over replicas.

    Distances are those to the rows' own mean, which is corrected once: squares about anything else lose the variance's
    digits where the mean is large beside it.
    """
    counted = tf.reshape(counted, [-1, *[1] * (rows.shape.rank - 1)])
    # Not a product: what is not counted may be no number.
    total = lambda values: add(tf.reduce_sum(tf.where(counted, values, 0.0), axis=0))  # noqa: E731
    count = add(tf.reduce_sum(tf.cast(counted, tf.float32)))
    least = tf.maximum(count, 1.0)
    mean = total(rows) / least
    mean += total(rows - mean) / least
    return Sample(count, mean, total(tf.square(rows - mean)))


class Moments(tf.Module):
    """Mean and variance of all rows measured so far (Chan et al. 1979: merging of two samples)."""

    def __init__(self, shape: tuple[int, ...]):
        """`shape`: of one row. Before anything is measured the mean is 0 and the variance 1."""
        super().__init__()
        self.mean = tf.Variable(tf.zeros(shape), trainable=False)
        self.variance = tf.Variable(tf.ones(shape), trainable=False)
        self.count = tf.Variable(tf.constant(0.0), trainable=False)

    def normalize(self, rows: tf.Tensor) -> tf.Tensor:
        """[..., *shape] -> [..., *shape] f32: centred, scaled, clipped to 10 standard deviations."""
        rows = (tf.cast(rows, tf.float32) - self.mean) / self.deviation()
        return tf.clip_by_value(rows, -CLIP, CLIP)

    def deviation(self) -> tf.Tensor:
        """The standard deviation, [*shape] f32, never 0."""
        return tf.sqrt(self.variance + 1e-8)

    def merge(self, sample: Sample) -> None:
        """Adds the rows of `sample`."""
        count, mean, squares = sample
        both = self.count + count
        shift = mean - self.mean
        own = self.variance * self.count
        merged = own + squares + tf.square(shift) * self.count * count / tf.maximum(both, 1.0)
        empty = tf.equal(both, 0.0)
        self.variance.assign(tf.where(empty, self.variance, tf.maximum(merged, 0.0) / tf.maximum(both, 1.0)))
        self.mean.assign(self.mean + shift * count / tf.maximum(both, 1.0))
        self.count.assign(both)
