"""Fully connected networks."""

from __future__ import annotations

import tensorflow as tf

from agents.models.registry import MODELS
from pipeline.checks import check_positive
from pipeline.types import UserError


@MODELS.register("mlp")
class MLP(tf.keras.Model):
    """Dense layers over a flat observation, then a linear head."""

    def __init__(self, outputs: int, hidden_sizes: tuple[int, ...] = (64, 64), activation: str = "relu"):
        """`outputs`: the head's size. Weights: Glorot uniform, biases 0 (Keras's defaults)."""
        super().__init__()
        check_positive("MLP", hidden_sizes=min(hidden_sizes, default=1))
        try:
            tf.keras.activations.get(activation)
        except ValueError as error:
            raise UserError(f"MLP.activation is '{activation}': Keras has no activation of that name.") from error
        self._flatten = tf.keras.layers.Flatten()
        self._hidden = [tf.keras.layers.Dense(size, activation) for size in hidden_sizes]
        self._head = tf.keras.layers.Dense(outputs)

    def call(self, observation: tf.Tensor) -> tf.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, ...] -> [B, outputs] f32"""
        hidden = self._flatten(tf.cast(observation, tf.float32))
        for layer in self._hidden:
            hidden = layer(hidden)
        return self._head(hidden)
