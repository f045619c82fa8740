"""A program for the tests: `replicas.py NAME...` says, one line of JSON each, how two replicas differ from one.

It is a process of its own, because two strategies with collectives do not live in one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import gin
import numpy as np
import tensorflow as tf
from tensorflow_probability.python.internal import samplers

from agents.learner import Learner
from binaries.experiment import Parts, Plan
from pipeline.dataset import Draw
from pipeline.types import UserError
from tests.configs.test_conformance import parts_of

CALLS = 3
DRAWS = 2
NOISE = 0.3
"""standard deviations; in place of TensorFlow's own noise, which is each replica's own"""


def act(plan: Plan, parts: Parts, rollouts: int = 0) -> None:
    """The untrained agent acts until a queue was given `rollouts`, or a replay holds what learning begins with."""
    actor, state = parts.agent.actor, parts.environment.reset(0)
    while actor.items < rollouts if plan.memory.on_policy else actor.env_steps <= 2 * plan.data.min_size:
        last_state = state
        action = parts.agent.act(state)
        state, reward, done = parts.environment.step(action)
        parts.agent.observe(last_state, action, reward, done, state)


def fed(learner: Learner, draws: list[Draw], replicas: int) -> None:
    """Lets each of the replicas read its share of the windows of every draw, again and again."""

    def share(draw: Draw, replica: int) -> Draw:
        cut = lambda leaf: tf.split(leaf, replicas, axis=1)[replica]  # noqa: E731
        correction = cut(draw.correction)
        keys = tf.zeros([tf.size(correction)], tf.uint64)
        return Draw(tf.nest.map_structure(cut, draw.steps), correction, keys, tf.cast(keys, tf.int32))

    # MirroredStrategy makes one dataset a host, which its replicas read in turn.
    shares = [share(draw, replica) for draw in draws for replica in range(replicas)]
    stacked: Any = tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *shares)
    learner.connect(lambda batches, count: tf.data.Dataset.from_tensor_slices(stacked).repeat())


def state_of(learner: Learner) -> dict[str, np.ndarray]:
    """All numbers that a checkpoint holds, by name: parameters, targets, moments, slots of optimizers, counters."""
    with tempfile.TemporaryDirectory() as folder:
        learner.checkpoint().write(f"{folder}/state")
        reader = tf.train.load_checkpoint(f"{folder}/state")
        names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINTABLE")]
        return {name: np.asarray(reader.get_tensor(name), np.float64) for name in names}


def same_seeds(learner: Learner) -> tf.Tensor:
    """Of every update; on all replicas the same."""
    return tf.stack([learner._seed, tf.cast(learner._updates, tf.int32)])


def both_orders(learner: Learner, examples: int, epochs: int, size: int, order: Any = Learner._order) -> tf.Tensor:
    """A minibatch of one replica is that of the first of two, and what the second, with the same seed, makes of its."""
    if learner._replicas == 2:
        return order(learner, examples, epochs, size)
    half = order(learner, examples // 2, epochs, size // 2)
    return tf.concat([half, half + examples // 2], axis=1)


def run(learner: Learner) -> tuple[list[dict[str, np.ndarray]], list[dict[str, float]]]:
    """The states before and after each call, and what the calls returned."""
    states, metrics = [state_of(learner)], []
    for call in range(CALLS):
        metrics.append(learner.run(100 * call))
        states.append(state_of(learner))
    return states, metrics


def compared(name: str, mirrored: tf.distribute.Strategy) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, parts_of(name, "inline_without_xla", Path(scratch)) as (plan, parts):
        single = parts.agent.learner
        act(plan, parts, rollouts=DRAWS)
        draws = [single.next_draw() for _ in range(DRAWS)]
        fed(single, draws, 1)
        one, expected = run(single)
        plan.strategy = mirrored
        try:
            double = plan.learner()
        except UserError as error:
            return {"name": name, "refused": str(error)}
        fed(double, draws, 2)
        two, found = run(double)
    return {
        "name": name,
        "traces": [single.trace_count(), double.trace_count()],
        "changed": [key for key in one[0] if not np.array_equal(one[0][key], one[-1][key])],
        "apart": [{key: _distance(key, a[key], b[key]) for key in a} for a, b in zip(one, two, strict=True)],
        "metrics": [expected, found],
    }


def _distance(name: str, one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, in units of the largest number; of moments, differences of larger ones, as it is."""
    unit = 1.0 if name.startswith("moments/") else np.max(np.abs(one), initial=0.0)
    return float(np.max(np.abs(one - other), initial=0.0) / max(unit, 1e-30))


def main(names: list[str]) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    noise = lambda shape, mean=0.0, stddev=1.0, dtype=tf.float32, **_: tf.fill(shape, NOISE) * stddev + mean  # noqa: E731
    with (
        mock.patch.object(Learner, "_seeds", same_seeds),
        mock.patch.object(Learner, "_order", both_orders),
        mock.patch.object(samplers, "normal", noise),
    ):
        for name in names:
            print(json.dumps(compared(name, mirrored)), flush=True)
            gin.clear_config()


if __name__ == "__main__":
    main(sys.argv[1:])
