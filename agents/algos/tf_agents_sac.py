"""tf-agents' soft actor-critic (`tf_agents.agents.SacAgent`)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tf_agents.agents import SacAgent, TFAgent
from tf_agents.agents.ddpg.critic_network import CriticNetwork
from tf_agents.agents.sac.tanh_normal_projection_network import TanhNormalProjectionNetwork
from tf_agents.networks.actor_distribution_network import ActorDistributionNetwork
from tf_agents.trajectories import TimeStep
from tf_agents.utils import common

from agents.algos.registry import ALGOS
from agents.algos.tf_agents_algo import TFAgentAlgo, check_vector
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Data, Nest


@ALGOS.register("tf_agents_sac")
class TFAgentsSAC(TFAgentAlgo):
    """Their SAC with two critics, a squashed Gaussian policy, and a temperature that holds the policy's entropy."""

    action_kinds = ("continuous",)
    metrics = ("loss", "actor_loss", "critic_loss", "alpha_loss")

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (256, 256),
        replay_size: int = 1_000_000,
        min_replay_size: int = 10_000,
        random_steps: int = 10_000,
        batch_size: int = 256,
        gamma: float = 0.99,
        learning_rate: float = 3e-4,
        target_update_period: int = 1,
        target_update_rate: float = 0.005,
    ):
        """`replay_size` and `batch_size` are in windows, `min_replay_size` and `random_steps` in environment steps.

        `hidden_sizes` are those of actor and critics, `learning_rate` is that of actor, critics and temperature.
        """
        check_positive(
            "TFAgentsSAC",
            replay_size=replay_size,
            min_replay_size=min_replay_size,
            batch_size=batch_size,
            learning_rate=learning_rate,
            target_update_period=target_update_period,
        )
        check_fraction("TFAgentsSAC", gamma=gamma, target_update_rate=target_update_rate)
        super().__init__(Data("uniform", 2, batch_size, replay_size, min_replay_size), random_steps)
        self._hidden_sizes = hidden_sizes
        self._gamma = gamma
        self._learning_rate = learning_rate
        self._target_update_period = target_update_period
        self._target_update_rate = target_update_rate

    def check(self, observation_spec: Nest, action_spec: Nest) -> None:
        super().check(observation_spec, action_spec)
        check_vector(action_spec)

    def build(self, time_step_spec: TimeStep, action_spec: Nest) -> TFAgent:
        observation_spec = time_step_spec.observation
        actor = ActorDistributionNetwork(
            observation_spec,
            action_spec,
            fc_layer_params=self._hidden_sizes,
            continuous_projection_net=TanhNormalProjectionNetwork,
        )
        critics = [
            CriticNetwork((observation_spec, action_spec), joint_fc_layer_params=self._hidden_sizes) for _ in range(2)
        ]
        # SacAgent would make legacy optimizers of newer ones.
        optimizers = [tf.keras.optimizers.legacy.Adam(self._learning_rate) for _ in range(3)]
        agent = SacAgent(
            time_step_spec,
            action_spec,
            critic_network=critics[0],
            critic_network_2=critics[1],
            actor_network=actor,
            actor_optimizer=optimizers[0],
            critic_optimizer=optimizers[1],
            alpha_optimizer=optimizers[2],
            target_update_tau=self._target_update_rate,
            target_update_period=self._target_update_period,
            gamma=self._gamma,
            train_step_counter=common.create_variable("train_step"),
        )
        trained = (
            actor.trainable_variables,
            critics[0].trainable_variables + critics[1].trainable_variables,
            [agent._log_alpha],
        )
        optimizer: Any
        for optimizer, variables in zip(optimizers, trained, strict=True):
            # They would be made at the first update, too late for a checkpoint to be read back completely.
            optimizer._create_all_weights(variables)
        return agent
