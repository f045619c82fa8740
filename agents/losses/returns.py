"""Returns over windows of rows. B windows of T + 1 rows; row t's reward and discount follow its action."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class NStep(NamedTuple):
    """r_t + ... + factor * value of the bootstrap row."""

    reward: tf.Tensor
    """[B] f32, discounted sum of the rewards before the bootstrap row"""
    factor: tf.Tensor
    """[B] f32, what the bootstrap row's value is multiplied with; 0 after termination"""
    row: tf.Tensor
    """[B] i32, the bootstrap row: the first LAST row, else the final one"""


def n_step(reward: tf.Tensor, discount: tf.Tensor, last: tf.Tensor, gamma: float) -> NStep:
    """Folds windows into n-step returns from their first row (Sutton and Barto 2018, eq. 7.1), n = T.

    `reward`, `discount` [B, T + 1] f32, `last` [B, T + 1] bool. A window that runs past an episode's end is cut
    there: it bootstraps from the LAST row, whose factor is 0 only if the episode terminated. A window that begins
    with a LAST row starts no transition: row 0, reward 0.
    """
    live = tf.math.cumprod(1.0 - tf.cast(last, tf.float32), axis=1)[:, :-1]  # [B, T]: no LAST row up to here
    step_factor = tf.where(live > 0, gamma * discount[:, :-1], 1.0)
    carry = tf.math.cumprod(step_factor, axis=1, exclusive=True)
    return NStep(
        reward=tf.reduce_sum(live * carry * reward[:, :-1], axis=1),
        factor=tf.reduce_prod(step_factor, axis=1),
        row=tf.cast(tf.reduce_sum(live, axis=1), tf.int32),
    )


def at_row(columns: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Row `index` [B] of `columns` [B, T + 1, ...]: [B, ...]."""
    return tf.gather(columns, index, batch_dims=1)
