"""tf-agents' DQN (`tf_agents.agents.DqnAgent`, `DdqnAgent`)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tf_agents.agents import DqnAgent, TFAgent
from tf_agents.agents.dqn.dqn_agent import DdqnAgent
from tf_agents.networks.q_network import QNetwork
from tf_agents.trajectories import PolicyStep, TimeStep, Transition
from tf_agents.utils import common

from agents.algos.registry import ALGOS
from agents.algos.tf_agents_algo import TFAgentAlgo, adam, trajectory
from agents.losses.returns import at_row, first, n_step
from pipeline.checks import check_fraction, check_positive
from pipeline.types import Batch, Data, Nest


@ALGOS.register("tf_agents_dqn")
class TFAgentsDQN(TFAgentAlgo):
    """Their DQN with its Q-network, Huber loss and epsilon-greedy policy; td errors are the priorities.

    It gets transitions in place of trajectories, folded by our `n_step`: where an episode was truncated within the
    window, theirs would add the next episode's rewards. With one step both are the same.
    """

    action_kinds = ("discrete",)
    metrics = ("loss", "td_error")

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (64, 64),
        memory: str = "uniform",
        replay_size: int = 100_000,
        min_replay_size: int = 1_000,
        batch_size: int = 64,
        gamma: float = 0.99,
        n_step: int = 1,
        double: bool = False,
        squared_loss: bool = False,
        epsilon: float = 0.1,
        learning_rate: float = 1e-3,
        max_gradient_norm: float | None = None,
        target_update_period: int = 100,
        target_update_rate: float = 1.0,
    ):
        """`replay_size` and `batch_size` are in windows, `min_replay_size` in environment steps, the period in updates.

        `epsilon` is constant. `squared_loss`: in place of Huber's. `max_gradient_norm`: of each variable's gradient.
        """
        check_positive(
            "TFAgentsDQN",
            replay_size=replay_size,
            min_replay_size=min_replay_size,
            batch_size=batch_size,
            gamma=gamma,
            n_step=n_step,
            learning_rate=learning_rate,
            target_update_period=target_update_period,
        )
        check_fraction("TFAgentsDQN", gamma=gamma, epsilon=epsilon, target_update_rate=target_update_rate)
        super().__init__(Data(memory, n_step + 1, batch_size, replay_size, min_replay_size))
        self._hidden_sizes = hidden_sizes
        self._gamma = gamma
        self._double = double
        self._squared_loss = squared_loss
        self._epsilon = epsilon
        self._learning_rate = learning_rate
        self._max_gradient_norm = max_gradient_norm
        self._target_update_period = target_update_period
        self._target_update_rate = target_update_rate

    def build(self, time_step_spec: TimeStep, action_spec: Nest) -> TFAgent:
        network = QNetwork(time_step_spec.observation, action_spec, fc_layer_params=self._hidden_sizes)
        optimizer = adam(self._learning_rate, clipnorm=self._max_gradient_norm)
        agent = (DdqnAgent if self._double else DqnAgent)(
            time_step_spec,
            action_spec,
            q_network=network,
            optimizer=optimizer,
            epsilon_greedy=self._epsilon,
            target_update_tau=self._target_update_rate,
            target_update_period=self._target_update_period,
            td_errors_loss_fn=common.element_wise_squared_loss if self._squared_loss else None,
            gamma=self._gamma,
            train_step_counter=common.create_variable("train_step"),
        )
        optimizer.build(network.trainable_variables)
        return agent

    def experience(self, agent: TFAgent, batch: Batch) -> tuple[Transition, tf.Tensor]:
        """A transition [B, ...] over up to n steps, and weights [B]."""
        steps = batch.steps
        fold = n_step(steps.reward, steps.discount, steps.last, self._gamma)
        entries: Any = trajectory(steps, ())
        # The agent multiplies with gamma once more.
        after = TimeStep(
            at_row(entries.step_type, fold.row),
            fold.reward,
            fold.factor / self._gamma,
            at_row(steps.observation, fold.row),
        )
        zeros = tf.zeros_like(fold.reward)
        before = TimeStep(entries.step_type[:, 0], zeros, zeros, first(steps.observation))
        return Transition(before, PolicyStep(first(steps.action), (), ()), after), batch.weight
