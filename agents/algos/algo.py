"""The base of every algorithm: what it asks of the data path, how it acts, and how a batch becomes gradients.

An algorithm holds hyper-parameters only. It reads parameters and assigns nothing; it never meets Reverb, flags or
summaries. So the same object serves the four-line loop, the compiled loop, many replicas and XLA.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import tensorflow as tf
import tree

from agents.algos.grad_comp.basic import gradients
from pipeline.types import Batch, Data, Nest, Params, Update


class TargetUpdate(NamedTuple):
    """How a target network follows: target += rate * (online - target), every `period` updates."""

    period: int
    rate: float = 1.0


class Loss(NamedTuple):
    """What a loss says of a batch of B windows."""

    losses: dict[str, tf.Tensor]
    """[B] f32 by parameter group, weighted"""
    priorities: tf.Tensor
    """[B] f32"""
    metrics: dict[str, tf.Tensor]
    """[] f32 each, keys as in `Algo.metrics`"""


class Algo(abc.ABC):
    """The base class. A subclass states `action_kind` and `metrics`, and fills in the abstract methods."""

    action_kind: str
    """the action spaces it serves, a literal: see pipeline/envs/environment.py"""
    metrics: tuple[str, ...] = ("loss",)
    """names of what `loss` reports; 'loss' is always among them"""

    @abc.abstractmethod
    def data(self) -> Data:
        """What it asks of table, writer and dataset."""

    @abc.abstractmethod
    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        """New networks by parameter group, for `dm_env` specs of one state and one action."""

    @abc.abstractmethod
    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        """New optimizers, one for each parameter group."""

    def targets(self) -> dict[str, TargetUpdate]:
        """The groups that have a target network."""
        return {}

    def extras_spec(self) -> dict[str, Nest]:
        """Specs of what `select_action` leaves in the rows."""
        return {}

    def initial_core(self, lanes: int) -> Nest:
        """The recurrent state of E lanes, zeros at every episode's start; () where there is none."""
        del lanes
        return ()

    @abc.abstractmethod
    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        """Acts in E lanes: observation [E, ...] -> action [E, ...], extras [E, ...], core.

        `seed`: [2] i32, fresh for every call. Without `training` it acts greedily.
        """

    @abc.abstractmethod
    def loss(self, params: Params, batch: Batch) -> Loss:
        """The weighted loss of each window. Pure: everything it depends on is an argument or a hyper-parameter."""

    def acting_metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """[] f32 each: the state of exploration at `env_steps`."""
        del env_steps
        return {}

    def compute_gradients(self, params: Params, batch: Batch) -> Update:
        """Gradients of `loss` for every parameter group, divided by the global batch."""
        with tf.GradientTape(persistent=True) as tape:
            losses, priorities, metrics = self.loss(params, batch)
        return Update(gradients(tape, losses, params, self.data().batch_size), priorities, metrics)


def networks(algo: Algo, observation_spec: Nest, action_spec: Nest) -> Params:
    """New online and target networks with their variables made, targets equal to their online networks."""

    def built() -> dict[str, tf.keras.Model]:
        made = algo.models(observation_spec, action_spec)
        for model in made.values():
            model(tree.map_structure(lambda spec: tf.zeros([1, *spec.shape], spec.dtype), observation_spec))
        return made

    online = built()
    target = {group: model for group, model in built().items() if group in algo.targets()} if algo.targets() else {}
    for group, model in target.items():
        model.set_weights(online[group].get_weights())
    return Params(online, target, tf.constant(0))
