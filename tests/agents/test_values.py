"""Action-value errors by hand, and the losses of an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from agents.algos.grad_comp.basic import Huber, MeanSquaredError
from agents.losses.values import of_action, q_learning_error


def test_value_of_each_action() -> None:
    q = tf.constant([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(of_action(q, tf.constant([2, 0])), [3.0, 4.0])


def test_q_learning_error_by_hand() -> None:
    q_t = tf.constant([[10.0, 20.0]])
    error = q_learning_error(
        tf.constant([[1.0, 2.0]]), tf.constant([1]), tf.constant([3.0]), tf.constant([0.5]), q_t, q_t
    )
    np.testing.assert_allclose(error, [3.0 + 0.5 * 20.0 - 2.0])


def test_double_q_learning_takes_the_target_networks_value_of_the_online_networks_action() -> None:
    error = q_learning_error(
        tf.constant([[1.0, 2.0]]),
        tf.constant([1]),
        tf.constant([3.0]),
        tf.constant([0.5]),
        q_t_value=tf.constant([[10.0, 20.0]]),
        q_t_selector=tf.constant([[1.0, 0.0]]),
    )
    np.testing.assert_allclose(error, [3.0 + 0.5 * 10.0 - 2.0])


def test_no_gradient_flows_into_the_target() -> None:
    q_tm1, q_t = tf.Variable(tf.constant([[1.0, 2.0]])), tf.Variable(tf.constant([[10.0, 20.0]]))
    with tf.GradientTape() as tape:
        error = q_learning_error(q_tm1, tf.constant([1]), tf.constant([3.0]), tf.constant([0.5]), q_t, q_t)
    gradients: Any = tape.gradient(error, [q_tm1, q_t])
    into_prediction, into_target = gradients
    np.testing.assert_allclose(into_prediction, [[0.0, -1.0]])
    assert into_target is None


def test_huber_is_quadratic_within_delta_and_linear_beyond() -> None:
    np.testing.assert_allclose(Huber(2.0)(tf.constant([-1.0, 2.0, 5.0])), [0.5, 2.0, 2.0 * (5.0 - 1.0)])


def test_gradient_of_the_squared_error_is_the_error() -> None:
    error = tf.Variable(tf.constant([-3.0, 0.5]))
    with tf.GradientTape() as tape:
        loss = MeanSquaredError()(error)
    gradient: Any = tape.gradient(loss, error)
    np.testing.assert_allclose(gradient, [-3.0, 0.5])
