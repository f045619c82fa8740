"""Numbers that change with time."""

from __future__ import annotations

import tensorflow as tf


def linear(initial: float, final: float, steps: int, now: tf.Tensor) -> tf.Tensor:
    """From `initial` at step 0 to `final` at step `steps` and after, at step `now`: [] f32."""
    fraction = tf.minimum(tf.cast(now, tf.float32) / steps, 1.0)
    return initial + (final - initial) * fraction
