"""Choosing an action from action values."""

from __future__ import annotations

import tensorflow as tf

from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.schedules import linear
from pipeline.checks import check_fraction, check_positive


@ACTION_SELECTORS.register("max")
class Max:
    """The action of the largest value."""

    def __call__(self, values: tf.Tensor, seed: tf.Tensor, env_steps: tf.Tensor) -> tf.Tensor:
        """[E, A] f32 -> [E] i32"""
        del seed, env_steps
        return tf.argmax(values, axis=-1, output_type=tf.int32)

    def metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """What exploration is at now."""
        del env_steps
        return {}


@ACTION_SELECTORS.register("epsilon")
class Epsilon:
    """With probability epsilon a uniformly random action, else the action of the largest value; one coin per lane."""

    def __init__(self, initial: float = 1.0, final: float = 0.05, decay_steps: int = 10_000):
        """Epsilon goes linearly from `initial` to `final` over the first `decay_steps` environment steps."""
        check_fraction("Epsilon", initial=initial, final=final)
        check_positive("Epsilon", decay_steps=decay_steps)
        self._initial = initial
        self._final = final
        self._decay_steps = decay_steps

    def epsilon(self, env_steps: tf.Tensor) -> tf.Tensor:
        """[] f32 at `env_steps` [] i32."""
        return linear(self._initial, self._final, self._decay_steps, env_steps)

    def __call__(self, values: tf.Tensor, seed: tf.Tensor, env_steps: tf.Tensor) -> tf.Tensor:
        """[E, A] f32 -> [E] i32"""
        lanes = tf.shape(values)[:1]
        coin_seed, action_seed = tf.unstack(tf.random.split(seed))
        explore = tf.random.stateless_uniform(lanes, coin_seed) < self.epsilon(env_steps)
        random = tf.random.stateless_uniform(lanes, action_seed, 0, values.shape[-1], tf.int32)
        return tf.where(explore, random, tf.argmax(values, axis=-1, output_type=tf.int32))

    def metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """What exploration is at now."""
        return {"epsilon": self.epsilon(env_steps)}
