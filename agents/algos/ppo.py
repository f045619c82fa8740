"""Proximal policy optimization (Schulman et al. 2017)."""

from __future__ import annotations

import tensorflow as tf

from agents.algos.algo import Loss
from agents.algos.on_policy import QUEUE, OnPolicy
from agents.algos.registry import ALGOS
from pipeline.checks import check_positive
from pipeline.types import Batch, Data, Params, UserError


@ALGOS.register("ppo")
class PPO(OnPolicy):
    """Minimises the clipped surrogate (eq. 7) - entropy bonus + value error (eq. 9), in epochs of minibatches.

    Policy and value function are networks of their own, each with its own gradient norm; the weight of the value error
    against the surrogate (c1 of eq. 9) is therefore a matter of learning rates alone, and Adam's is the same for both.
    With the `value_model` 'shared' they are one network, as the paper has it for Atari, and `value_weight` is c1.
    Advantages are centred and scaled over the rollout, not over each minibatch.
    """

    action_kinds = ("discrete", "multi-discrete", "continuous")
    metrics = ("loss", "policy_loss", "value_loss", "entropy", "kl", "clipped", "explained_variance")

    def __init__(
        self,
        policy_model: str = "policy",
        value_model: str = "basic",
        advantage: str = "gae",
        grad_comp: str = "ppo",
        rollout_length: int = 128,
        batch_size: int = 256,
        epochs: int = 4,
        gamma: float = 0.99,
        learning_rate: float = 2.5e-4,
        lr_schedule: str = "constant",
        entropy_weight: float = 0.01,
        value_clip: float | None = None,
        max_gradient_norm: float | None = 0.5,
        adam_epsilon: float = 1e-5,
        normalize_advantages: bool = True,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        value_weight: float = 0.5,
    ):
        """`rollout_length`: steps of each lane; `batch_size`: transitions of a minibatch, over all replicas.

        `value_clip`: how far a value may move from what it was when acting, before its error stops to count.
        """
        check_positive("PPO", rollout_length=rollout_length, batch_size=batch_size, epochs=epochs)
        if not value_model:
            raise UserError("PPO.value_model is '': PPO needs a value function; vpg can do without.")
        super().__init__(
            policy_model=policy_model,
            value_model=value_model,
            advantage=advantage,
            grad_comp=grad_comp,
            gamma=gamma,
            policy_learning_rate=learning_rate,
            value_learning_rate=learning_rate,
            lr_schedule=lr_schedule,
            max_gradient_norm=max_gradient_norm,
            adam_epsilon=adam_epsilon,
            normalize_advantages=normalize_advantages,
            normalize_observations=normalize_observations,
            normalize_returns=normalize_returns,
            value_weight=value_weight,
        )
        self._entropy_weight = entropy_weight
        self._value_clip = value_clip
        window = rollout_length + 1
        self._data = Data("queue", window, batch_size, QUEUE, 0, window, epochs)

    def data(self) -> Data:
        return self._data

    def loss(self, params: Params, batch: Batch) -> Loss:
        steps, weight = batch.steps, batch.weight
        examples, old_log_prob = steps.extras["examples"], steps.extras["log_prob"]
        log_prob, entropy, value = self._policy_and_value(params, steps)
        surrogate = weight * self._grad_comp(log_prob, old_log_prob, examples.advantage)
        value_loss = weight * self._value_error(value, examples.value, examples.target)
        losses = self._losses(surrogate - self._entropy_weight * weight * entropy, value_loss)
        change = log_prob - old_log_prob
        means = {
            "policy_loss": surrogate,
            "value_loss": value_loss,
            "entropy": weight * entropy,
            # Schulman 2020, "Approximating KL divergence": (ratio - 1) - log ratio has little variance.
            "kl": weight * (tf.exp(change) - 1.0 - change),
            "clipped": weight * self._grad_comp.clipped(log_prob, old_log_prob),
        }
        metrics = {name: tf.reduce_mean(values) for name, values in means.items()}
        metrics["explained_variance"] = _explained(examples.value, examples.target, weight)
        return Loss(losses, None, {"loss": tf.reduce_mean(sum(losses.values())), **metrics})

    def _value_error(self, value: tf.Tensor, old: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        error = 0.5 * tf.square(target - value)
        if self._value_clip is None:
            return error
        clipped = old + tf.clip_by_value(value - old, -self._value_clip, self._value_clip)
        return tf.maximum(error, 0.5 * tf.square(target - clipped))


def _explained(value: tf.Tensor, target: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The part of the targets' variance that the values explain."""
    mean = lambda rows: tf.reduce_sum(weight * rows) / tf.maximum(tf.reduce_sum(weight), 1e-8)  # noqa: E731
    variance = lambda rows: mean(tf.square(rows - mean(rows)))  # noqa: E731
    return 1.0 - variance(target - value) / tf.maximum(variance(target), 1e-8)
