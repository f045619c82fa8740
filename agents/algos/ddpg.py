"""Deep deterministic policy gradient (Lillicrap et al. 2016)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.algos.algo import Algo, Loss, TargetUpdate
from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from agents.algos.registry import ALGOS
from agents.losses.policies import is_bounded, is_continuous
from agents.losses.returns import at_row, first, n_step
from agents.losses.values import PRIORITY_FLOOR
from agents.lr_schedules.registry import LR_SCHEDULES
from agents.models.registry import MODELS
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Batch, Data, Nest, Params, UserError


@ALGOS.register("ddpg")
class DDPG(Algo):
    """The critic minimises loss(r + gamma^n Q'(s_n, pi'(s_n)) - Q(s, a)); the actor maximises Q(s, pi(s)).

    In a Discrete space the actor gives logits, the critic sees one-hot actions, and Q(s, pi(s)) is the mean of Q over
    their softmax. Differences from the paper: no batch normalisation, no weight decay, n-step returns and prioritized
    memory by hyper-parameter; importance weights count for both losses.
    """

    action_kinds = ("continuous", "discrete")
    metrics = ("loss", "actor_loss", "critic_loss", "q", "td_error")

    def __init__(
        self,
        actor_model: str = "actor",
        critic_model: str = "critic",
        act_select: str = "ou_noise",
        critic_grad_comp: str = "mean_squared_error",
        actor_grad_comp: str = "ddpg",
        memory: str = "uniform",
        replay_size: int = 1_000_000,
        min_replay_size: int = 1_000,
        random_steps: int = 1_000,
        batch_size: int = 64,
        gamma: float = 0.99,
        n_step: int = 1,
        actor_learning_rate: float = 1e-4,
        critic_learning_rate: float = 1e-3,
        lr_schedule: str = "constant",
        max_gradient_norm: float | None = None,
        target_update_period: int = 1,
        target_update_rate: float = 0.001,
        logit_weight: float = 1e-3,
    ):
        """`replay_size` and `batch_size` are in windows, `min_replay_size` and `random_steps` in environment steps.

        Actions are uniformly random for the first `random_steps`. `logit_weight`: of the squared logits in the actor's
        loss, in Discrete spaces.
        """
        check_positive(
            "DDPG",
            replay_size=replay_size,
            min_replay_size=min_replay_size,
            batch_size=batch_size,
            n_step=n_step,
            actor_learning_rate=actor_learning_rate,
            critic_learning_rate=critic_learning_rate,
            target_update_period=target_update_period,
            target_update_rate=target_update_rate,
        )
        check_fraction("DDPG", gamma=gamma, target_update_rate=target_update_rate)
        self._model_names = {"actor_model": actor_model, "critic_model": critic_model}
        self._actor_model = MODELS.get(actor_model)
        self._critic_model = MODELS.get(critic_model)
        self._act_select_name = act_select
        self._act_select = ACTION_SELECTORS.get(act_select)()
        self._critic_grad_comp = GRADIENT_FUNCTIONS.get(critic_grad_comp, takes="errors")()
        self._actor_grad_comp = GRADIENT_FUNCTIONS.get(actor_grad_comp, takes="action values")()
        self._data = Data(memory, n_step + 1, batch_size, replay_size, min_replay_size)
        self._random_steps = random_steps
        self._gamma = gamma
        self._rates = {"actor": actor_learning_rate, "critic": critic_learning_rate}
        self._lr_schedule = LR_SCHEDULES.get(lr_schedule)()
        self._max_gradient_norm = max_gradient_norm
        self._target_update = TargetUpdate(target_update_period, target_update_rate)
        self._logit_weight = logit_weight

    def check(self, observation_spec: Nest, action_spec: Nest) -> None:
        continuous = is_continuous(action_spec)
        ACTION_SELECTORS.get(self._act_select_name, takes="actions" if continuous else "values")
        if continuous and not is_bounded(action_spec):
            raise UserError(
                "DDPG squashes its actions into the bounds of their space, and this space has none: choose another"
                " algorithm, for example ppo."
            )
        super().check(observation_spec, action_spec)

    def data(self) -> Data:
        return self._data

    def model_names(self) -> dict[str, str]:
        return self._model_names

    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        return {"actor": self._actor_model(action_spec), "critic": self._critic_model()}

    def inputs(
        self, group: str, models: dict[str, tf.keras.Model], observation: Nest, action: Nest
    ) -> tuple[Nest, ...]:
        return (observation,) if group == "actor" else (observation, models["actor"].from_environment(action))

    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        return {
            group: tf.keras.optimizers.Adam(rate, global_clipnorm=self._max_gradient_norm, jit_compile=False)
            for group, rate in self._rates.items()
        }

    def learning_rates(self, progress: tf.Tensor) -> dict[str, tf.Tensor]:
        return {group: rate * self._lr_schedule(progress) for group, rate in self._rates.items()}

    def targets(self) -> dict[str, TargetUpdate]:
        return {"actor": self._target_update, "critic": self._target_update}

    def initial_core(self, params: Params, places: np.ndarray) -> Nest:
        return self._act_select.initial_core(places, params.online["actor"].size)

    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        actor = params.online["actor"]
        outputs = actor(observation)
        if not training:
            return actor.to_environment(outputs if actor.continuous else tf.argmax(outputs, -1, tf.int32)), {}, core
        noise_seed, random_seed = tf.unstack(tf.random.split(seed))
        action, core = self._act_select(outputs, core, noise_seed, params.env_steps)
        action = tf.where(params.env_steps < self._random_steps, _random_like(action, actor.size, random_seed), action)
        return actor.to_environment(action), {}, core

    def acting_metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._act_select.metrics(env_steps)

    def distributions(self, params: Params, observation: Nest) -> dict[str, tf.Tensor]:
        return {"q": _value(params.online["actor"], params.online["critic"], observation)}

    def loss(self, params: Params, batch: Batch) -> Loss:
        steps = batch.steps  # [B, n + 1, ...]
        actor, critic = params.online["actor"], params.online["critic"]
        fold = n_step(steps.reward, steps.discount, steps.last, self._gamma)
        bootstrap = _value(params.target["actor"], params.target["critic"], at_row(steps.observation, fold.row))
        target = tf.stop_gradient(fold.reward + fold.factor * bootstrap)
        observation, action = first(steps.observation), first(steps.action)
        q = critic(observation, actor.from_environment(action))
        error = target - q
        # A window that begins with a LAST row holds no transition.
        weight = batch.weight * tf.cast(~steps.last[:, 0], tf.float32)
        critic_loss = weight * self._critic_grad_comp(error)
        actor_loss = weight * self._actor_grad_comp(_value(actor, critic, observation))
        if not actor.continuous:
            actor_loss += weight * self._logit_weight * tf.reduce_sum(tf.square(actor(observation)), axis=-1)
        metrics = {
            "loss": critic_loss + actor_loss,
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "q": q,
            "td_error": tf.abs(error),
        }
        return Loss(
            losses={"actor": actor_loss, "critic": critic_loss},
            priorities=tf.abs(error) + PRIORITY_FLOOR,
            metrics={name: tf.reduce_mean(values) for name, values in metrics.items()},
        )


def _value(actor: Any, critic: Any, observation: Nest) -> tf.Tensor:
    """Q(s, pi(s)) [B]; in a Discrete space the mean of Q over the softmax of the actor's logits."""
    outputs = actor(observation)
    if actor.continuous:
        return critic(observation, outputs)
    one_hot = [tf.zeros_like(outputs) + row for row in tf.unstack(tf.eye(actor.size))]
    encoded = critic.encode(observation)
    values = tf.stack([critic.value(encoded, action) for action in one_hot], axis=-1)
    return tf.reduce_sum(tf.nn.softmax(outputs) * values, axis=-1)


def _random_like(action: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Uniformly random actions of the same kind and shape."""
    if action.dtype == tf.int32:
        return tf.random.stateless_uniform(tf.shape(action), seed, 0, size, tf.int32)
    return tf.random.stateless_uniform(tf.shape(action), seed, -1.0, 1.0)
