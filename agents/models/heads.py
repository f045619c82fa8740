"""Actors and critics: what turns a network's outputs into actions, distributions and action values."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import tensorflow as tf

from agents.losses.policies import distribution, is_continuous, parameter_count, varies
from agents.models.basic import flat
from agents.models.registry import MODELS
from agents.models.states import check_states
from pipeline.checks import check_positive
from pipeline.types import Nest


@MODELS.register("policy")
class Policy(tf.keras.Model):
    """A stochastic actor, which may give the value of a state too."""

    def __init__(
        self,
        action_spec: Nest,
        values: bool = False,
        torso: str = "basic",
        head_gain: float = 0.01,
        deviation: float = 1.0,
    ):
        """`torso`: the network that gives logits or means; `deviation`: a Gaussian's first one, learnt for all states.

        With `values` the torso's last output is the state's value.

        A `head_gain` well below 1 makes the first actions nearly independent of the state (Andrychowicz et al. 2021,
        section 3.2).
        """
        super().__init__()
        check_positive("Policy", head_gain=head_gain, deviation=deviation)
        self._action_spec = action_spec
        self._outputs = parameter_count(action_spec)
        self._torso = MODELS.get(torso)(self._outputs + values, head_gain=head_gain)
        self._log_deviation = None
        if is_continuous(action_spec):
            start = tf.keras.initializers.Constant(tf.math.log(deviation))
            shape = [parameter_count(action_spec)]
            self._log_deviation = self.add_weight(name="log_deviation", shape=shape, initializer=start)

    @classmethod
    def check_states(cls, setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """As its torso: see `agents.models.states`."""
        del setting
        return check_states(configured["torso"], f"{cls.__name__}.torso", observation_spec)

    def call(self, observation: Nest) -> tf.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, ...] -> the distribution's parameters [B, P] f32, and the values beside them as [B, P + 1]"""
        outputs = self._torso(observation)
        if self._log_deviation is None:
            return outputs
        parameters, values = outputs[:, : self._outputs], outputs[:, self._outputs :]
        return tf.concat([parameters, tf.broadcast_to(self._log_deviation, tf.shape(parameters)), values], axis=-1)

    def distribution(self, observation: Nest) -> Any:
        """The `tfp.distributions` object of the actions [B, ...] in states [B, ...]."""
        return self.distribution_and_value(observation)[0]

    def distribution_and_value(self, observation: Nest) -> tuple[Any, tf.Tensor]:
        """The same, and the values [B] of the states, for a model with `values`."""
        outputs = self(observation)
        size = self._outputs * (1 if self._log_deviation is None else 2)
        return distribution(self._action_spec, outputs[:, :size]), outputs[:, -1]


@MODELS.register("actor")
class Actor(tf.keras.Model):
    """A deterministic actor: actions in [-1, 1] of a Box, or the logits of a Discrete space.

    Where both bounds of a dimension are the same, its actions are 0 in [-1, 1], and the bound in the environment.
    """

    def __init__(self, action_spec: Nest, torso: str = "basic", head_gain: float = 1.0):
        super().__init__()
        self._action_spec = action_spec
        self._torso = MODELS.get(torso)(parameter_count(action_spec), head_gain=head_gain)
        self.continuous = is_continuous(action_spec)
        self.size = parameter_count(action_spec)

    @classmethod
    def check_states(cls, setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """As its torso: see `agents.models.states`."""
        del setting
        return check_states(configured["torso"], f"{cls.__name__}.torso", observation_spec)

    def call(self, observation: Nest) -> tf.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, ...] -> [B, size] f32"""
        outputs = self._torso(observation)
        return tf.where(self._varies(), tf.tanh(outputs), 0.0) if self.continuous else outputs

    def to_environment(self, action: tf.Tensor) -> tf.Tensor:
        """Actions in [-1, 1], [B, size], in the Box's own bounds and shape; those of a Discrete space as they are."""
        if not self.continuous:
            return action
        low, high = self._bounds()
        return tf.reshape(low + (action + 1.0) * 0.5 * (high - low), [-1, *self._action_spec.shape])

    def from_environment(self, action: tf.Tensor) -> tf.Tensor:
        """What a critic sees of the environment's actions: [B, size] in [-1, 1], or one-hot rows."""
        if not self.continuous:
            return tf.one_hot(action, self._action_spec.num_values)
        low, high = self._bounds()
        distance = np.where(self._varies(), high - low, 1.0)
        scaled = (tf.reshape(action, [-1, low.shape[0]]) - low) / distance * 2.0 - 1.0
        return tf.where(self._varies(), scaled, 0.0)

    def _varies(self) -> np.ndarray:
        return varies(self._action_spec).reshape(-1)

    def _bounds(self) -> list[np.ndarray]:
        spec = self._action_spec
        bounds = (spec.minimum, spec.maximum)
        return [np.broadcast_to(bound, spec.shape).reshape(-1).astype(np.float32) for bound in bounds]


@MODELS.register("critic")
class Critic(tf.keras.Model):
    """The value of a state and an action."""

    def __init__(self, torso: str = "basic", encoder: str = "", features: int = 256):
        """`encoder`: the network that makes `features` numbers of a picture; '': states are taken as they are."""
        super().__init__()
        check_positive("Critic", features=features)
        self._torso = MODELS.get(torso)(1)
        self._encoder = MODELS.get(encoder)(features) if encoder else None

    @classmethod
    def check_states(cls, setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """As its encoder; its torso is given numbers, whatever states are: see `agents.models.states`."""
        del setting
        check_states(configured["torso"], f"{cls.__name__}.torso", specs.Array((configured["features"],), np.float32))
        encoder = f"{cls.__name__}.encoder"
        return check_states(configured["encoder"], encoder, observation_spec) if configured["encoder"] else [encoder]

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, observation: Nest, action: tf.Tensor
    ) -> tf.Tensor:
        """[B, ...], [B, size] -> [B] f32"""
        return self.value(self.encode(observation), action)

    def encode(self, observation: Nest) -> tf.Tensor:
        """[B, ...] -> [B, features] f32: what `value` takes of states, whatever the action."""
        return flat(observation) if self._encoder is None else tf.nn.relu(self._encoder(observation))

    def value(self, encoded: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """[B, features], [B, size] -> [B] f32"""
        return self._torso(tf.concat([encoded, action], axis=-1))[:, 0]
