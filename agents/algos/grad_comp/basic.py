"""Gradient functions: what an algorithm descends, and the tape that turns it into gradients.

`takes` says what a function is called with; an algorithm asks for the kind that it has.
"""

from __future__ import annotations

import tensorflow as tf

from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from pipeline.checks import check_positive
from pipeline.types import Params


@GRADIENT_FUNCTIONS.register("mean_squared_error")
class MeanSquaredError:
    """error^2 / 2, whose gradient is the error."""

    takes = "errors"

    def __call__(self, error: tf.Tensor) -> tf.Tensor:
        """[B] -> [B]"""
        return 0.5 * tf.square(error)


@GRADIENT_FUNCTIONS.register("huber")
class Huber:
    """Quadratic up to `delta`, linear beyond: DQN's clipped error (Mnih et al. 2015, methods)."""

    takes = "errors"

    def __init__(self, delta: float = 1.0):
        check_positive("Huber", delta=delta)
        self._delta = delta

    def __call__(self, error: tf.Tensor) -> tf.Tensor:
        """[B] -> [B]"""
        size = tf.abs(error)
        quadratic = tf.minimum(size, self._delta)
        return 0.5 * tf.square(quadratic) + self._delta * (size - quadratic)


@GRADIENT_FUNCTIONS.register("policy_gradient")
class PolicyGradient:
    """-log pi(a|s) advantage, whose gradient is the policy gradient (Williams 1992; Sutton et al. 2000, eq. 2)."""

    takes = "advantages"

    def __call__(self, log_prob: tf.Tensor, old_log_prob: tf.Tensor, advantage: tf.Tensor) -> tf.Tensor:
        """[B] each -> [B]"""
        del old_log_prob
        return -log_prob * advantage

    def clipped(self, log_prob: tf.Tensor, old_log_prob: tf.Tensor) -> tf.Tensor:
        """[B] each -> [B] f32, 1 where the ratio of probabilities is clipped: nowhere"""
        del old_log_prob
        return tf.zeros_like(log_prob)


@GRADIENT_FUNCTIONS.register("ppo")
class ClippedSurrogate:
    """-min(ratio advantage, clip(ratio, 1 - clip, 1 + clip) advantage) (Schulman et al. 2017, eq. 7)."""

    takes = "advantages"

    def __init__(self, clip: float = 0.2):
        """`clip`: the paper's epsilon."""
        check_positive("ClippedSurrogate", clip=clip)
        self._clip = clip

    def __call__(self, log_prob: tf.Tensor, old_log_prob: tf.Tensor, advantage: tf.Tensor) -> tf.Tensor:
        """[B] each -> [B]"""
        ratio = tf.exp(log_prob - old_log_prob)
        clipped = tf.clip_by_value(ratio, 1.0 - self._clip, 1.0 + self._clip)
        return -tf.minimum(ratio * advantage, clipped * advantage)

    def clipped(self, log_prob: tf.Tensor, old_log_prob: tf.Tensor) -> tf.Tensor:
        """[B] each -> [B] f32, 1 where the ratio of probabilities lies outside the clip"""
        return tf.cast(tf.abs(tf.exp(log_prob - old_log_prob) - 1.0) > self._clip, tf.float32)


@GRADIENT_FUNCTIONS.register("ddpg")
class DeterministicPolicyGradient:
    """-Q(s, pi(s)), whose gradient in pi is the deterministic policy gradient (Silver et al. 2014, eq. 9)."""

    takes = "action values"

    def __call__(self, q: tf.Tensor) -> tf.Tensor:
        """[B] -> [B]"""
        return -q


def gradients(
    tape: tf.GradientTape, losses: dict[str, tf.Tensor], params: Params, global_batch: int
) -> dict[str, list[tf.Tensor]]:
    """Gradients of each group's summed `losses` [B], divided by the global batch, for that group's variables."""
    return {
        group: [
            tf.zeros_like(variable) if grad is None else grad / global_batch
            for variable, grad in zip(
                params.online[group].trainable_variables,
                tape.gradient(loss, params.online[group].trainable_variables),
                strict=True,
            )
        ]
        for group, loss in losses.items()
    }
