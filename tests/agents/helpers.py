"""Batches made by hand, for the tests of algorithms and of the learner."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import tensorflow as tf
import tree

from agents.learner import STAMPS, Learner
from pipeline.dataset import Draw
from pipeline.types import Step
from servers.memory.memory import Memory

OBSERVATION = specs.Array((4,), np.float32)
ACTION = specs.DiscreteArray(2, np.int32)


def random_steps(leading: tuple[int, ...], seed: int = 0) -> Step:
    """Rows [*leading, ...] of random numbers, some LAST, some terminated."""
    rng = np.random.default_rng(seed)
    steps: Any = tree.map_structure(
        tf.constant,
        Step(
            observation=rng.normal(size=[*leading, 4]).astype(np.float32),
            action=rng.integers(0, 2, leading).astype(np.int32),
            reward=rng.normal(size=leading).astype(np.float32),
            discount=(rng.random(leading) > 0.2).astype(np.float32),
            first=np.zeros(leading, bool),
            last=rng.random(leading) < 0.2,
            extras=dict.fromkeys(STAMPS, np.zeros(leading, np.int32)),
        ),
    )
    return steps


def random_draw(batches: int, batch_size: int, rows: int, seed: int = 0) -> Draw:
    """A draw as the dataset gives it, with unequal importance corrections."""
    correction = np.random.default_rng(seed + 1).uniform(0.2, 2.0, [batches, batch_size]).astype(np.float32)
    keys = tf.range(batches * batch_size, dtype=tf.int64)
    steps = random_steps((batches, batch_size, rows), seed)
    return Draw(steps, tf.constant(correction), tf.cast(keys, tf.uint64), tf.zeros_like(keys, tf.int32))


def make_learner(algo: Any, memory: Memory, strategy: tf.distribute.Strategy, **settings: Any) -> Learner:
    """A learner of CartPole's shapes with reproducible parameters."""
    tf.keras.utils.set_random_seed(0)
    return Learner(algo, memory, strategy, OBSERVATION, ACTION, train_steps=1000, seed=0, **settings)


def feed(learner: Learner, draw: Draw) -> None:
    """Lets the learner read `draw` again and again."""
    learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensors(draw).repeat())


def update_loop(learner: Learner) -> Any:
    """The one concrete function that a learner's updates were compiled to; it has to have run."""
    (function,) = learner._update_all._list_all_concrete_functions()
    return function
