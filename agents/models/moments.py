"""Running means and variances, for normalisation."""

from __future__ import annotations

import tensorflow as tf

CLIP = 10.0
"""standard deviations"""


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

    def merge(self, count: tf.Tensor, total: tf.Tensor, squares: tf.Tensor) -> None:
        """Adds `count` [] rows with sum `total` and sum of squared distances to the present mean `squares` [*shape]."""
        mean = total / tf.maximum(count, 1.0)
        both = self.count + count
        shift = mean - self.mean
        own = self.variance * self.count
        other = squares - count * tf.square(shift)
        merged = own + other + tf.square(shift) * self.count * count / tf.maximum(both, 1.0)
        empty = tf.equal(both, 0.0)
        self.variance.assign(tf.where(empty, self.variance, tf.maximum(merged, 0.0) / tf.maximum(both, 1.0)))
        self.mean.assign(self.mean + shift * count / tf.maximum(both, 1.0))
        self.count.assign(both)
