"""tf-agents' agents as algorithms of this pipeline: `TFAgentAlgo` is the adapter, docs/tf_agents.md says what it costs.

Their agents own networks, targets, optimizers and counters, and `TFAgent.train` moves them all. Here such an agent is
one parameter group; the learner's compiled loop calls `train` with trajectories made of our rows.
"""

from __future__ import annotations

import abc
from typing import Any

import dm_env.specs as specs
import numpy as np
import tensorflow as tf
import tree
from tf_agents.agents import TFAgent
from tf_agents.policies.greedy_policy import GreedyPolicy
from tf_agents.specs import BoundedTensorSpec
from tf_agents.trajectories import StepType, TimeStep, Trajectory, Transition, time_step_spec

from agents.algos.algo import Algo, Loss
from agents.losses.policies import is_bounded, is_continuous, varies
from agents.losses.values import PRIORITY_FLOOR
from agents.models.states import MOST_FLATTENED, described, flattened
from pipeline.types import Batch, Data, Nest, Params, Step, Update, UserError

GROUP = "agent"
"""the one parameter group"""
INFO = "policy_info"
"""prefix of the row extras that hold the collect policy's info, one for each leaf"""


class AgentModel(tf.keras.Model):
    """A TFAgent, as a network of the learner: its variables are the agent's, its call is the greedy policy's."""

    def __init__(self, agent: TFAgent):
        super().__init__()
        self.agent = agent

    @property
    def greedy_policy(self) -> GreedyPolicy:
        """Of the agent's policy, which samples actions in SAC for example."""
        return GreedyPolicy(self.agent.policy)

    def call(self, observation: Nest) -> Nest:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[E, ...] -> actions [E, ...] at an episode's start."""
        lanes = _lanes(observation)
        begins = _time_step(observation, tf.ones([lanes], tf.bool))
        policy = self.greedy_policy
        return policy.action(begins, policy.get_initial_state(lanes)).action


class TFAgentAlgo(Algo):
    """The adapter. A subclass says what data it wants and builds its agent; `train` is the agent's own.

    `metrics` beside 'loss' are fields of the agent's `LossInfo.extra`. With a field `td_error` [B] the agent can give
    priorities, and so be used with prioritized memory. Acting and training draw TensorFlow's stateful noise, not ours.
    """

    def __init__(self, data: Data, random_steps: int = 0):
        """`random_steps`: environment steps in which actions are uniformly random."""
        self._data = data
        self._random_steps = random_steps

    @abc.abstractmethod
    def build(self, time_step_spec: TimeStep, action_spec: Nest) -> TFAgent:
        """A new agent, with its optimizers' variables made; called in the strategy's scope."""

    def check(self, observation_spec: Nest, action_spec: Nest) -> None:
        if not is_bounded(action_spec):
            raise UserError("tf-agents' networks act between bounds, and this action space has none: use ppo.")
        if tree.is_nested(observation_spec) or flattened(observation_spec) > MOST_FLATTENED:
            raise UserError(
                f"tf-agents' networks flatten one array, and states are {described(observation_spec)}: choose dqn, ppo"
                " or ddpg, with a network that takes them."
            )

    def data(self) -> Data:
        return self._data

    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        return {GROUP: AgentModel(self._built(observation_spec, action_spec))}

    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        """None: the agent applies its gradients itself."""
        return {}

    def extras_spec(self, observation_spec: Nest, action_spec: Nest) -> dict[str, Nest]:
        info = tf.nest.flatten(self._built(observation_spec, action_spec).collect_policy.info_spec)
        return {f"{INFO}_{n}": specs.Array(s.shape.as_list(), s.dtype.as_numpy_dtype) for n, s in enumerate(info)}

    def initial_core(self, params: Params, places: np.ndarray) -> Nest:
        state = agent_of(params).collect_policy.get_initial_state(len(places))
        return {"state": state, "begins": tf.ones([len(places)], tf.bool)} if tf.nest.flatten(state) else ()

    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        model: Any = params.online[GROUP]
        policy = model.agent.collect_policy if training else model.greedy_policy
        lanes = _lanes(observation)
        # Only recurrent networks read the step type, and only they have a core.
        begins = core["begins"] if core else tf.zeros([lanes], tf.bool)
        acted = policy.action(_time_step(observation, begins), core["state"] if core else ())
        core = {"state": acted.state, "begins": tf.zeros([lanes], tf.bool)} if core else ()
        if not training:
            return acted.action, {}, core
        action = acted.action
        if self._random_steps:
            random = _uniform(policy.action_spec, lanes, seed)
            action = tf.where(params.env_steps < self._random_steps, random, action)
        info = tf.nest.flatten(acted.info)
        return action, {f"{INFO}_{n}": leaf for n, leaf in enumerate(info)}, core

    def loss(self, params: Params, batch: Batch) -> Loss:
        raise NotImplementedError("tf-agents' agents apply their gradients themselves: the learner calls `train`.")

    def train(self, params: Params, batch: Batch) -> Update:
        agent = agent_of(params)
        trained: Any = agent.train(*self.experience(agent, batch))
        # Their losses are shares of the global batch's, and the learner reports the mean of replicas.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        metrics = {"loss": trained.loss * replicas}
        for name in self.metrics[1:]:
            value = getattr(trained.extra, name)
            metrics[name] = value * replicas if name.endswith("loss") else tf.reduce_mean(tf.abs(value))
        td_error = getattr(trained.extra, "td_error", None)
        return Update({}, None if td_error is None else tf.abs(td_error) + PRIORITY_FLOOR, metrics)

    def experience(self, agent: TFAgent, batch: Batch) -> tuple[Trajectory | Transition, tf.Tensor]:
        """What `TFAgent.train` is called with: a trajectory [B, T + 1, ...], and weights [B]."""
        # A window that begins with a LAST row holds no transition; not every agent masks it by itself.
        weight = batch.weight * tf.cast(~batch.steps.last[:, 0], tf.float32)
        return trajectory(batch.steps, agent.collect_policy.info_spec), weight

    def _built(self, observation_spec: Nest, action_spec: Nest) -> TFAgent:
        observation: Any = tree.map_structure(lambda s: tf.TensorSpec(s.shape, s.dtype), observation_spec)
        low, high = action_spec.minimum, action_spec.maximum
        if is_continuous(action_spec):
            # SAC divides by their distance: where they are the same it acts in [-1, 1], which the environment clips.
            both = varies(action_spec)
            low, high = np.where(both, low, -1.0), np.where(both, high, 1.0)
        bounded: Any = BoundedTensorSpec
        action = bounded(action_spec.shape, action_spec.dtype, low, high)
        agent = self.build(time_step_spec(observation), action)
        agent.initialize()
        return agent


