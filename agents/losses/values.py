"""Errors of action values."""

from __future__ import annotations

import tensorflow as tf

PRIORITY_FLOOR = 1e-6
"""added to absolute errors, so that every window can be sampled again (Schaul et al. 2016, section 3.3)"""


def of_action(q: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """The value [B] f32 of each `action` [B] i32 among `q` [B, A]."""
    # A product with one-hot rows runs on every device, and its gradient needs no scatter.
    return tf.reduce_sum(q * tf.one_hot(action, q.shape[-1]), axis=-1)


def q_learning_error(
    q_tm1: tf.Tensor,
    a_tm1: tf.Tensor,
    r_t: tf.Tensor,
    factor_t: tf.Tensor,
    q_t_value: tf.Tensor,
    q_t_selector: tf.Tensor,
) -> tf.Tensor:
    """r_t + factor_t * q_t_value[argmax q_t_selector] - q_tm1[a_tm1], [B] f32; no gradient flows into the target.

    With the selector equal to the value this is Q-learning (Watkins 1989); with the online network as selector and
    the target network as value, double Q-learning (van Hasselt et al. 2016, eq. 4). q: [B, A]; the others [B].
    """
    best = tf.argmax(q_t_selector, axis=-1, output_type=tf.int32)
    target = r_t + factor_t * of_action(q_t_value, best)
    return tf.stop_gradient(target) - of_action(q_tm1, a_tm1)
