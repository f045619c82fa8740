"""Choosing one of A actions from A values: action values, or the logits of a policy."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from agents.algos.act_select.act_select import ActSelect
from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.schedules import linear
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Nest


@ACTION_SELECTORS.register("max")
class Max(ActSelect):
    """The action of the largest value."""

    takes = "values"

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        del seed, env_steps
        return tf.argmax(values, axis=-1, output_type=tf.int32), core


@ACTION_SELECTORS.register("random")
class Random(ActSelect):
    """Any action, all equally likely."""

    takes = "values"

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        del env_steps
        return tf.random.stateless_uniform(tf.shape(values)[:-1], seed, 0, values.shape[-1], tf.int32), core


@ACTION_SELECTORS.register("epsilon")
class Epsilon(ActSelect):
    """With probability epsilon a uniformly random action, else the action of the largest value; one coin per lane."""

    takes = "values"

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

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        return _epsilon_greedy(values, self.epsilon(env_steps), seed), core

    def metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"epsilon": self.epsilon(env_steps)}


@ACTION_SELECTORS.register("epsilon_by_lane")
class EpsilonByLane(ActSelect):
    """As `Epsilon`, with an epsilon of its own for each lane of each actor (Horgan et al. 2018, section 4.1).

    The lane that stands at p in [0, 1] among all explores with epsilon ** (1 + alpha * p), for the whole training.
    """

    takes = "values"

    def __init__(self, epsilon: float = 0.4, alpha: float = 7.0):
        """The defaults are the paper's."""
        check_fraction("EpsilonByLane", epsilon=epsilon)
        check_positive("EpsilonByLane", alpha=alpha)
        self._epsilon = epsilon
        self._alpha = alpha

    def initial_core(self, places: np.ndarray, size: int) -> Nest:
        del size
        return tf.constant(self._epsilon ** (1 + self._alpha * places), tf.float32)

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        del env_steps
        return _epsilon_greedy(values, core, seed), core


@ACTION_SELECTORS.register("non_uniform_random")
class NonUniformRandom(ActSelect):
    """A sample from the softmax of the values over `temperature`."""

    takes = "values"

    def __init__(self, temperature: float = 1.0):
        check_positive("NonUniformRandom", temperature=temperature)
        self._temperature = temperature

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        del env_steps
        sample = tf.random.stateless_categorical(values / self._temperature, 1, seed, tf.int32)
        return sample[:, 0], core


@ACTION_SELECTORS.register("uniform_random")
class UniformRandom(ActSelect):
    """The seed's Gumbel trick: the largest of values - log(-log u), with u uniform, one for every lane and action.

    With logits as values that is a sample of their softmax (Gumbel 1954; Maddison et al. 2014).
    """

    takes = "values"

    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        del env_steps
        uniform = tf.random.stateless_uniform(tf.shape(values), seed, minval=1e-20)
        return tf.argmax(values - tf.math.log(-tf.math.log(uniform)), axis=-1, output_type=tf.int32), core


def _epsilon_greedy(values: tf.Tensor, epsilon: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """[E] i32: with probability `epsilon`, [] or [E], any action, else that of the largest value [E, A]."""
    lanes = tf.shape(values)[:1]
    coin_seed, action_seed = tf.unstack(tf.random.split(seed))
    explore = tf.random.stateless_uniform(lanes, coin_seed) < epsilon
    random = tf.random.stateless_uniform(lanes, action_seed, 0, values.shape[-1], tf.int32)
    return tf.where(explore, random, tf.argmax(values, axis=-1, output_type=tf.int32))
