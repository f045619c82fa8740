"""Factors of the learning rate, over the part of the training that is done."""

from __future__ import annotations

import math

import tensorflow as tf

from agents.lr_schedules.registry import LR_SCHEDULES
from pipeline.checks import check_fraction, check_positive
from pipeline.types import UserError


@LR_SCHEDULES.register("constant")
class Constant:
    """The learning rate stays what it is."""

    def __call__(self, progress: tf.Tensor) -> tf.Tensor:
        """`progress` [] f32 in [0, 1] -> factor [] f32"""
        return tf.ones_like(progress)


@LR_SCHEDULES.register("linear")
class Linear:
    """From 1 at the start to `final` at the end of training."""

    def __init__(self, final: float = 0.0):
        check_fraction("Linear", final=final)
        self._final = final

    def __call__(self, progress: tf.Tensor) -> tf.Tensor:
        """`progress` [] f32 in [0, 1] -> factor [] f32"""
        return 1.0 + (self._final - 1.0) * progress


@LR_SCHEDULES.register("exponential")
class Exponential:
    """final^progress: the same ratio in equal times, down to `final` at the end of training."""

    def __init__(self, final: float = 0.01):
        check_positive("Exponential", final=final)
        self._final = final

    def __call__(self, progress: tf.Tensor) -> tf.Tensor:
        """`progress` [] f32 in [0, 1] -> factor [] f32"""
        return tf.exp(math.log(self._final) * progress)


@LR_SCHEDULES.register("cosine")
class Cosine:
    """Half a cosine from 1 to `final` at the end of training (Loshchilov and Hutter 2017, eq. 5, without restarts)."""

    def __init__(self, final: float = 0.0):
        check_fraction("Cosine", final=final)
        self._final = final

    def __call__(self, progress: tf.Tensor) -> tf.Tensor:
        """`progress` [] f32 in [0, 1] -> factor [] f32"""
        return self._final + (1.0 - self._final) * 0.5 * (1.0 + tf.cos(math.pi * progress))


@LR_SCHEDULES.register("piecewise")
class Piecewise:
    """Constant pieces: `factors[i]` up to the part `boundaries[i]` of the training, then the last factor."""

    def __init__(self, boundaries: tuple[float, ...] = (0.5, 0.75), factors: tuple[float, ...] = (1.0, 0.1, 0.01)):
        check_positive("Piecewise", factors=min(factors, default=0.0))
        for boundary in boundaries:
            check_fraction("Piecewise", boundaries=boundary)
        if len(factors) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
            raise UserError(
                f"Piecewise has boundaries {boundaries} and factors {factors}: boundaries must rise, and there must be"
                " one factor more than there are boundaries."
            )
        self._boundaries = boundaries
        self._factors = factors

    def __call__(self, progress: tf.Tensor) -> tf.Tensor:
        """`progress` [] f32 in [0, 1] -> factor [] f32"""
        passed = tf.reduce_sum(tf.cast(progress >= tf.constant(self._boundaries, tf.float32), tf.int32))
        return tf.gather(tf.constant(self._factors, tf.float32), passed)
