"""Fully connected and convolutional networks.

Every network is called with observations [B, ...] and, where it has noise, a seed; it gives [B, outputs] f32.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tree

from agents.models.registry import MODELS
from agents.models.states import check_pictures
from pipeline.checks import check_positive
from pipeline.types import Nest, UserError


def flat(observation: Nest) -> tf.Tensor:
    """All leaves [B, ...] side by side, [B, size] f32."""
    leaves = [tf.cast(leaf, tf.float32) for leaf in tree.flatten(observation)]
    return tf.concat([tf.reshape(leaf, [-1, leaf.shape[1:].num_elements()]) for leaf in leaves], axis=-1)


def initializer(orthogonal: bool, gain: float) -> tf.keras.initializers.Initializer:
    """For one layer: Glorot uniform (Keras's default) or orthogonal weights, times `gain`."""
    if orthogonal:
        return tf.keras.initializers.Orthogonal(gain)
    return tf.keras.initializers.VarianceScaling(gain**2, "fan_avg", "uniform")


def hidden_initializer(orthogonal: bool) -> tf.keras.initializers.Initializer:
    """The same for one layer before a rectifier: orthogonal weights with gain sqrt(2)."""
    return initializer(orthogonal, 2**0.5 if orthogonal else 1.0)


def check_activation(owner: str, activation: str) -> None:
    """Raises UserError where Keras does not know `activation`."""
    try:
        tf.keras.activations.get(activation)
    except ValueError as error:
        raise UserError(f"{owner}.activation is '{activation}': Keras has no activation of that name.") from error


@MODELS.register("basic")
class MLP(tf.keras.Model):
    """Dense layers over the flattened observation, then a linear head."""

    def __init__(
        self,
        outputs: int,
        head_gain: float = 1.0,
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "relu",
        orthogonal: bool = False,
    ):
        """`outputs`: the head's size; `head_gain` scales its initial weights. Biases begin at 0."""
        super().__init__()
        check_positive("MLP", hidden_sizes=min(hidden_sizes, default=1), head_gain=head_gain)
        check_activation("MLP", activation)
        self._hidden = [
            tf.keras.layers.Dense(size, activation, kernel_initializer=hidden_initializer(orthogonal))
            for size in hidden_sizes
        ]
        self._head = tf.keras.layers.Dense(outputs, kernel_initializer=initializer(orthogonal, head_gain))

    @staticmethod
    def check_states(setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """It flattens any states: see `agents.models.states`."""
        del observation_spec, configured
        return [setting]

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, observation: Nest, seed: tf.Tensor | None = None, each_row: bool = False
    ) -> tf.Tensor:
        del seed, each_row
        hidden = flat(observation)
        for layer in self._hidden:
            hidden = layer(hidden)
        return self._head(hidden)


def pixels(observation: tf.Tensor) -> tf.Tensor:
    """Pictures of bytes, [B, H, W, C] or stacks of frames [B, S, H, W, C], as [B, H, W, S * C] f32 in [0, 1]."""
    if observation.dtype != tf.uint8 or observation.shape.rank not in (4, 5):
        raise UserError(
            "This network needs pictures of bytes, [height, width, channels], and states are"
            f" {observation.dtype.name} {list(observation.shape[1:])}: choose the model 'basic'."
        )
    # Bytes until here: they are a quarter of the floats' size on the way to the device.
    if observation.shape.rank == 5:
        shape: Any = observation.shape
        frames_last = tf.transpose(observation, [0, 2, 3, 1, 4])
        observation = tf.reshape(frames_last, [-1, shape[2], shape[3], shape[1] * shape[4]])
    return tf.cast(observation, tf.float32) / 255.0


@MODELS.register("conv")
class Conv(tf.keras.Model):
    """The convolutional network of Mnih et al. 2015 (methods, model architecture) over `pixels`."""

    def __init__(
        self,
        outputs: int,
        head_gain: float = 1.0,
        filters: tuple[int, ...] = (32, 64, 64),
        kernels: tuple[int, ...] = (8, 4, 3),
        strides: tuple[int, ...] = (4, 2, 1),
        hidden_size: int = 512,
        orthogonal: bool = False,
    ):
        """One convolution for each of `filters`, `kernels` (pixels) and `strides` (pixels), then a dense layer."""
        super().__init__()
        check_positive(
            "Conv", filters=min(filters), kernels=min(kernels), strides=min(strides), hidden_size=hidden_size
        )
        if not len(filters) == len(kernels) == len(strides):
            raise UserError(f"Conv has filters {filters}, kernels {kernels} and strides {strides}: one each a layer.")
        self._convolutions = [
            tf.keras.layers.Conv2D(f, k, s, activation="relu", kernel_initializer=hidden_initializer(orthogonal))
            for f, k, s in zip(filters, kernels, strides, strict=True)
        ]
        self._hidden = tf.keras.layers.Dense(hidden_size, "relu", kernel_initializer=hidden_initializer(orthogonal))
        self._head = tf.keras.layers.Dense(outputs, kernel_initializer=initializer(orthogonal, head_gain))

    @staticmethod
    def check_states(setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """Raises UserError where states are no pictures, or too small: see `agents.models.states`."""
        least = 1
        layers = zip(configured.get("kernels", ()), configured.get("strides", ()), strict=False)
        for kernel, stride in reversed(list(layers)):
            least = (least - 1) * stride + kernel
        check_pictures(setting, observation_spec, least)
        return []

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, observation: tf.Tensor, seed: tf.Tensor | None = None, each_row: bool = False
    ) -> tf.Tensor:
        del seed, each_row
        hidden = pixels(observation)
        for layer in self._convolutions:
            hidden = layer(hidden)
        return self._head(self._hidden(flat(hidden)))


@MODELS.register("impala")
class Impala(tf.keras.Model):
    """The residual network of Espeholt et al. 2018 (figure 3, right, without its LSTM) over `pixels`."""

    def __init__(
        self,
        outputs: int,
        head_gain: float = 1.0,
        filters: tuple[int, ...] = (16, 32, 32),
        hidden_size: int = 256,
        orthogonal: bool = False,
    ):
        """Each of `filters` is a convolution, a pooling that halves the sides, and two residual blocks."""
        super().__init__()
        check_positive("Impala", filters=min(filters), hidden_size=hidden_size, head_gain=head_gain)

        def convolution(size: int) -> tf.keras.layers.Layer:
            weights = hidden_initializer(orthogonal)
            return tf.keras.layers.Conv2D(size, 3, padding="same", kernel_initializer=weights)

        self._first = [convolution(size) for size in filters]
        self._pool = tf.keras.layers.MaxPool2D(3, 2, padding="same")
        self._residual = [[[convolution(size), convolution(size)] for _ in range(2)] for size in filters]
        self._hidden = tf.keras.layers.Dense(hidden_size, "relu", kernel_initializer=hidden_initializer(orthogonal))
        self._head = tf.keras.layers.Dense(outputs, kernel_initializer=initializer(orthogonal, head_gain))

    @staticmethod
    def check_states(setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """Raises UserError where states are no pictures: see `agents.models.states`."""
        del configured
        check_pictures(setting, observation_spec)
        return []

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, observation: tf.Tensor, seed: tf.Tensor | None = None, each_row: bool = False
    ) -> tf.Tensor:
        del seed, each_row
        hidden = pixels(observation)
        for first, blocks in zip(self._first, self._residual, strict=True):
            hidden = self._pool(first(hidden))
            for one, two in blocks:
                hidden += two(tf.nn.relu(one(tf.nn.relu(hidden))))
        return self._head(self._hidden(flat(tf.nn.relu(hidden))))
