"""Advantages of the actions in rollouts."""

from __future__ import annotations

import tensorflow as tf

from agents.advantages.registry import ADVANTAGES
from agents.losses.returns import gae
from pipeline.checks import check_fraction
from pipeline.types import Step


@ADVANTAGES.register("discounted_return")
class DiscountedReturn:
    """The discounted return from each action on (reward-to-go), less the value where it was taken.

    Where an episode was truncated, or the rollout ended inside it, the value there stands for the rest.
    """

    def __call__(self, steps: Step, value: tf.Tensor, gamma: float) -> tf.Tensor:
        """Rows [B, T + 1, ...], values [B, T + 1] (zeros: no baseline) -> [B, T] f32, 0 for LAST rows"""
        return gae(steps.reward, steps.discount, steps.last, value, gamma, gae_lambda=1.0)


@ADVANTAGES.register("gae")
class GAE:
    """Generalised advantage estimation (Schulman et al. 2016)."""

    def __init__(self, gae_lambda: float = 0.95):
        """`gae_lambda`: 0 trusts the value of the next state, 1 the rewards that came."""
        check_fraction("GAE", gae_lambda=gae_lambda)
        self._lambda = gae_lambda

    def __call__(self, steps: Step, value: tf.Tensor, gamma: float) -> tf.Tensor:
        """Rows [B, T + 1, ...], values [B, T + 1] -> [B, T] f32, 0 for LAST rows"""
        return gae(steps.reward, steps.discount, steps.last, value, gamma, self._lambda)
