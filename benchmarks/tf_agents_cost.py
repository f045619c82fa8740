"""What tf-agents' DQN costs here: updates a second beside our DQN, and beside tf-agents' own loop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from binaries import flags as program_flags

BATCH, K, LANES = 64, 64, 16
SECONDS = 2.0

flags.DEFINE_integer("turns", 9, "measurements of each, taken in turn; the median of their ratios counts")


def works() -> dict[str, Callable[[], int]]:
    """Calls by name, each of which performs as many updates, or actions of all lanes, as it returns.

    The same in all: one-step DQN, [64, 64], Huber loss, batches of 64 from one cached draw.
    """
    import dm_env.specs as specs
    import numpy as np
    import tensorflow as tf
    from tf_agents.utils import common

    from agents.actor import Policy
    from agents.algos.dqn import DQN
    from agents.algos.tf_agents_algo import agent_of, trajectory
    from agents.algos.tf_agents_dqn import TFAgentsDQN
    from agents.learner import AGE, Learner, make_strategy
    from pipeline.dataset import Draw
    from pipeline.types import Step
    from servers.memory.uniform import Uniform

    tf.config.threading.set_intra_op_parallelism_threads(1)
    observation, action = specs.Array((4,), np.float32), specs.DiscreteArray(2, np.int32)
    rng = np.random.default_rng(0)
    shape = (K, BATCH, 2)
    steps: Any = tf.nest.map_structure(
        tf.constant,
        Step(
            observation=rng.normal(size=[*shape, 4]).astype(np.float32),
            action=rng.integers(0, 2, shape).astype(np.int32),
            reward=np.ones(shape, np.float32),
            discount=np.ones(shape, np.float32),
            first=np.zeros(shape, bool),
            last=np.zeros(shape, bool),
            extras={AGE: np.zeros(shape, np.int32)},
        ),
    )
    draw = Draw(steps, tf.ones(shape[:2]), tf.zeros([K * BATCH], tf.uint64), tf.zeros([K * BATCH], tf.int32))
    settings: Any = {"gamma": 0.99, "batch_size": BATCH, "target_update_period": 100}

    def learner(algo: Any, xla: bool) -> Learner:
        made = Learner(
            algo, Uniform(), make_strategy("local"), observation, action, 1000, 0, updates_per_call=K, xla=xla
        )
        made.connect(lambda batches, replicas: tf.data.Dataset.from_tensors(draw).repeat())
        return made

    def acting(policy: Policy) -> Callable[[], int]:
        states, first = np.zeros([LANES, 4], np.float32), np.zeros(LANES, bool)
        return lambda: sum(bool(policy(states, first, 0)) for _ in range(100))

    made: dict[str, Callable[[], int]] = {}
    for name, algo in {"ours": DQN(**settings), "theirs here": TFAgentsDQN(**settings)}.items():
        for xla in (True, False):
            each = learner(algo, xla)
            made[f"update: {name}{'' if xla else ', without XLA'}"] = lambda each=each: (each.run(0), K)[1]
        made[f"action: {name}"] = acting(Policy(algo, each.params, observation, LANES, 0, training=True))

    # As in their tutorial: one update a Python call, of a tf.function, on a batch that tf.data gives.
    agent = agent_of(learner(TFAgentsDQN(**settings), True).params)
    pairs: Any = trajectory(tf.nest.map_structure(lambda leaf: leaf[0], steps), ())
    batches = iter(tf.data.Dataset.from_tensors(pairs).repeat())
    train = common.function(agent.train)
    made["update: theirs in their loop"] = lambda: sum(bool(train(next(batches))) for _ in range(K))
    return made


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    calls = works()
    for call in calls.values():
        call()
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(flags.FLAGS.turns):
        for name, call in calls.items():
            begin, count = time.monotonic(), 0
            while time.monotonic() - begin < SECONDS:
                count += call()
            rates[name].append(count / (time.monotonic() - begin))
    for name, measured in rates.items():
        base = rates[f"{name.partition(':')[0]}: ours"]
        ratios = [a / b for a, b in zip(measured, base, strict=True)]
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        print(f"{name:<36} {middle:6.3f} of ours, {low:.3f} to {high:.3f} in {len(ratios)} turns")
    return 0


if __name__ == "__main__":
    program_flags.main(main)
