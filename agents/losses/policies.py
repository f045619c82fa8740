"""Distributions over actions, by the action space."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pipeline.types import Nest

IMPOSSIBLE = -1e9
"""the logit of an action that a dimension does not have"""


def is_continuous(action_spec: Nest) -> bool:
    """Whether actions are real numbers (a Box)."""
    return np.issubdtype(action_spec.dtype, np.floating)


def is_bounded(action_spec: Nest) -> bool:
    """Whether every action lies between finite bounds, whose distance is a finite f32 too."""
    with np.errstate(over="ignore", invalid="ignore"):
        distance = np.subtract(action_spec.maximum, action_spec.minimum, dtype=np.float32)
    return bool(np.isfinite(distance).all())


def varies(action_spec: Nest) -> np.ndarray:
    """[...] bool: which dimensions of a Box have more than one value, in f32.

    Nothing can be scaled by the distance of the bounds where they are the same.
    """
    low, high = (np.broadcast_to(bound, action_spec.shape) for bound in (action_spec.minimum, action_spec.maximum))
    return np.subtract(high, low, dtype=np.float32) > np.finfo(np.float32).tiny


def parameter_count(action_spec: Nest) -> int:
    """How many logits or means the distribution of one action is made from."""
    if hasattr(action_spec, "num_values"):
        return action_spec.num_values
    if is_continuous(action_spec):
        return int(np.prod(action_spec.shape))
    return int(np.sum(_counts(action_spec)))


def _counts(action_spec: Nest) -> np.ndarray:
    """How many values each dimension of a vector of integers has."""
    return np.broadcast_to(action_spec.maximum + 1, action_spec.shape).reshape(-1)


class Categorical(tfp.distributions.Categorical):
    """One whose samples are actions where logits are NaN too: theirs lie beyond the last, which `log_prob` refuses."""

    def _sample_n(self, n: int, seed: Any = None) -> tf.Tensor:
        return tf.minimum(super()._sample_n(n, seed), self._num_categories() - 1)


def distribution(action_spec: Nest, parameters: tf.Tensor) -> Any:
    """The `tfp.distributions` object of actions [B, ...] for `parameters` [B, P] f32.

    Discrete: logits. A vector of integers (MultiDiscrete): the logits of every dimension in turn, independent of one
    another. Box: means, then logarithms of standard deviations; not squashed, so samples may lie outside the bounds.
    """
    tfd = tfp.distributions
    if hasattr(action_spec, "num_values"):
        return Categorical(parameters)
    if is_continuous(action_spec):
        mean, log_deviation = tf.split(parameters, 2, axis=-1)
        shape = [-1, *action_spec.shape]
        gaussian = tfd.Normal(tf.reshape(mean, shape), tf.exp(tf.reshape(log_deviation, shape)))
        return tfd.Independent(gaussian, len(action_spec.shape))
    counts = _counts(action_spec)
    widest = int(counts.max())
    logits = [
        tf.pad(part, [[0, 0], [0, widest - int(count)]], constant_values=IMPOSSIBLE)
        for part, count in zip(tf.split(parameters, counts, axis=-1), counts, strict=True)
    ]
    stacked = tf.reshape(tf.stack(logits, axis=1), [-1, *action_spec.shape, widest])
    return tfd.Independent(Categorical(stacked), len(action_spec.shape))
