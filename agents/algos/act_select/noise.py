"""Noise on continuous actions, which lie in [-1, 1]."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from agents.algos.act_select.act_select import ActSelect
from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.schedules import linear
from pipeline.checks import check_positive
from pipeline.types import Nest, UserError


@ACTION_SELECTORS.register("normal_noise")
class NormalNoise(ActSelect):
    """Adds independent Gaussian noise."""

    takes = "actions"

    def __init__(self, deviation: float = 0.1, final_deviation: float = 0.1, decay_steps: int = 10_000):
        """The standard deviation goes linearly to its final value over the first `decay_steps` environment steps.

        The unit is half the range of an action.
        """
        check_positive("NormalNoise", deviation=deviation, decay_steps=decay_steps)
        if final_deviation < 0:
            raise UserError(f"NormalNoise.final_deviation is {final_deviation}: it must not be negative.")
        self._deviation = deviation
        self._final = final_deviation
        self._decay_steps = decay_steps

    def deviation(self, env_steps: tf.Tensor) -> tf.Tensor:
        """[] f32 at `env_steps` [] i32."""
        return linear(self._deviation, self._final, self._decay_steps, env_steps)

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        noise = self.deviation(env_steps) * tf.random.stateless_normal(tf.shape(values), seed)
        return tf.clip_by_value(values + noise, -1.0, 1.0), core

    def metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"noise_deviation": self.deviation(env_steps)}


@ACTION_SELECTORS.register("ou_noise")
class OUNoise(ActSelect):
    """Adds an Ornstein-Uhlenbeck process, which drifts back to 0 and begins there with every episode.

    x += -theta x dt + sigma sqrt(dt) N(0, 1) (Lillicrap et al. 2016, section 7).
    """

    takes = "actions"

    def __init__(self, theta: float = 0.15, sigma: float = 0.2, dt: float = 1.0):
        """`dt`: the time between two steps; the paper's is 1."""
        check_positive("OUNoise", theta=theta, sigma=sigma, dt=dt)
        self._theta = theta
        self._sigma = sigma
        self._dt = dt

    def initial_core(self, places: np.ndarray, size: int) -> Nest:
        return tf.zeros([len(places), size])

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        del env_steps
        push = self._sigma * self._dt**0.5 * tf.random.stateless_normal(tf.shape(values), seed)
        core = core - self._theta * core * self._dt + push
        return tf.clip_by_value(values + core, -1.0, 1.0), core
