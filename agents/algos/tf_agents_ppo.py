"""tf-agents' PPO with the clipped surrogate (`tf_agents.agents.PPOClipAgent`)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tree
from tf_agents.agents import PPOClipAgent, TFAgent
from tf_agents.agents.tf_agent import LossInfo
from tf_agents.networks.actor_distribution_network import ActorDistributionNetwork
from tf_agents.networks.value_network import ValueNetwork
from tf_agents.trajectories import TimeStep, Trajectory
from tf_agents.utils import common

from agents.algos.on_policy import QUEUE, replica_mean
from agents.algos.registry import ALGOS
from agents.algos.tf_agents_algo import TFAgentAlgo, adam, agent_of, check_vector, trajectory
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Batch, Data, Nest, Params

EXPERIENCE = "experience"
"""the extra of a prepared transition that holds its trajectory entry"""
VARIANCE_FLOOR = 1e-8
"""added to advantages' variance, as theirs is"""


class ReplicaPPOClipAgent(PPOClipAgent):
    """Theirs; on several replicas advantages are centred and scaled over the whole minibatch, not each one's part."""

    def _train(self, experience: Any, weights: Any) -> LossInfo:
        info: Any = experience.policy_info
        self._advantages = info["advantage"]
        return super()._train(experience, weights)

    def get_loss(
        self,
        time_steps: TimeStep,
        actions: Nest,
        act_log_probs: tf.Tensor,
        returns: tf.Tensor,
        normalized_advantages: tf.Tensor,
        *others: Any,
        **options: Any,
    ) -> LossInfo:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            centred = self._advantages - replica_mean(self._advantages)
            normalized_advantages = centred / tf.sqrt(replica_mean(tf.square(centred)) + VARIANCE_FLOOR)
        return super().get_loss(time_steps, actions, act_log_probs, returns, normalized_advantages, *others, **options)


@ALGOS.register("tf_agents_ppo")
class TFAgentsPPO(TFAgentAlgo):
    """Their PPO in epochs of minibatches, as their `PPOLearner` feeds it: returns and advantages once a rollout.

    Two things are theirs, and differ from our PPO's: an episode that was truncated earns nothing after its end, as if
    it had terminated, and advantages are centred and scaled over each minibatch.
    """

    action_kinds = ("discrete", "continuous")
    metrics = ("loss", "policy_gradient_loss", "value_estimation_loss", "entropy_regularization_loss", "clip_fraction")

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (64, 64),
        rollout_length: int = 128,
        batch_size: int = 256,
        epochs: int = 4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip: float = 0.2,
        learning_rate: float = 2.5e-4,
        entropy_weight: float = 0.0,
        value_weight: float = 0.5,
        max_gradient_norm: float | None = 0.5,
    ):
        """`rollout_length`: steps of each lane; `batch_size`: transitions of a minibatch, over all replicas.

        `hidden_sizes` are those of policy and value function; `max_gradient_norm` is that of both together.
        """
        check_positive(
            "TFAgentsPPO",
            rollout_length=rollout_length,
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=learning_rate,
            clip=clip,
        )
        check_fraction("TFAgentsPPO", gamma=gamma, gae_lambda=gae_lambda)
        window = rollout_length + 1
        super().__init__(Data("queue", window, batch_size, QUEUE, 0, window, epochs))
        self._hidden_sizes = hidden_sizes
        self._gamma = gamma
        self._gae_lambda = gae_lambda
        self._clip = clip
        self._learning_rate = learning_rate
        self._entropy_weight = entropy_weight
        self._value_weight = value_weight
        self._max_gradient_norm = max_gradient_norm

    def check(self, observation_spec: Nest, action_spec: Nest) -> None:
        super().check(observation_spec, action_spec)
        check_vector(action_spec, ranks=(0, 1))

    def build(self, time_step_spec: TimeStep, action_spec: Nest) -> TFAgent:
        observation_spec = time_step_spec.observation
        tanh = tf.keras.activations.tanh
        actor = ActorDistributionNetwork(
            observation_spec, action_spec, fc_layer_params=self._hidden_sizes, activation_fn=tanh
        )
        value = ValueNetwork(observation_spec, fc_layer_params=self._hidden_sizes, activation_fn=tanh)
        optimizer = adam(self._learning_rate, global_clipnorm=self._max_gradient_norm)
        agent = ReplicaPPOClipAgent(
            time_step_spec,
            action_spec,
            optimizer=optimizer,
            actor_net=actor,
            value_net=value,
            importance_ratio_clipping=self._clip,
            lambda_value=self._gae_lambda,
            discount_factor=self._gamma,
            entropy_regularization=self._entropy_weight,
            value_pred_loss_coef=self._value_weight,
            num_epochs=1,
            use_gae=True,
            use_td_lambda_return=True,
            normalize_rewards=False,
            normalize_observations=False,
            compute_value_and_advantage_in_train=False,
            update_normalizers_in_train=False,
            train_step_counter=common.create_variable("train_step"),
        )
        optimizer.build(actor.trainable_variables + value.trainable_variables)
        return agent

    def prepare(self, params: Params, batch: Batch) -> Batch:
        """Rollouts [B, T + 1, ...] -> transitions [B * T, ...] with the agent's returns and advantages."""
        agent: Any = agent_of(params)
        policy, steps = agent.collect_policy, batch.steps
        whole: Any = trajectory(steps, policy.info_spec)
        # Nobody acted on the final row: its value has to be computed here, and with it the others.
        state = policy.get_initial_value_state(batch.weight.shape[0])
        value, _ = policy.apply_value_network(whole.observation, whole.step_type, value_state=state)
        whole = agent.preprocess_sequence(whole.replace(policy_info={**whole.policy_info, "value_prediction": value}))
        transitions: Any = tree.map_structure(_merge, steps)
        transitions = transitions._replace(
            extras={**transitions.extras, EXPERIENCE: tf.nest.map_structure(_merge, whole)}
        )
        return Batch(transitions, tf.cast(~transitions.last, tf.float32), batch.seed)

    def experience(self, agent: TFAgent, batch: Batch) -> tuple[Trajectory, tf.Tensor]:
        entries: Nest = batch.steps.extras[EXPERIENCE]
        return tf.nest.map_structure(lambda leaf: leaf[:, None], entries), batch.weight[:, None]


def _merge(leaf: tf.Tensor) -> tf.Tensor:
    """[B, T + 1, ...] -> [B * T, ...], without the final row."""
    return tf.reshape(leaf[:, :-1], [-1, *leaf.shape[2:]])
