"""Networks that explore by noise in their weights (Fortunato et al. 2018)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from agents.models.basic import check_activation, flat
from agents.models.registry import MODELS
from pipeline.checks import check_positive
from pipeline.types import Nest


class NoisyDense(tf.keras.layers.Layer):
    """y = (mu_w + sigma_w * noise_w) x + mu_b + sigma_b * noise_b, eq. 9; without a seed there is no noise.

    Factorised (eqs. 10 and 11) or independent noise, with the initial weights of section 3.2. sigma_w and sigma_b are
    `scale` times what is learnt: with Adam, whose steps have the size of the learning rate whatever the size of the
    weight, sigmas learnt as they are would be gone after sigma / (learning rate) updates, and exploration with them.
    A layer whose `sigma` is 0 never has noise.
    """

    def __init__(self, units: int, factorised: bool, sigma: float, gain: float = 1.0):
        super().__init__()
        self._units = units
        self._factorised = factorised
        self._sigma = sigma
        self._gain = gain

    def build(self, shape: Any) -> None:
        size = shape[-1]
        bound = self._gain * (1.0 / size if self._factorised else 3.0 / size) ** 0.5
        self.scale = self._sigma / size**0.5 if self._factorised else self._sigma
        uniform = lambda: tf.keras.initializers.RandomUniform(-bound, bound)  # noqa: E731
        self.mu_w = self.add_weight(name="mu_w", shape=[size, self._units], initializer=uniform())
        self.mu_b = self.add_weight(name="mu_b", shape=[self._units], initializer=uniform())
        if not self._sigma:
            return
        self.sigma_w = self.add_weight(name="sigma_w", shape=[size, self._units], initializer="ones")
        self.sigma_b = self.add_weight(name="sigma_b", shape=[self._units], initializer="ones")

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: tf.Tensor, seed: tf.Tensor | None, each_row: bool
    ) -> tf.Tensor:
        """[B, size] -> [B, units]; one noise for all rows, or for `each_row` its own."""
        y = tf.matmul(x, self.mu_w) + self.mu_b
        if seed is None or not self._sigma:
            return y
        rows: Any = tf.shape(x)[0] if each_row else 1
        size: Any = x.shape[-1]
        one, two = tf.unstack(tf.random.split(seed))
        sigma_w, sigma_b = self.scale * self.sigma_w, self.scale * self.sigma_b
        if self._factorised:
            noise_in = _scaled(tf.random.stateless_normal([rows, size], one))
            noise_out = _scaled(tf.random.stateless_normal([rows, self._units], two))
            return y + (tf.matmul(x * noise_in, sigma_w) + sigma_b) * noise_out
        noise_w = tf.random.stateless_normal([rows, size, self._units], one)
        noise_b = tf.random.stateless_normal([rows, self._units], two)
        if not each_row:
            return y + tf.matmul(x, sigma_w * noise_w[0]) + sigma_b * noise_b
        return y + tf.einsum("bi,bio->bo", x, sigma_w * noise_w) + sigma_b * noise_b


def _scaled(noise: tf.Tensor) -> tf.Tensor:
    """sgn(x) sqrt(|x|), the f of eqs. 10 and 11."""
    return tf.sign(noise) * tf.sqrt(tf.abs(noise))


@MODELS.register("noisy")
class Noisy(tf.keras.Model):
    """Layers without noise over the flattened observation, then noisy ones and a noisy head."""

    def __init__(
        self,
        outputs: int,
        head_gain: float = 1.0,
        plain_sizes: tuple[int, ...] = (),
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "relu",
        factorised: bool = True,
        sigma: float | None = None,
    ):
        """`plain_sizes`: units of the layers without noise, where the paper has convolutions; `hidden_sizes`: with.

        `sigma`: the initial noise; by default the paper's sigma_0 of 0.5 with factorised, 0.017 with other noise.
        """
        super().__init__()
        sigma = (0.5 if factorised else 0.017) if sigma is None else sigma
        check_positive("Noisy", hidden_sizes=min(hidden_sizes, default=1), sigma=sigma, head_gain=head_gain)
        check_positive("Noisy", plain_sizes=min(plain_sizes, default=1))
        check_activation("Noisy", activation)
        sizes = [*((size, 0.0) for size in plain_sizes), *((size, sigma) for size in hidden_sizes)]
        self._hidden: list[Any] = [NoisyDense(size, factorised, own) for size, own in sizes]
        self._activation: Any = tf.keras.activations.get(activation)
        self._head: Any = NoisyDense(outputs, factorised, sigma, head_gain)

    @staticmethod
    def check_states(setting: str, observation_spec: Nest, configured: dict[str, Any]) -> list[str]:
        """It flattens any states: see `agents.models.states`."""
        del observation_spec, configured
        return [setting]

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, observation: Nest, seed: tf.Tensor | None = None, each_row: bool = False
    ) -> tf.Tensor:
        """Noise from `seed` [2] i32: the same for the whole batch, or for `each_row` its own; None: no noise."""
        layers = [*self._hidden, self._head]
        seeds = [None] * len(layers) if seed is None else tf.unstack(tf.random.split(seed, len(layers)))
        hidden = flat(observation)
        for layer, own in zip(self._hidden, seeds[:-1], strict=True):
            hidden = self._activation(layer(hidden, own, each_row))
        return self._head(hidden, seeds[-1], each_row)
