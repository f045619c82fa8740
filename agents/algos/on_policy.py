"""What vanilla policy gradient and PPO share: a stochastic policy, a value function, and advantages of rollouts."""

from __future__ import annotations

from typing import Any, NamedTuple

import dm_env.specs as specs
import numpy as np
import tensorflow as tf
import tree

from agents.advantages.registry import ADVANTAGES
from agents.algos.algo import Algo
from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from agents.losses.returns import gae
from agents.lr_schedules.registry import LR_SCHEDULES
from agents.models.moments import Moments
from agents.models.registry import MODELS
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Batch, Nest, Params, Step, UserError

SHARED = "shared"
"""the `value_model` that is no network of its own"""
QUEUE = 16
"""rollouts that the queue holds; in one process there is one for each replica"""


class Examples(NamedTuple):
    """What `OnPolicy.prepare` adds to each transition; [B] f32 each."""

    advantage: tf.Tensor
    target: tf.Tensor
    """the return that the value function learns"""
    value: tf.Tensor
    """before the rollout's updates"""
    raw_return: tf.Tensor
    """the discounted rewards up to the rollout's end, in the environment's unit"""


class OnPolicy(Algo):
    """The base of algorithms that learn from rollouts of the present policy."""

    def __init__(
        self,
        *,
        policy_model: str,
        value_model: str,
        advantage: str,
        grad_comp: str,
        gamma: float,
        policy_learning_rate: float,
        value_learning_rate: float,
        lr_schedule: str,
        max_gradient_norm: float | None,
        adam_epsilon: float,
        normalize_advantages: bool,
        normalize_observations: bool,
        normalize_returns: bool,
        value_weight: float,
    ):
        """Without a `value_model` there is no baseline; where it is 'shared', the policy's network gives the values."""
        owner = type(self).__name__
        check_fraction(owner, gamma=gamma)
        check_positive(owner, value_weight=value_weight)
        check_positive(owner, policy_learning_rate=policy_learning_rate, value_learning_rate=value_learning_rate)
        self._model_names = {"policy_model": policy_model}
        if value_model and value_model != SHARED:
            self._model_names["value_model"] = value_model
        self._policy_model = MODELS.get(policy_model)
        self._shared = value_model == SHARED
        self._has_values = bool(value_model)
        self._value_model = None if self._shared or not value_model else MODELS.get(value_model)
        self._advantage = ADVANTAGES.get(advantage)()
        self._grad_comp = GRADIENT_FUNCTIONS.get(grad_comp, takes="advantages")()
        self._gamma = gamma
        self._rates = {"policy": policy_learning_rate, "value": value_learning_rate}
        if self._value_model is None:
            del self._rates["value"]
        self._lr_schedule = LR_SCHEDULES.get(lr_schedule)()
        self._max_gradient_norm = max_gradient_norm
        self._adam_epsilon = adam_epsilon
        self._normalize_advantages = normalize_advantages
        self._normalize_observations = normalize_observations
        self._normalize_returns = normalize_returns
        self._value_weight = value_weight

    def check(self, observation_spec: Nest, action_spec: Nest) -> None:
        if self._normalize_observations and tree.is_nested(observation_spec):
            raise UserError(f"{type(self).__name__}.normalize_observations needs observations of one array.")
        super().check(observation_spec, action_spec)

    def model_names(self) -> dict[str, str]:
        return self._model_names

    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        if self._shared:
            return {"policy": self._policy_model(action_spec, values=True)}
        made = {"policy": self._policy_model(action_spec)}
        return made if self._value_model is None else {**made, "value": self._value_model(1)}

    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        return {
            group: tf.keras.optimizers.Adam(
                rate, epsilon=self._adam_epsilon, global_clipnorm=self._max_gradient_norm, jit_compile=False
            )
            for group, rate in self._rates.items()
        }

    def learning_rates(self, progress: tf.Tensor) -> dict[str, tf.Tensor]:
        return {group: rate * self._lr_schedule(progress) for group, rate in self._rates.items()}

    def moments(self, observation_spec: Nest) -> dict[str, Moments]:
        made = {}
        if self._normalize_observations:
            made["observation"] = Moments(observation_spec.shape)
        if self._normalize_returns:
            made["return"] = Moments(())
        return made

    def extras_spec(self, observation_spec: Nest, action_spec: Nest) -> dict[str, Nest]:
        return {"log_prob": specs.Array((), np.float32)}

    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        policy = params.online["policy"].distribution(self._seen(params, observation))
        action = policy.sample(seed=seed) if training else policy.mode()
        return action, {"log_prob": policy.log_prob(action)}, core

    def prepare(self, params: Params, batch: Batch) -> Batch:
        """Rollouts [B, T + 1, ...] -> transitions [B * T, ...]; LAST rows have weight 0, the others 1 on average."""
        steps = batch.steps
        if self._normalize_returns:
            steps = steps._replace(reward=steps.reward / params.moments["return"].deviation())
        value = tf.zeros_like(steps.reward)
        if self._has_values:
            rows = _merge(steps.observation)
            value = tf.reshape(self.value(params, rows), steps.reward.shape)
        advantage = self._advantage(steps, value, self._gamma)
        target = advantage + value[:, :-1]
        # Of rewards alone: with values in it, a growing deviation would make values grow, and these the deviation.
        raw = gae(batch.steps.reward, steps.discount, steps.last, tf.zeros_like(value), self._gamma, 1.0)
        live = tf.cast(~steps.last[:, :-1], tf.float32)
        weight = live / tf.maximum(replica_mean(live), 1e-8)
        if self._normalize_advantages:
            mean = replica_mean(weight * advantage)
            deviation = tf.sqrt(replica_mean(weight * tf.square(advantage - mean)))
            advantage = live * (advantage - mean) / (deviation + 1e-8)
        examples = Examples(*map(_merge, (advantage, target, value[:, :-1], raw)))
        transitions: Any = _merge(tree.map_structure(lambda leaf: leaf[:, :-1], batch.steps))
        transitions = transitions._replace(extras={**transitions.extras, "examples": examples})
        return Batch(transitions, _merge(weight), batch.seed)

    def measure(self, params: Params, batch: Batch) -> dict[str, tf.Tensor]:
        rows = {"observation": batch.steps.observation, "return": batch.steps.extras["examples"].raw_return}
        return {name: tf.cast(rows[name], tf.float32) for name in params.moments}

    def distributions(self, params: Params, observation: Nest) -> dict[str, tf.Tensor]:
        return {"value": self.value(params, observation)} if self._has_values else {}

    def value(self, params: Params, observation: Nest) -> tf.Tensor:
        """The value function, [B, ...] -> [B] f32, in the unit that returns are learnt in."""
        if self._shared:
            return params.online["policy"](self._seen(params, observation))[:, -1]
        return params.online["value"](self._seen(params, observation))[:, 0]

    def _policy_and_value(self, params: Params, steps: Step) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Log probabilities of the actions taken, entropies and values; [B] f32 each."""
        seen = self._seen(params, steps.observation)
        if self._shared:
            policy, value = params.online["policy"].distribution_and_value(seen)
        else:
            policy = params.online["policy"].distribution(seen)
            value = self.value(params, steps.observation) if self._has_values else tf.zeros_like(steps.reward)
        return policy.log_prob(steps.action), policy.entropy(), value

    def _losses(self, policy_loss: tf.Tensor, value_loss: tf.Tensor) -> dict[str, tf.Tensor]:
        """By parameter group, of losses [B]."""
        if self._shared:
            return {"policy": policy_loss + self._value_weight * value_loss}
        return {"policy": policy_loss, "value": value_loss} if self._has_values else {"policy": policy_loss}

    def _seen(self, params: Params, observation: Nest) -> Nest:
        """What the networks see of observations."""
        return params.moments["observation"].normalize(observation) if self._normalize_observations else observation


def _merge(nest: Nest) -> Nest:
    """Leaves [B, T, ...] -> [B * T, ...]."""
    return tree.map_structure(lambda leaf: tf.reshape(leaf, [-1, *leaf.shape[2:]]), nest)


def replica_mean(rows: tf.Tensor) -> tf.Tensor:
    """[] f32: the mean over all elements, on all replicas."""
    context = tf.distribute.get_replica_context()
    mean = tf.reduce_mean(rows)
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, mean) if context.num_replicas_in_sync > 1 else mean
