"""Losses of an error, and the tape that turns an algorithm's loss into gradients."""

from __future__ import annotations

import tensorflow as tf

from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from pipeline.types import Params


@GRADIENT_FUNCTIONS.register("mean_squared_error")
class MeanSquaredError:
    """error^2 / 2, whose gradient is the error."""

    def __call__(self, error: tf.Tensor) -> tf.Tensor:
        """[B] -> [B]"""
        return 0.5 * tf.square(error)


@GRADIENT_FUNCTIONS.register("huber")
class Huber:
    """Quadratic up to `delta`, linear beyond: DQN's clipped error (Mnih et al. 2015, methods)."""

    def __init__(self, delta: float = 1.0):
        self._delta = delta

    def __call__(self, error: tf.Tensor) -> tf.Tensor:
        """[B] -> [B]"""
        size = tf.abs(error)
        quadratic = tf.minimum(size, self._delta)
        return 0.5 * tf.square(quadratic) + self._delta * (size - quadratic)


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
