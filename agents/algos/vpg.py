"""Vanilla policy gradient: REINFORCE with reward-to-go over whole episodes (Williams 1992; Sutton et al. 2000)."""

from __future__ import annotations

import tensorflow as tf

from agents.algos.algo import Loss
from agents.algos.on_policy import QUEUE, OnPolicy
from agents.algos.registry import ALGOS
from pipeline.checks import check_positive
from pipeline.types import Batch, Data, Params


@ALGOS.register("vpg")
class VPG(OnPolicy):
    """Minimises -log pi(a|s) (R - b(s)) over the episodes of all lanes, once; R is the discounted return from there on.

    With a `value_model` the baseline b is a value function, fitted to the returns; without one it is 0. Advantages are
    centred and scaled over the rollout unless `normalize_advantages` is False.
    """

    action_kinds = ("discrete", "multi-discrete", "continuous")
    metrics = ("loss", "policy_loss", "value_loss", "entropy", "return")

    def __init__(
        self,
        policy_model: str = "policy",
        value_model: str = "basic",
        advantage: str = "discounted_return",
        grad_comp: str = "policy_gradient",
        longest_episode: int = 500,
        gamma: float = 0.99,
        policy_learning_rate: float = 1e-2,
        value_learning_rate: float = 1e-2,
        lr_schedule: str = "constant",
        entropy_weight: float = 0.0,
        max_gradient_norm: float | None = None,
        adam_epsilon: float = 1e-7,
        normalize_advantages: bool = True,
        normalize_observations: bool = False,
        normalize_returns: bool = False,
        value_weight: float = 0.5,
    ):
        """`longest_episode`, steps: a rollout ends there too, and what goes on is cut as if it were truncated.

        With a `value_model` of '' there is no baseline; 'shared' is one network for both, see PPO.
        """
        check_positive("VPG", longest_episode=longest_episode)
        super().__init__(
            policy_model=policy_model,
            value_model=value_model,
            advantage=advantage,
            grad_comp=grad_comp,
            gamma=gamma,
            policy_learning_rate=policy_learning_rate,
            value_learning_rate=value_learning_rate,
            lr_schedule=lr_schedule,
            max_gradient_norm=max_gradient_norm,
            adam_epsilon=adam_epsilon,
            normalize_advantages=normalize_advantages,
            normalize_observations=normalize_observations,
            normalize_returns=normalize_returns,
            value_weight=value_weight,
        )
        self._entropy_weight = entropy_weight
        window = longest_episode + 1
        self._data = Data("queue", window, 0, QUEUE, 0, window, whole_episodes=True)

    def data(self) -> Data:
        return self._data

    def loss(self, params: Params, batch: Batch) -> Loss:
        steps, weight = batch.steps, batch.weight
        examples = steps.extras["examples"]
        log_prob, entropy, value = self._policy_and_value(params, steps)
        surrogate = weight * self._grad_comp(log_prob, steps.extras["log_prob"], examples.advantage)
        value_loss = weight * 0.5 * tf.square(examples.target - value) if self._has_values else tf.zeros_like(value)
        losses = self._losses(surrogate - self._entropy_weight * weight * entropy, value_loss)
        means = {
            "policy_loss": surrogate,
            "value_loss": value_loss,
            "entropy": weight * entropy,
            "return": weight * examples.raw_return,
        }
        metrics = {name: tf.reduce_mean(values) for name, values in means.items()}
        return Loss(losses, None, {"loss": tf.reduce_mean(sum(losses.values())), **metrics})
