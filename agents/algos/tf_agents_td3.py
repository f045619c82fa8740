"""tf-agents' twin delayed DDPG (`tf_agents.agents.Td3Agent`)."""

from __future__ import annotations

import tensorflow as tf
from tf_agents.agents import Td3Agent, TFAgent
from tf_agents.agents.ddpg.actor_network import ActorNetwork
from tf_agents.agents.ddpg.critic_network import CriticNetwork
from tf_agents.trajectories import TimeStep
from tf_agents.utils import common

from agents.algos.registry import ALGOS
from agents.algos.tf_agents_algo import TFAgentAlgo, adam
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Data, Nest, UserError


@ALGOS.register("tf_agents_td3")
class TFAgentsTD3(TFAgentAlgo):
    """Their TD3 with two critics, noise on the target's actions, and an actor that learns more slowly."""

    action_kinds = ("continuous",)
    metrics = ("loss", "actor_loss", "critic_loss")

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (256, 256),
        replay_size: int = 1_000_000,
        min_replay_size: int = 10_000,
        random_steps: int = 10_000,
        batch_size: int = 256,
        gamma: float = 0.99,
        learning_rate: float = 3e-4,
        exploration_noise: float = 0.1,
        target_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        actor_update_period: int = 2,
        target_update_period: int = 2,
        target_update_rate: float = 0.005,
    ):
        """`replay_size` and `batch_size` are in windows, `min_replay_size` and `random_steps` in environment steps.

        Noise is in the action's own unit, periods in updates. `hidden_sizes` and `learning_rate` are those of actor
        and critics.
        """
        check_positive(
            "TFAgentsTD3",
            replay_size=replay_size,
            min_replay_size=min_replay_size,
            batch_size=batch_size,
            learning_rate=learning_rate,
            exploration_noise=exploration_noise,
            target_noise=target_noise,
            target_noise_clip=target_noise_clip,
            actor_update_period=actor_update_period,
            target_update_period=target_update_period,
        )
        check_fraction("TFAgentsTD3", gamma=gamma, target_update_rate=target_update_rate)
        super().__init__(Data("uniform", 2, batch_size, replay_size, min_replay_size), random_steps)
        self._hidden_sizes = hidden_sizes
        self._gamma = gamma
        self._learning_rate = learning_rate
        self._exploration_noise = exploration_noise
        self._target_noise = target_noise
        self._target_noise_clip = target_noise_clip
        self._actor_update_period = actor_update_period
        self._target_update_period = target_update_period
        self._target_update_rate = target_update_rate

    def build(self, time_step_spec: TimeStep, action_spec: Nest) -> TFAgent:
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # Its actor's step synchronises replicas inside a tf.cond, which TensorFlow refuses.
            raise UserError("tf-agents' TD3 learns on one device only: choose another algorithm, for example ddpg.")
        observation_spec = time_step_spec.observation
        actor = ActorNetwork(observation_spec, action_spec, fc_layer_params=self._hidden_sizes)
        critics = [
            CriticNetwork((observation_spec, action_spec), joint_fc_layer_params=self._hidden_sizes) for _ in range(2)
        ]
        actor_optimizer, critic_optimizer = adam(self._learning_rate), adam(self._learning_rate)
        agent = Td3Agent(
            time_step_spec,
            action_spec,
            actor_network=actor,
            critic_network=critics[0],
            critic_network_2=critics[1],
            actor_optimizer=actor_optimizer,
            critic_optimizer=critic_optimizer,
            exploration_noise_std=self._exploration_noise,
            target_update_tau=self._target_update_rate,
            target_update_period=self._target_update_period,
            actor_update_period=self._actor_update_period,
            gamma=self._gamma,
            target_policy_noise=self._target_noise,
            target_policy_noise_clip=self._target_noise_clip,
            train_step_counter=common.create_variable("train_step"),
        )
        actor_optimizer.build(actor.trainable_variables)
        critic_optimizer.build(critics[0].trainable_variables + critics[1].trainable_variables)
        return agent
