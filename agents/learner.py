"""The one compiled update loop: k batches drawn as one element, k updates in one call, under any strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gin
import reverb
import tensorflow as tf
import tree

from agents.algos.algo import Algo, networks
from pipeline.checks import check_positive
from pipeline.dataset import Draw
from pipeline.types import Batch, Nest, RunError, Step
from servers.memory.memory import Memory

AGE = "env_steps"
"""the row extra that says at how many environment steps it was written"""


class LearnerError(RunError):
    """Learning cannot go on; the message says why, and at which update."""


@gin.register
class Learner:
    """Parameters, targets and optimizers, and the loop that updates them.

    `run` performs `updates_per_call` updates. Priorities and targets therefore lag by up to that many updates.
    """

    def __init__(
        self,
        algo: Algo,
        memory: Memory,
        strategy: tf.distribute.Strategy,
        observation_spec: Nest,
        action_spec: Nest,
        train_steps: int,
        seed: int,
        *,
        updates_per_call: int = 32,
        updates_per_step: float = 1.0,
        xla: bool = True,
    ):
        """`train_steps`: environment steps of the whole training, the end of annealing. `seed`: of batches' randomness.

        `updates_per_step`: updates per environment step, once the memory holds its `min_size`.

        With `xla` the loop is compiled by XLA, on one replica; on several, or on a TPU, the strategy decides.
        """
        check_positive("Learner", updates_per_call=updates_per_call, updates_per_step=updates_per_step)
        self.updates_per_call = updates_per_call
        self._updates_per_step = updates_per_step
        self._algo = algo
        self._memory = memory
        self._strategy = strategy
        self._train_steps = train_steps
        self._seed = seed
        self._replicas = strategy.num_replicas_in_sync
        with strategy.scope():
            self.params = networks(algo, observation_spec, action_spec)
            self._optimizers = algo.optimizers()
            for group, optimizer in self._optimizers.items():
                optimizer.build(self.params.online[group].trainable_variables)
            self._updates = tf.Variable(tf.constant(0, tf.int64), trainable=False, name="updates")
            self._max_priority = tf.Variable(tf.constant(1.0), trainable=False, name="max_priority")
        self.updates = 0
        self.max_priority = 1.0
        tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        self._update_all = tf.function(self._loop, jit_compile=xla and self._replicas == 1 and not tpu)
        self._run = tf.function(self._draw_and_update)
        self._iterator: Any = None
        self._write_priorities: Callable[[tf.Tensor, tf.Tensor], None] | None = None
        norms = [f"gradient_norm/{group}" for group in self._optimizers]
        self._names = [*algo.metrics, *norms, "sample_age", "priority_mean", "priority_max"]

    def connect(self, make_dataset: Callable[[int, int], tf.data.Dataset], address: str, table: str) -> None:
        """Reads from `make_dataset(batches a draw, replicas)`, and writes priorities to `table` at `address`.

        Without a `table` no priorities are written.
        """
        host = tf.distribute.InputOptions(experimental_fetch_to_device=False)
        dataset = self._strategy.distribute_datasets_from_function(
            lambda context: make_dataset(self.updates_per_call, self._replicas), host
        )
        self._iterator = iter(dataset)
        self._write_priorities = None
        if self._memory.prioritized and table:
            client = reverb.TFClient(address)
            self._write_priorities = lambda keys, priorities: client.update_priorities(table, keys, priorities)

    def due(self, env_steps: int) -> bool:
        """Whether the replay ratio allows the updates of another call at `env_steps` environment steps."""
        allowed = (env_steps - self._algo.data().min_size) * self._updates_per_step
        return self.updates + self.updates_per_call <= allowed

    def run(self, env_steps: int) -> dict[str, float]:
        """Performs `updates_per_call` updates at `env_steps` environment steps; returns their mean metrics.

        Raises LearnerError where the replay gives no data in time, and where the loss is not finite.
        """
        try:
            values = self._run(self._iterator, tf.constant(env_steps, tf.int32)).numpy()
        except (tf.errors.OutOfRangeError, StopIteration) as error:
            raise LearnerError(
                f"The learner waits for the replay: after {self.updates} updates it got no samples in time."
            ) from error
        metrics = dict(zip(self._names, values.tolist(), strict=True))
        self.updates += self.updates_per_call
        if not all(map(_is_finite, (metrics["loss"], metrics["priority_max"]))):
            raise LearnerError(
                f"The loss is {metrics['loss']} at update {self.updates} (environment step {env_steps}): the run"
                " stops, and the last checkpoint stands. A smaller learning rate may help."
            )
        self.max_priority = max(self.max_priority, metrics["priority_max"])
        return metrics

    def next_draw(self) -> Draw:
        """The draw that the next `run` would have used."""
        return next(self._iterator)

    def checkpoint(self) -> tf.train.Checkpoint:
        """Everything of the learner that a resumed run needs."""
        return tf.train.Checkpoint(
            online=dict(self.params.online),
            target=dict(self.params.target),
            optimizers=self._optimizers,
            updates=self._updates,
            max_priority=self._max_priority,
        )

    def restored(self) -> None:
        """To be called when the checkpoint was read back."""
        self.updates = int(self._updates.numpy())
        self.max_priority = float(self._max_priority.numpy())

    def trace_count(self) -> int:
        """How often the update loop was traced; 1 in every healthy run."""
        return self._run.experimental_get_tracing_count()

    def _draw_and_update(self, iterator: Any, env_steps: tf.Tensor) -> tf.Tensor:
        draw: Draw = next(iterator)
        priorities, metrics = self._update_all(draw.steps, draw.correction, env_steps)
        if self._write_priorities is not None:
            # Replica-major keys [k * B / R] each, beside priorities [k, B].
            local = self._strategy.experimental_local_results(draw.keys)
            keys = tf.concat([tf.reshape(k, [self.updates_per_call, -1]) for k in local], axis=1)
            # The table refuses what is not finite; `run` reports it.
            finite = tf.where(tf.math.is_finite(priorities), priorities, 0.0)
            self._write_priorities(tf.reshape(keys, [-1]), tf.cast(tf.reshape(finite, [-1]), tf.float64))
        return metrics

    def _loop(self, steps: Step, correction: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """k updates; returns priorities [k, B] and the means of the metrics, in the order of their names."""
        count = self.updates_per_call
        all_priorities = tf.TensorArray(tf.float32, size=count, element_shape=[self._algo.data().batch_size])
        total = tf.zeros([len(self._names) - 2])
        for index in tf.range(count):
            priorities, metrics = self._strategy.run(self._update, args=(steps, correction, index, env_steps))
            priorities = tf.concat(self._strategy.experimental_local_results(priorities), axis=0)
            all_priorities = all_priorities.write(index, priorities)
            total += self._strategy.reduce(tf.distribute.ReduceOp.MEAN, metrics, axis=None)
            self._updates.assign_add(1)
            self._follow()
        stacked = tf.ensure_shape(all_priorities.stack(), [count, self._algo.data().batch_size])
        largest = tf.reduce_max(stacked)
        self._max_priority.assign(tf.maximum(self._max_priority, largest))
        return stacked, tf.concat([total / count, [tf.reduce_mean(stacked), largest]], axis=0)

    def _update(
        self, steps: Step, correction: tf.Tensor, index: tf.Tensor, env_steps: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """One update on one replica, with batch `index` of the draw: priorities [B / R], metrics."""
        context = tf.distribute.get_replica_context()
        batch: Any = tree.map_structure(lambda leaf: leaf[index], steps)
        progress = tf.minimum(tf.cast(env_steps, tf.float32) / self._train_steps, 1.0)
        weight = self._memory.weight(correction[index], progress)
        weights = context.all_gather(weight, axis=0) if self._replicas > 1 else weight
        counter = self._updates * self._replicas + tf.cast(context.replica_id_in_sync_group, tf.int64)
        seed = tf.stack([self._seed, tf.cast(counter, tf.int32)])
        params = self.params._replace(env_steps=env_steps)
        update = self._algo.compute_gradients(params, Batch(batch, weight / tf.reduce_max(weights), seed))
        norms = []
        for group, optimizer in self._optimizers.items():
            grads = list(update.grads[group])
            if self._replicas > 1:
                grads = context.all_reduce(tf.distribute.ReduceOp.SUM, grads)
            norms.append(tf.linalg.global_norm(grads))
            variables = self.params.online[group].trainable_variables
            optimizer.apply_gradients(zip(grads, variables, strict=True), skip_gradients_aggregation=True)
        age = tf.reduce_mean(tf.cast(env_steps - batch.extras[AGE][:, 0], tf.float32))
        metrics = [*(update.metrics[name] for name in self._algo.metrics), *norms, age]
        return update.priorities, tf.stack(metrics)

    def _follow(self) -> None:
        """Moves the target networks whose turn it is."""
        for group, (period, rate) in self._algo.targets().items():
            online, target = self.params.online[group].variables, self.params.target[group].variables
            if tf.math.floormod(self._updates, period) == 0:
                for source, copy in zip(online, target, strict=True):
                    copy.assign(source if rate == 1.0 else copy + rate * (source - copy))


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def make_strategy(sys: str, tpu: str = "") -> tf.distribute.Strategy:
    """The strategy that --sys asks for.

    'local': one device, or all GPUs where there are several. 'tpu': the TPU named `tpu`, through tf-agents'
    resolver; this branch has not been run on a TPU.
    """
    if sys == "tpu":
        from tf_agents.train.utils import strategy_utils

        return strategy_utils.get_strategy(tpu=tpu, use_gpu=False)
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()
