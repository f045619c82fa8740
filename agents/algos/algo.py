"""The base of every algorithm: what it asks of the data path, how it acts, and how a batch becomes gradients.

An algorithm holds hyper-parameters only. It reads parameters and assigns nothing; it never meets Reverb, flags or
summaries. So the same object serves the four-line loop, the compiled loop, many replicas and XLA. Its methods are
compiled without AutoGraph: no Python `if` or `for` on a tensor's value.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tree

from agents.algos.grad_comp.basic import gradients
from agents.models.moments import Moments
from agents.models.states import check_flattened, check_states
from pipeline.types import Batch, Data, Nest, Params, Update


class TargetUpdate(NamedTuple):
    """How a target network follows: target += rate * (online - target), every `period` updates."""

    period: int
    rate: float = 1.0


class Loss(NamedTuple):
    """What a loss says of a batch of B examples."""

    losses: dict[str, tf.Tensor]
    """[B] f32 by parameter group, weighted"""
    priorities: Any
    """[B] f32, of the windows of a replay; None from rollouts"""
    metrics: dict[str, tf.Tensor]
    """[] f32 each, keys as in `Algo.metrics`"""


class Algo(abc.ABC):
    """The base class. A subclass states `action_kinds` and `metrics`, and fills in the abstract methods."""

    action_kinds: tuple[str, ...]
    """the action spaces it serves, a literal: see pipeline/envs/environment.py"""
    metrics: tuple[str, ...] = ("loss",)
    """names of what `loss` reports; 'loss' is always among them"""

    def check(self, observation_spec: Nest, action_spec: Nest) -> None:
        """Raises UserError where it cannot serve spaces whose kind it serves: here, where its networks cannot."""
        flattening = []
        for setting, model in self.model_names().items():
            flattening += check_states(model, f"{type(self).__name__}.{setting}", observation_spec)
        check_flattened(flattening, observation_spec)

    def model_names(self) -> dict[str, str]:
        """The names of the models that see states, by the parameter that chose each: {'model': 'basic'}."""
        return {}

    @abc.abstractmethod
    def data(self) -> Data:
        """What it asks of table, writer and dataset."""

    @abc.abstractmethod
    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        """New networks by parameter group, for `dm_env` specs of one state and one action."""

    def inputs(
        self, group: str, models: dict[str, tf.keras.Model], observation: Nest, action: Nest
    ) -> tuple[Nest, ...]:
        """What the network of `group` among `models` is called with, for `observation` and `action` [B, ...]."""
        del group, models, action
        return (observation,)

    @abc.abstractmethod
    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        """New optimizers, one for each parameter group."""

    def learning_rates(self, progress: tf.Tensor) -> dict[str, tf.Tensor]:
        """[] f32 by parameter group, at `progress` [] f32 in [0, 1]: the part of the training that is done.

        The optimizer of a group that is not named keeps its own.
        """
        del progress
        return {}

    def targets(self) -> dict[str, TargetUpdate]:
        """The groups that have a target network."""
        return {}

    def moments(self, observation_spec: Nest) -> dict[str, Moments]:
        """New running moments, of what it normalises."""
        del observation_spec
        return {}

    def extras_spec(self, observation_spec: Nest, action_spec: Nest) -> dict[str, Nest]:
        """Specs of what `select_action` leaves in the rows."""
        del observation_spec, action_spec
        return {}

    def initial_core(self, params: Params, places: np.ndarray) -> Nest:
        """What E lanes remember from call to call, [E, ...] at an episode's start; () where that is nothing.

        `places` [E] f32: where each lane stands among all lanes of all actors, evenly spread over [0, 1].
        """
        del params, places
        return ()

    @abc.abstractmethod
    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        """Acts in E lanes: observation [E, ...] -> action [E, ...], extras [E, ...], core.

        `seed`: [2] i32, fresh for every call. Without `training` it acts greedily.
        """

    def prepare(self, params: Params, batch: Batch) -> Batch:
        """Makes B' examples [B', ...] of a draw's B windows [B, T + 1, ...], with the parameters before its updates.

        Rollouts become transitions here, with their advantages; a replay's windows are examples as they are.
        """
        del params
        return batch

    def measure(self, params: Params, batch: Batch) -> dict[str, tf.Tensor]:
        """Rows [B', ...] of the prepared `batch` that the moments grow by, weighted 0 or 1 by `batch.weight > 0`."""
        del params, batch
        return {}

    @abc.abstractmethod
    def loss(self, params: Params, batch: Batch) -> Loss:
        """The weighted loss of each example. Pure: everything it depends on is an argument or a hyper-parameter."""

    def acting_metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """[] f32 each: the state of exploration at `env_steps`."""
        del env_steps
        return {}

    def distributions(self, params: Params, observation: Nest) -> dict[str, tf.Tensor]:
        """What TensorBoard shows histograms of, for states [E, ...]: f32 of any shape each.

        Of those that have a row for each state, the learner says where all rows are one and the same.
        """
        del params, observation
        return {}

    def compute_gradients(self, params: Params, batch: Batch) -> Update:
        """Gradients of `loss` for every parameter group, divided by the global batch."""
        with tf.GradientTape(persistent=True) as tape:
            losses, priorities, metrics = self.loss(params, batch)
        global_batch = batch.weight.shape[0] * tf.distribute.get_strategy().num_replicas_in_sync
        return Update(gradients(tape, losses, params, global_batch), priorities, metrics)

    def train(self, params: Params, batch: Batch) -> Update:
        """What the learner calls for one update: the gradients, which it then applies.

        Only an algorithm that brings optimizers of its own, and names none in `optimizers`, assigns parameters here.
        """
        return self.compute_gradients(params, batch)


def acting_variables(params: Params) -> list[tf.Variable]:
    """What an actor needs of the parameters, always in the same order."""
    models = [params.online[group] for group in sorted(params.online)]
    moments = [params.moments[name] for name in sorted(params.moments)]
    return [variable for part in (*models, *moments) for variable in part.variables]


def networks(algo: Algo, observation_spec: Nest, action_spec: Nest) -> Params:
    """New online and target networks with their variables made, targets equal to their online networks."""

    def built() -> dict[str, tf.keras.Model]:
        made = algo.models(observation_spec, action_spec)
        zeros = lambda spec: tf.zeros([1, *spec.shape], spec.dtype)  # noqa: E731
        observation, action = (tree.map_structure(zeros, spec) for spec in (observation_spec, action_spec))
        for group, model in made.items():
            model(*algo.inputs(group, made, observation, action))
        return made

    online = built()
    target = {group: model for group, model in built().items() if group in algo.targets()} if algo.targets() else {}
    for group, model in target.items():
        model.set_weights(online[group].get_weights())
    return Params(online, target, tf.constant(0), algo.moments(observation_spec))
