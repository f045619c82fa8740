"""What is descended, against the papers' formulas read literally, and what each gradient function must be given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.grad_comp.basic import (
    ClippedSurrogate,
    DeterministicPolicyGradient,
    Huber,
    MeanSquaredError,
    PolicyGradient,
)
from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from pipeline.types import UserError

OLD = math.log(0.4)
"""log probability of the action when it was taken"""
CASES = list(itertools.product([0.2, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0], [2.0, -3.0, 0.0]))
"""ratio and advantage"""


def gradient(function: Callable[[tf.Tensor], tf.Tensor], at: tf.Tensor) -> np.ndarray:
    with tf.GradientTape() as tape:
        tape.watch(at)
        loss = function(at)
    return tape.gradient(loss, at).numpy()  # pyright: ignore[reportAttributeAccessIssue]


def surrogate(clip: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses and gradients in the log probabilities of CASES."""
    ratio, advantage = (tf.constant(column, tf.float32) for column in zip(*CASES, strict=True))
    old = tf.fill([len(CASES)], OLD)
    loss = lambda log_prob: ClippedSurrogate(clip)(log_prob, old, advantage)  # noqa: E731
    log_prob = old + tf.math.log(ratio)
    return loss(log_prob).numpy(), gradient(loss, log_prob)


@pytest.mark.parametrize("clip", [0.1, 0.2, 0.5])
def test_the_clipped_surrogate_is_equation_7(clip: float) -> None:
    expected = []
    for ratio, advantage in CASES:
        clipped = 1 - clip if ratio < 1 - clip else 1 + clip if ratio > 1 + clip else ratio
        expected.append(-min(ratio * advantage, clipped * advantage))
    np.testing.assert_allclose(surrogate(clip)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.1, 0.2, 0.5])
def test_its_gradient_is_zero_only_where_the_policy_has_gone_far_enough_the_right_way(clip: float) -> None:
    expected = []
    for ratio, advantage in CASES:
        far_enough = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
        # d ratio / d log_prob = ratio
        expected.append(0.0 if far_enough else -ratio * advantage)
    np.testing.assert_allclose(surrogate(clip)[1], expected, rtol=1e-5, atol=1e-6)


def test_at_a_ratio_of_1_it_is_the_policy_gradient() -> None:
    log_prob, advantage = tf.math.log([0.1, 0.5, 0.9]), tf.constant([1.0, -2.0, 3.0])
    old = tf.identity(log_prob)
    ppo = gradient(lambda x: ClippedSurrogate()(x, old, advantage), log_prob)
    vpg = gradient(lambda x: PolicyGradient()(x, old, advantage), log_prob)
    np.testing.assert_allclose(ppo, vpg)
    np.testing.assert_allclose(vpg, [-1.0, 2.0, -3.0])


def test_the_policy_gradient_is_the_log_probability_times_the_advantage() -> None:
    log_prob, advantage = np.log([0.1, 0.5, 0.9]), np.array([1.0, -2.0, 3.0])
    loss = PolicyGradient()(tf.constant(log_prob), tf.constant([9.0, 9.0, 9.0]), tf.constant(advantage))
    np.testing.assert_allclose(loss, -log_prob * advantage)


def test_the_deterministic_policy_gradient_goes_up_the_action_values() -> None:
    q = tf.constant([1.0, -2.0, 0.0])
    np.testing.assert_array_equal(DeterministicPolicyGradient()(q), [-1.0, 2.0, 0.0])
    np.testing.assert_array_equal(gradient(DeterministicPolicyGradient(), q), [-1.0, -1.0, -1.0])


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_huber_is_quadratic_up_to_delta_and_linear_beyond(delta: float) -> None:
    errors = np.array([-3.0, -2.0, -1.0, -0.4, 0.0, 0.5, 1.0, 2.5])
    expected = [0.5 * e**2 if abs(e) <= delta else delta * (abs(e) - 0.5 * delta) for e in errors]
    at = tf.constant(errors, tf.float32)
    np.testing.assert_allclose(Huber(delta)(at), expected, rtol=1e-6)
    np.testing.assert_allclose(gradient(Huber(delta), at), np.clip(errors, -delta, delta), rtol=1e-6)


def test_the_gradient_of_the_squared_error_is_the_error() -> None:
    errors = tf.constant([-3.0, 0.0, 0.5])
    np.testing.assert_allclose(MeanSquaredError()(errors), [4.5, 0.0, 0.125])
    np.testing.assert_allclose(gradient(MeanSquaredError(), errors), errors)


@pytest.mark.parametrize(
    ("takes", "fit"),
    [
        ("errors", {"huber", "mean_squared_error"}),
        ("advantages", {"policy_gradient", "ppo"}),
        ("action values", {"ddpg"}),
    ],
)
def test_a_gradient_function_is_given_only_for_what_it_takes(takes: str, fit: set[str]) -> None:
    names = set(GRADIENT_FUNCTIONS.names())
    assert fit <= names
    for name in sorted(fit):
        assert GRADIENT_FUNCTIONS.get(name, takes=takes)().takes == takes
    for name in sorted(names - fit):
        with pytest.raises(UserError, match=f"The gradient function '{name}' takes .*, and {takes} are what there is"):
            GRADIENT_FUNCTIONS.get(name, takes=takes)


def test_one_of_the_wrong_kind_is_refused_with_the_names_that_fit() -> None:
    with pytest.raises(UserError) as refused:
        GRADIENT_FUNCTIONS.get("ppo", takes="errors")
    assert str(refused.value) == (
        "The gradient function 'ppo' takes advantages, and errors are what there is: use huber or mean_squared_error."
    )


def test_an_unknown_name_is_reported_before_its_kind() -> None:
    with pytest.raises(UserError, match=r"There is no gradient function 'hubber'; did you mean huber\?"):
        GRADIENT_FUNCTIONS.get("hubber", takes="advantages")


@pytest.mark.parametrize("clip", [0.0, -0.1])
def test_a_clip_that_is_not_positive_is_refused(clip: float) -> None:
    with pytest.raises(UserError, match=rf"ClippedSurrogate\.clip is {clip}: it must be positive"):
        ClippedSurrogate(clip)