def check_vector(action_spec: Nest, ranks: tuple[int, ...] = (1,)) -> None:
    """Raises UserError where real actions have another number of dimensions than `ranks`, which a network gives."""
    if is_continuous(action_spec) and len(action_spec.shape) not in ranks:
        raise UserError(
            f"This network of tf-agents gives a vector, and actions are {described(action_spec)}: choose ppo, ddpg or"
            " tf_agents_td3, or give the environment a vector."
        )


def agent_of(params: Params) -> TFAgent:
    """The agent among the learner's parameters."""
    model: Any = params.online[GROUP]
    return model.agent


def trajectory(steps: Step, info_spec: Nest) -> Trajectory:
    """Rows [B, T + 1, ...] as a trajectory [B, T + 1, ...], with the policy info that acting left in them.

    A row of ours and an entry of theirs say the same: what was seen and done, and the reward and discount that
    followed; a LAST row is a boundary entry, with reward 0 and discount 1. What follows the final row is not known,
    and no agent looks at it.
    """
    middle = tf.fill(tf.shape(steps.last), StepType.MID)
    step_type = tf.where(steps.last, StepType.LAST, tf.where(steps.first, StepType.FIRST, middle))
    after = tf.where(steps.last[:, -1:], StepType.FIRST, middle[:, -1:])
    info = [steps.extras[f"{INFO}_{n}"] for n in range(len(tf.nest.flatten(info_spec)))]
    return Trajectory(
        step_type=step_type,
        observation=steps.observation,
        action=steps.action,
        policy_info=tf.nest.pack_sequence_as(info_spec, info),
        next_step_type=tf.concat([step_type[:, 1:], after], axis=1),
        reward=steps.reward,
        discount=steps.discount,
    )


def adam(learning_rate: float, **clipping: float | None) -> tf.keras.optimizers.Optimizer:
    """A new Adam for an agent; `clipping`: Keras' `clipnorm`, of each variable, or `global_clipnorm`, of all together.

    The agents clip by themselves, but before the gradients of replicas are added up: each replica its own part.
    """
    return tf.keras.optimizers.Adam(learning_rate, jit_compile=False, **clipping)


def _lanes(observation: Nest) -> Any:
    """E of states [E, ...]; a tensor in an exported policy, which takes any number."""
    first = tree.flatten(observation)[0]
    return tf.shape(first)[0] if first.shape[0] is None else first.shape[0]


def _time_step(observation: Nest, begins: tf.Tensor) -> TimeStep:
    """What a policy sees of states [E, ...]; rewards and discounts are not known, and no policy looks at them."""
    zeros = tf.zeros_like(begins, tf.float32)
    return TimeStep(tf.where(begins, StepType.FIRST, StepType.MID), zeros, zeros + 1.0, observation)


def _uniform(spec: Nest, lanes: int, seed: tf.Tensor) -> tf.Tensor:
    """Random actions [E, ...] between the bounds of a continuous space."""
    return tf.random.stateless_uniform([lanes, *spec.shape], seed) * (spec.maximum - spec.minimum) + spec.minimum
