"""Returns over windows of rows. B windows of T + 1 rows; row t's reward and discount follow its action."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
import tree

from pipeline.types import Nest


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


def at_row(columns: Nest, index: tf.Tensor) -> Nest:
    """Row `index` [B] of the leaves [B, T + 1, ...] of `columns`: [B, ...]."""
    return tree.map_structure(lambda leaf: tf.gather(leaf, index, batch_dims=1), columns)


def first(columns: Nest) -> Nest:
    """The first row of the leaves [B, T + 1, ...] of `columns`: [B, ...]."""
    return tree.map_structure(lambda leaf: leaf[:, 0], columns)


def gae(
    reward: tf.Tensor, discount: tf.Tensor, last: tf.Tensor, value: tf.Tensor, gamma: float, gae_lambda: float
) -> tf.Tensor:
    """Generalised advantage estimates of the first T rows, [B, T] f32 (Schulman et al. 2016, eq. 16).

    `reward`, `discount`, `value` [B, T + 1] f32, `last` [B, T + 1] bool. An episode that ends inside the window, and
    the window's end, bootstrap from the value of the state that they stand at; LAST rows have advantage 0. With
    `gae_lambda` 1 these are discounted returns less values.
    """
    live = 1.0 - tf.cast(last, tf.float32)
    delta = live[:, :-1] * (reward[:, :-1] + gamma * discount[:, :-1] * value[:, 1:] - value[:, :-1])
    # Row t carries what follows it unless its successor is a LAST row.
    carry = gamma * gae_lambda * discount[:, :-1] * live[:, :-1] * live[:, 1:]

    def earlier(following: tf.Tensor, row: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return row[0] + row[1] * following

    rows = (tf.transpose(delta), tf.transpose(carry))  # [T, B]
    return tf.transpose(tf.scan(earlier, rows, tf.zeros_like(delta[:, 0]), reverse=True))
