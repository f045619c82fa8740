"""A program for the tests: `one_of_several.py NAME ADDRESS FILE`, one of the learners that TF_CONFIG names.

It learns from the replay server at ADDRESS with the hyper-parameters NAME, and leaves in FILE all that it drew, wrote
and learnt.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from agents.learner import Learner
from binaries import settings
from binaries.experiment import Plan
from pipeline.dataset import Draw
from tests.agents.replicas import CALLS, both_orders, same_seeds, state_of
from tests.configs.test_conformance import small

Leaves = list[np.ndarray]


def noting(dataset: tf.data.Dataset, draws: list[Leaves]) -> tf.data.Dataset:
    """`dataset`, with every element's leaves added to `draws`."""

    def note(*leaves: np.ndarray) -> np.int32:
        draws.append([leaf.copy() for leaf in leaves])
        return np.int32(0)

    def noted(draw: Draw) -> Draw:
        with tf.control_dependencies([tf.numpy_function(note, tf.nest.flatten(draw), tf.int32)]):
            return tf.nest.map_structure(tf.identity, draw)

    return dataset.map(noted)


def main(name: str, address: str, file: str) -> None:
    settings.apply(settings.read(name, small(name), {}))
    plan = Plan("local")
    learner = plan.learner()
    # Each worker has a number of its own in mind, and all of them go by one.
    learner.run_id = learner.agree(0 if learner.is_chief else 7)
    agreed = learner.agree(11 if learner.is_chief else 5), learner.agree(-3 if learner.is_chief else 2)
    draws: list[Leaves] = []
    written: list[tuple[np.ndarray, np.ndarray]] = []
    connect = learner.connect

    def connect_noting(make_dataset: Any, addresses: list[str], table: str) -> None:
        connect(lambda batches, replicas: noting(make_dataset(batches, replicas), draws), addresses, table)

    with mock.patch.object(learner, "connect", connect_noting):
        plan.connect(learner, [address])
    write = learner._write_priorities
    if write is not None:

        def write_noting(keys: tf.Tensor, priorities: tf.Tensor, shards: tf.Tensor) -> None:
            tf.numpy_function(lambda *columns: written.append(columns), [keys, priorities], [])
            write(keys, priorities, shards)

        learner._write_priorities = write_noting
    with mock.patch.object(Learner, "_seeds", same_seeds), mock.patch.object(Learner, "_order", both_orders):
        metrics = [learner.run(100 * call) for call in range(CALLS)]
    left = {
        "chief": learner.is_chief,
        "agreed": agreed,
        "traces": learner.trace_count(),
        "batches": learner.batches,
        "draws": draws[:CALLS],
        "written": written,
        "metrics": metrics,
        "state": state_of(learner),
        "max_priority": learner.max_priority,
    }
    Path(file).write_bytes(pickle.dumps(left))


if __name__ == "__main__":
    main(*sys.argv[1:])
