"""The one compiled update loop: what one call learns from is drawn as one element, under any strategy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import reverb
import tensorflow as tf
import tree

from agents.algos.algo import Algo, networks
from agents.cancellation import cancellable
from agents.finite import are_finite
from agents.models.moments import Sample, measure
from agents.reward_augmentation.registry import REWARD_AUGMENTATIONS
from agents.tf_config import learners
from pipeline.checks import check_positive
from pipeline.dataset import Draw
from pipeline.frames import history
from pipeline.rows import only_finite, restack
from pipeline.types import Batch, Nest, RunError, Step, UserError
from servers.checkpoint import readable
from servers.memory.memory import Memory

TPU_DEVICE = Path("/dev/accel0")
"""what a TPU virtual machine has"""
AGE = "env_steps"
"""the row extra that says at how many environment steps it was written"""
RUN_ID = "run_id"
"""the row extra that says in which life of the learner the weights were made that acted"""
WEIGHTS = "weights_updates"
"""the row extra that says how many updates had made these weights"""
STAMPS = (AGE, RUN_ID, WEIGHTS)
"""[] i32 each, what an actor stamps every row with"""


LOOKED_AT = 8
"""states of a draw whose values are compared"""
TOGETHER = "Its workers can only go on together: all of them have to start again."
_NO_DATA = (
    tf.errors.OutOfRangeError,
    tf.errors.CancelledError,
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    StopIteration,
)
"""how a replay that gives nothing in time, or is gone, shows"""
ADVICE = "A smaller learning rate or a smaller max_gradient_norm may help."


class LearnerError(RunError):
    """Learning cannot go on; the message says why, and at which update."""


class NoDataError(LearnerError):
    """The replay gave nothing in time: its iterator is of no use any more, and `connect` makes another."""


@gin.register
class Learner:
    """Parameters, targets and optimizers, and the loop that updates them.

    With a replay, `run` draws `updates_per_call` batches, performs as many updates, and then writes their priorities.
    So these are old by up to one call's updates; by up to two calls', where the next draw was in flight already (see
    `servers.memory.prioritized`). With a queue `run` draws one rollout for each replica, and performs the updates of
    all its epochs.
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
        reward_augmentation: str = "none",
        max_policy_lag: int = 8,
        xla: bool = True,
    ):
        """`train_steps`: environment steps of the whole training, the end of annealing. `seed`: of batches' randomness.

        `updates_per_step`: updates per environment step of a replay, once it holds its `min_size`.
        `reward_augmentation`: which rewards are learnt from; returns of episodes and evaluations remain the true ones.
        `max_policy_lag`: a queue's rollout is dropped where its policy is older than so many rollouts' updates.

        With `xla` the loop is compiled by XLA, on one replica; on several, or on a TPU, the strategy decides.
        """
        check_positive(
            "Learner",
            updates_per_call=updates_per_call,
            updates_per_step=updates_per_step,
            max_policy_lag=max_policy_lag,
        )
        self.batches = 1 if memory.on_policy else updates_per_call
        """of one draw"""
        self._updates_per_step = updates_per_step
        self._algo = algo
        self._observation_spec = observation_spec
        self._memory = memory
        self._strategy = strategy
        self._train_steps = train_steps
        self._seed = seed
        self._replicas = strategy.num_replicas_in_sync
        self._augment = REWARD_AUGMENTATIONS.get(reward_augmentation)()
        with strategy.scope():
            self.params = networks(algo, observation_spec, action_spec)
            self._optimizers = algo.optimizers()
            for group, optimizer in self._optimizers.items():
                optimizer.build(self.params.online[group].trainable_variables)
            self._updates = tf.Variable(tf.constant(0, tf.int64), trainable=False, name="updates")
            self._max_priority = tf.Variable(tf.constant(1.0), trainable=False, name="max_priority")
            self._rollouts = tf.Variable(tf.constant(0, tf.int64), trainable=False, name="rollouts")
        self._hyper = [(variable, variable.numpy()) for variable in _hyper_parameters(self.checkpoint())]
        """of the optimizers, with what the settings say of each"""
        self.updates = 0
        self.rollouts = 0
        """rollouts learnt from"""
        self.stale_rollouts = 0
        """rollouts dropped, because their policy was too old, or made in another life of the learner"""
        self.run_id = 0
        """[0, 2^31), of this life; rows carry it"""
        self._max_policy_lag = max_policy_lag
        self.max_priority = 1.0
        self._shared = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        """whether other processes learn together with this one"""
        self.is_chief = bool(strategy.extended.should_checkpoint)
        """whether this process is the one, of those that learn together, that saves and publishes"""
        tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        # AutoGraph's translation of every function would take most of the time until the first update.
        jit = xla and self._replicas == 1 and not tpu
        self._update_all = tf.function(self._loop, jit_compile=jit, autograph=False)
        self._run = tf.function(self._draw_and_update, autograph=False)
        self._least = tf.function(lambda value: tf.reduce_min(self._everywhere(value)), autograph=False)
        self._call: Callable[..., tf.Tensor] | None = None
        self._draws = tf.Variable(tf.constant(0), trainable=False)
        """draws that arrived"""
        self._draws_before = 0
        """the call under way"""
        self.stop: Callable[[], bool] = lambda: False
        """whether the process was asked to stop: a draw that waits is then given up"""
        self.warn: Callable[[str], None] = lambda line: None
        """is given a sentence where something is wrong with what was drawn"""
        self.not_finite = 0
        """windows drawn that held numbers which are not finite, and were not learnt from"""
        self._is_sound: bool | None = None
        """whether the parameters are finite; None: not known yet"""
        self._said_one_value = False
        self._connect: Callable[[], Any] | None = None
        self._iterator: Any = None
        """of what `_connect` makes; None before the first draw"""
        self._write_priorities: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], None] | None = None
        norms = [f"gradient_norm/{group}" for group in self._optimizers]
        rates = [f"learning_rate/{group}" for group in self._optimizers]
        self._names = [*algo.metrics, *norms, *rates, "sample_age", "policy_lag"]
        if memory.prioritized:
            self._names += ["priority_mean", "priority_max"]

    def connect(
        self, make_dataset: Callable[[int, int], tf.data.Dataset], addresses: Sequence[str] = (), table: str = ""
    ) -> None:
        """Reads from `make_dataset(batches a draw, replicas)`, and writes priorities to `table` at `addresses`.

        Without a `table` no priorities are written. Reading begins with the next `run`, when a call is due: what an
        iterator has in flight was drawn when it was made, from the first item on.
        """
        host = tf.distribute.InputOptions(experimental_fetch_to_device=False)
        dataset = lambda context: make_dataset(self.batches, self._replicas)  # noqa: E731
        self._connect = lambda: iter(self._strategy.distribute_datasets_from_function(dataset, host))
        self._iterator = None
        if self._memory.prioritized and table and self._write_priorities is None:
            self._write_priorities = _priority_writer(addresses, table)

    def disconnect(self) -> None:
        """Gives up what was drawn and not learnt from; until `connect`, nothing is read."""
        self._connect = self._iterator = None

    def agree(self, value: int) -> int:
        """The smallest of the values that all workers ask with; without other workers, `value`.

        Workers update together: each has to call `run`, and this, as often as the others, or all wait forever. Raises
        LearnerError where one of them is gone.
        """
        if not self._shared:
            return value
        try:
            return int(self._least(tf.constant(value, tf.int64)))
        except tf.errors.OpError as error:
            raise LearnerError(f"A learner that TF_CONFIG names is gone. {TOGETHER}") from error

    @property
    def windows_per_draw(self) -> int:
        """Windows that one `run`, of all workers, takes from the tables; rollouts, of a queue."""
        return self._replicas if self._memory.on_policy else self.batches * self._algo.data().batch_size

    def samples_per_insert(self) -> float:
        """Windows to be sampled for each one written."""
        return 1.0 if self._memory.on_policy else self._updates_per_step * self._algo.data().batch_size

    def due(self, env_steps: int, items: int) -> bool:
        """Whether another call is due at `env_steps` environment steps and `items` items written.

        A replay's calls are held to the replay ratio, and wait for its first item: until that is whole, which takes the
        rows of a window from every environment, a draw would wait for ever. A queue is learnt from when it holds a
        rollout for each replica.
        """
        if self._memory.on_policy:
            return items - self.rollouts >= self._replicas
        if not items:
            return False
        allowed = (env_steps - self._algo.data().min_size) * self._updates_per_step
        return self.updates + self.batches <= allowed

    def first_due(self, lanes: int) -> int:
        """Environment steps of `lanes` environments after which the first call is due; fewer, of whole episodes."""
        data = self._algo.data()
        if self._memory.on_policy:
            return 0 if data.whole_episodes else self._replicas * lanes * (data.window - 1)
        return max(data.min_size + math.ceil(self.batches / self._updates_per_step), lanes * data.window)

    def run(self, env_steps: int, timeout_s: float = 60.0) -> dict[str, float]:
        """Performs the updates of one call at `env_steps` environment steps; returns their mean metrics.

        What anneals is as far as these steps; with a queue, as far as the beginning of the rollout.

        `timeout_s`: that the draw may take. No metrics come of rollouts that were dropped. Raises NoDataError where the
        replay gives no data in time or before `stop`, or its server is lost, and LearnerError where loss or parameters
        are not finite.
        """
        self.check_parameters()
        self._draws_before = int(self._draws.numpy())
        arguments = (self._draws_of(), tf.constant(env_steps, tf.int32), tf.constant(self.run_id, tf.int32))
        try:
            if self._call is None:
                if self.agree(self.updates) != -self.agree(-self.updates):
                    raise LearnerError(
                        f"The learner's workers begin with different numbers of updates (here {self.updates}): all of"
                        " them have to restore the same checkpoint."
                    )
                waits = lambda: int(self._draws.numpy()) == self._draws_before  # noqa: E731
                stop = lambda: self.stop()  # noqa: E731 whoever runs the learner may set it later
                self._call = cancellable(self._run.get_concrete_function(*arguments), waits, stop)
            values = self._call(timeout_s, *arguments).numpy()
        except (tf.errors.OpError, StopIteration) as error:
            if not isinstance(error, _NO_DATA):
                raise
            # Where a server was lost as the priorities were on their way, the updates were made all the same.
            self.updates = int(self._updates.numpy())
            said = f"The learner waits for the replay: after {self.updates} updates it got no samples in time."
            if self._shared:
                raise LearnerError(f"{said} {TOGETHER}") from error
            raise NoDataError(said) from error
        *means, updates, not_finite, sound, one_value = values.tolist()
        self._count_not_finite(int(not_finite))
        if not updates:
            if not not_finite:
                self.stale_rollouts += self._replicas
            return {}
        metrics = dict(zip(self._names, means, strict=True))
        self.updates += int(updates)
        if self._memory.on_policy:
            self.rollouts += self._replicas
        where = f"update {self.updates} (environment step {env_steps})"
        if not all(map(_is_finite, (metrics["loss"], metrics.get("priority_max", 0.0)))):
            raise LearnerError(
                f"The loss is {metrics['loss']} at {where}, though all that it was computed from was finite: the run"
                f" stops, and the last checkpoint stands. {ADVICE}"
            )
        if not sound:
            raise LearnerError(
                f"Parameters, targets or the optimizer's own numbers are not finite after {where}, though the loss was:"
                f" the run stops, and the last checkpoint stands. {ADVICE}"
            )
        if one_value and not self._said_one_value:
            self._said_one_value = True
            self.warn(
                f"WARNING: after {where} the values of {LOOKED_AT} different states are one and the same number: what"
                " the network is given, or says, does not depend on the state."
            )
        self.max_priority = max(self.max_priority, metrics.get("priority_max", 1.0))
        return metrics

    def check_parameters(self) -> None:
        """Raises LearnerError where those that were restored are not finite."""
        if self._is_sound is None:
            self._is_sound = bool(are_finite(self._state()))
        if not self._is_sound:
            raise LearnerError(
                f"The parameters that learning goes on with, of update {self.updates}, are not finite: they were"
                " restored so. Remove the newest folder in checkpoints, or choose another --output_dir."
            )

    def _count_not_finite(self, windows: int) -> None:
        if windows and not self.not_finite:
            self.warn(
                f"WARNING: {windows} windows that the replay gave hold numbers that are not finite (nan or inf), which"
                " no environment of this run may write. They are not learnt from; replay/not_finite counts them."
                " Does somebody else write to the replay server, or did an actor warn of what its policy says?"
            )
        self.not_finite += windows

    def _state(self) -> list[tf.Variable]:
        """All that updates move: networks, targets, normalisers, and what optimizers keep."""
        params = self.params
        models = [*params.online.values(), *params.target.values(), *params.moments.values()]
        return [v for part in (*models, *self._optimizers.values()) for v in part.variables]

    def has_updated(self) -> bool:
        """From another thread: whether the call of `run` under way has made its updates, and sends priorities."""
        return self._memory.prioritized and int(self._updates.numpy()) == self.updates + self.batches

    def _draws_of(self) -> Any:
        """The iterator of draws."""
        if self._iterator is None:
            assert self._connect is not None, "connect comes first"
            self._iterator = self._connect()
        return self._iterator

    def gradient_means(self) -> dict[str, np.ndarray]:
        """By parameter group, f32 [parameters]: the running means of gradients that Adam keeps."""
        means = {
            group: [slot.numpy().ravel() for slot in optimizer.variables if slot.name.startswith("m/")]
            for group, optimizer in self._optimizers.items()
        }
        return {group: np.concatenate(slots) for group, slots in means.items() if slots}

    def next_draw(self) -> Draw:
        """The draw that the next `run` would have used."""
        return next(self._draws_of())

    def checkpoint(self) -> tf.train.Checkpoint:
        """Everything of the learner that a resumed run needs."""
        return tf.train.Checkpoint(
            online=dict(self.params.online),
            target=dict(self.params.target),
            optimizers=self._optimizers,
            moments=dict(self.params.moments),
            updates=self._updates,
            rollouts=self._rollouts,
            max_priority=self._max_priority,
        )

    def write(self, path: Path) -> None:
        """Writes `checkpoint` to files whose names begin with `path`."""
        self.checkpoint().write(str(path))

    def read(self, path: Path) -> None:
        """Goes on from what `write` wrote to `path`; optimizers keep the settings' hyper-parameters.

        Raises AssertionError, ValueError or tf.errors.OpError where that is of another algorithm, network or
        environment, or no longer there.
        """
        with readable(path) as name:
            self.checkpoint().read(name).assert_consumed()
        for variable, value in self._hyper:
            variable.assign(value)
        self._is_sound = None
        self.updates = int(self._updates.numpy())
        self.rollouts = int(self._rollouts.numpy())
        self.max_priority = float(self._max_priority.numpy())

    def trace_count(self) -> int:
        """How often the update loop was traced; 1 in every healthy run."""
        return self._run.experimental_get_tracing_count()

    def _draw_and_update(self, iterator: Any, env_steps: tf.Tensor, run_id: tf.Tensor) -> tf.Tensor:
        draw: Draw = next(iterator)
        with tf.control_dependencies(self._local(draw.keys)):
            arrived = self._draws.assign_add(1)
        # Else what needs no data, such as counting, would be done for a draw that never comes.
        with tf.control_dependencies([arrived]):
            priorities, metrics = self._update_all(draw.steps, draw.correction, env_steps, run_id)
        if self._write_priorities is not None:
            # Replica-major keys [k * B / R] each, beside priorities [k, B].
            keys, shards = (
                tf.concat([tf.reshape(part, [self.batches, -1]) for part in self._local(column)], axis=1)
                for column in (draw.keys, draw.shard)
            )
            # The table refuses what is not finite; `run` reports it.
            finite = tf.where(tf.math.is_finite(priorities), priorities, 0.0)
            flat = (tf.reshape(column, [-1]) for column in (keys, tf.cast(finite, tf.float64), shards))
            self._write_priorities(*flat)
        return metrics

    def _local(self, value: Any) -> tuple[Any, ...]:
        """What each replica of this process has of `value`."""
        return self._strategy.experimental_local_results(value)

    def _everywhere(self, value: tf.Tensor) -> tf.Tensor:
        """[R, ...]: this process's `value` and those of the processes that learn with it."""
        if not self._shared:
            return value[None]
        gather = lambda own: tf.distribute.get_replica_context().all_gather(own[None], axis=0)  # noqa: E731
        return self._local(self._strategy.run(gather, args=(value,)))[0]

    def _loop(
        self, steps: Step, correction: tf.Tensor, env_steps: tf.Tensor, run_id: tf.Tensor
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """All updates of a draw.

        Returns the priorities [k, B] that a prioritized memory wants (of this process's part of the batches), and the
        means of the metrics in the order of their names. Behind them: the number of updates, that of the windows which
        were not finite, 1 where the parameters then are, and 1 where all states have one value.
        """
        if self._memory.on_policy:
            # Whatever was acted since: a rollout that waited at the training's end would be learnt from at rate 0.
            past = history(self._observation_spec)
            began = self._strategy.run(lambda part: tf.cast(part[0, 0, past], tf.float32), args=(steps.extras[AGE],))
            now = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, began, axis=None)
        else:
            now = tf.cast(env_steps, tf.float32)
        progress = tf.minimum(now / self._train_steps, 1.0)
        for group, rate in self._algo.learning_rates(progress).items():
            self._optimizers[group].learning_rate.assign(rate)
        if self._memory.on_policy:
            priorities, metrics = None, self._learn_rollout(steps, correction, progress, env_steps, run_id)
        else:
            priorities, metrics = self._learn_batches(steps, correction, progress, env_steps)
        seen = [are_finite(self._state()), self._local(self._strategy.run(self._have_one_value, args=(steps,)))[0]]
        return priorities, tf.concat([metrics, tf.cast(seen, tf.float32)], axis=0)

    def _have_one_value(self, steps: Step) -> tf.Tensor:
        """[] bool, on one replica: whether values that the algorithm shows are the same in different states.

        A rectifier makes 0 of NaN: a critic that is given NaN may say one number for ever, at a finite loss.
        """
        rows: Any = tree.map_structure(lambda leaf: leaf[0, :LOOKED_AT], steps)
        observation = restack(rows, self._observation_spec).observation
        along = (lambda leaf: leaf[0, :LOOKED_AT]) if self._memory.on_policy else (lambda leaf: leaf[:, 0])
        observation = tree.map_structure(along, observation)
        values = self._algo.distributions(self.params, observation).values()
        if tree.flatten(observation)[0].shape[0] < LOOKED_AT or not values:
            return tf.constant(False)
        differ = tf.reduce_any([_differ(leaf) for leaf in tree.flatten(observation)], axis=0)
        same = [tf.logical_not(tf.reduce_any(_differ(part))) for part in values if part.shape[:1] == [LOOKED_AT]]
        return tf.reduce_all(differ) & tf.reduce_any(same)

    def _learn_batches(
        self, steps: Step, correction: tf.Tensor, progress: tf.Tensor, env_steps: tf.Tensor
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        """One update with each of k batches."""
        count, prioritized = self.batches, self._memory.prioritized
        width = sum(part.shape[1] for part in self._local(correction))

        def update(index: tf.Tensor, total: tf.Tensor, all_priorities: tf.TensorArray) -> tuple[Any, ...]:
            priorities, metrics = self._strategy.run(
                self._prepare_and_update, args=(steps, correction, index, progress, env_steps)
            )
            if prioritized:
                priorities = tf.concat(self._local(priorities), axis=0)
                all_priorities = all_priorities.write(index, priorities)
            return self._after_update(total, metrics), all_priorities

        total, all_priorities = _repeat(
            count,
            update,
            tf.zeros([len(self._names) - 2 * prioritized + 1]),
            tf.TensorArray(tf.float32, size=count, element_shape=[width]),
        )
        means, not_finite = total[:-1] / count, total[-1] * self._replicas
        if not prioritized:
            return None, tf.concat([means, [count, not_finite]], axis=0)
        stacked = tf.ensure_shape(all_priorities.stack(), [count, width])
        mean, largest = tf.reduce_mean(stacked), tf.reduce_max(stacked)
        seen = self._everywhere(tf.stack([mean, largest]))
        mean, largest = tf.reduce_mean(seen[:, 0]), tf.reduce_max(seen[:, 1])
        self._max_priority.assign(tf.maximum(self._max_priority, largest))
        return stacked, tf.concat([means, [mean, largest, count, not_finite]], axis=0)

    def _learn_rollout(
        self, steps: Step, correction: tf.Tensor, progress: tf.Tensor, env_steps: tf.Tensor, run_id: tf.Tensor
    ) -> tf.Tensor:
        """All epochs over the examples of a rollout; the moments grow when they are done.

        None over those of one that is stale, or holds numbers that are not finite.
        """
        data, strategy = self._algo.data(), self._strategy
        batch, poisoned = strategy.run(self._prepare, args=(steps, correction, tf.constant(0), progress, env_steps))
        examples = self._local(batch.weight)[0].shape[0]
        size = data.batch_size // self._replicas or examples
        stale = strategy.run(self._stale_rows, args=(steps, run_id))
        lanes = strategy.run(lambda part: tf.reduce_sum(tf.cast(part, tf.int32)), args=(poisoned,))
        stale, not_finite = (strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for part in (stale, lanes))
        fresh = tf.equal(stale + not_finite, 0)
        turns = tf.where(fresh, data.epochs * (examples // size), 0)
        order = strategy.run(self._order, args=(examples, data.epochs, size))

        def update(turn: tf.Tensor, total: tf.Tensor) -> tuple[Any, ...]:
            metrics = strategy.run(self._update_part, args=(batch, order, turn, env_steps))
            return (self._after_update(total, metrics),)

        (total,) = _repeat(turns, update, tf.zeros([len(self._names)]))
        self._rollouts.assign_add(tf.where(fresh, tf.constant(self._replicas, tf.int64), 0))
        for name, sample in strategy.run(self._measure, args=(batch, env_steps)).items():
            count, mean, squares = (self._local(part)[0] for part in sample)
            # One that was dropped counts for nothing.
            none = tf.zeros_like(count)
            self.params.moments[name].merge(Sample(*(tf.where(fresh, part, none) for part in (count, mean, squares))))
        updates = tf.cast(turns, tf.float32)
        means = tf.math.divide_no_nan(total, updates)
        return tf.concat([means, [updates, tf.cast(not_finite, tf.float32)]], axis=0)

    def _stale_rows(self, steps: Step, own_run_id: tf.Tensor) -> tf.Tensor:
        """[] i32: rows of a rollout that weights of another life, or too old ones, acted in; on one replica."""
        past = history(self._observation_spec)
        run_id, updates = (steps.extras[name][:, :, past:] for name in (RUN_ID, WEIGHTS))
        done, calls = (tf.cast(counter, tf.float32) for counter in (self._updates, self._rollouts // self._replicas))
        # Every call makes as many updates: lag / (done / calls) is the lag in rollouts.
        old = (done - tf.cast(updates, tf.float32)) * calls > self._max_policy_lag * done
        return tf.reduce_sum(tf.cast(old | tf.not_equal(run_id, own_run_id), tf.int32))

    def _prepare(
        self, steps: Step, correction: tf.Tensor, index: tf.Tensor, progress: tf.Tensor, env_steps: tf.Tensor
    ) -> tuple[Batch, tf.Tensor]:
        """The examples of batch `index` of the draw, on one replica, and which of its windows [B] were not finite."""
        context = tf.distribute.get_replica_context()
        rows: Any = tree.map_structure(lambda leaf: leaf[index], steps)
        weight = self._memory.weight(correction[index], progress)
        rows, finite = only_finite(rows, tf.math.is_finite(weight))
        weight = tf.where(finite, weight, 0.0)
        windows = restack(rows, self._observation_spec)
        if not self._memory.on_policy:
            # A window that begins with a LAST row holds no transition.
            weight = tf.where(windows.last[:, 0], 0.0, weight)
        weights = context.all_gather(weight, axis=0) if self._replicas > 1 else weight
        weight = tf.math.divide_no_nan(weight, tf.reduce_max(weights))
        batch = Batch(self._augment(windows), weight, self._seeds())
        prepared = self._algo.prepare(self.params._replace(env_steps=env_steps), batch)
        return only_weighted(prepared), tf.logical_not(finite)

    def _prepare_and_update(
        self, steps: Step, correction: tf.Tensor, index: tf.Tensor, progress: tf.Tensor, env_steps: tf.Tensor
    ) -> tuple[tf.Tensor | None, tf.Tensor]:
        batch, poisoned = self._prepare(steps, correction, index, progress, env_steps)
        priorities, metrics = self._update(batch, env_steps)
        if priorities is not None:
            # Hardly ever drawn again.
            priorities = tf.where(poisoned, 0.0, priorities)
        return priorities, tf.concat([metrics, [tf.reduce_sum(tf.cast(poisoned, tf.float32))]], axis=0)

    def _order(self, examples: int, epochs: int, size: int) -> tf.Tensor:
        """Which examples each update of a rollout learns from, [updates, size] i32: every epoch shuffles them anew."""
        # The seed itself is the first update's.
        seed = tf.unstack(tf.random.split(self._seeds()))[1]
        # XLA draws other numbers than its absence does, where the seed is negative: shuffles differ.
        keys = tf.random.stateless_uniform([epochs, examples], seed, -(2**31), 2**31 - 1, tf.int32)
        return tf.reshape(tf.argsort(keys, axis=1), [-1, size])

    def _update_part(self, batch: Batch, order: tf.Tensor, turn: tf.Tensor, env_steps: tf.Tensor) -> tf.Tensor:
        """One update with the examples whose turn it is."""
        steps: Any = batch.steps
        weight = batch.weight
        if order.shape[1] != weight.shape[0]:
            steps = tree.map_structure(lambda leaf: tf.gather(leaf, order[turn]), steps)
            weight = tf.gather(weight, order[turn])
        return self._update(Batch(steps, weight, self._seeds()), env_steps)[1]

    def _seeds(self) -> tf.Tensor:
        """[2] i32, for every update and replica its own."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        counter = self._updates * self._replicas + tf.cast(replica, tf.int64)
        return tf.stack([self._seed, tf.cast(counter, tf.int32)])

    def _update(self, batch: Batch, env_steps: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor]:
        """One update on one replica: priorities [B / R], metrics."""
        context = tf.distribute.get_replica_context()
        update = self._algo.train(self.params._replace(env_steps=env_steps), batch)
        norms = []
        for group, optimizer in self._optimizers.items():
            grads = list(update.grads[group])
            if self._replicas > 1:
                grads = context.all_reduce(tf.distribute.ReduceOp.SUM, grads)
            norms.append(tf.linalg.global_norm(grads))
            variables = self.params.online[group].trainable_variables
            optimizer.apply_gradients(zip(grads, variables, strict=True), skip_gradients_aggregation=True)
        rates = [tf.cast(optimizer.learning_rate, tf.float32) for optimizer in self._optimizers.values()]
        extras = batch.steps.extras
        age = _mean_since(extras[AGE], env_steps)
        lag = _mean_since(extras[WEIGHTS], tf.cast(self._updates, tf.int32))
        metrics = [*(update.metrics[name] for name in self._algo.metrics), *norms, *rates, age, lag]
        return update.priorities, tf.stack(metrics)

    def _measure(self, batch: Batch, env_steps: tf.Tensor) -> dict[str, Sample]:
        """What each of the moments grows by: the rows of all replicas, seen from one of them."""
        context = tf.distribute.get_replica_context()
        add = lambda part: context.all_reduce(tf.distribute.ReduceOp.SUM, part) if self._replicas > 1 else part  # noqa: E731
        rows = self._algo.measure(self.params._replace(env_steps=env_steps), batch)
        return {name: measure(own, batch.weight > 0, add) for name, own in rows.items()}

    def _after_update(self, total: tf.Tensor, metrics: tf.Tensor) -> tf.Tensor:
        """Counts an update and moves the target networks; `total` with its metrics added."""
        self._updates.assign_add(1)
        for group, (period, rate) in self._algo.targets().items():
            tf.cond(tf.math.floormod(self._updates, period) == 0, lambda g=group, r=rate: self._follow(g, r), tf.no_op)
        return total + self._strategy.reduce(tf.distribute.ReduceOp.MEAN, metrics, axis=None)

    def _follow(self, group: str, rate: float) -> tf.Operation:
        """Moves the target network of `group`."""
        for source, copy in zip(self.params.online[group].variables, self.params.target[group].variables, strict=True):
            copy.assign(source if rate == 1.0 else copy + rate * (source - copy))
        return tf.no_op()


def _hyper_parameters(checkpoint: tf.train.Checkpoint) -> list[tf.Variable]:
    """Those that the optimizers in `checkpoint` keep in variables, an agent's own optimizers among them."""
    found: list[Any] = []
    part: Any
    for part in tf.train.TrackableView(checkpoint).descendants():
        if isinstance(part, tf.keras.optimizers.Optimizer):
            found.append(part.learning_rate)
        elif isinstance(part, tf.keras.optimizers.legacy.Optimizer):
            found += [value for value in vars(part)["_hyper"].values() if isinstance(value, tf.Variable)]
    return found


def only_weighted(batch: Batch) -> Batch:
    """`batch` with a copy of one of its examples in place of each that has weight 0, which stays 0.

    A loss is made of all examples before they are weighted, and of those that count for nothing it may overflow, as the
    ratio of a LAST row's probabilities does: 0 times infinity is no number.
    """
    counts = tf.not_equal(batch.weight, 0.0)
    example = tf.where(counts, tf.range(counts.shape[0]), tf.argmax(tf.cast(counts, tf.int32), output_type=tf.int32))
    steps: Any = tree.map_structure(lambda leaf: tf.gather(leaf, example), batch.steps)
    return batch._replace(steps=steps)


def _differ(leaf: tf.Tensor) -> tf.Tensor:
    """[B - 1] bool: which rows of `leaf` [B, ...] differ from its first."""
    first, *others = tf.unstack(tf.reshape(leaf, [leaf.shape[0], -1]))
    return tf.reduce_any(tf.not_equal(first, tf.stack(others)), axis=1)


def _repeat(count: int | tf.Tensor, turn: Callable[..., tuple[Any, ...]], *state: Any) -> tuple[Any, ...]:
    """What becomes of `state` when `state = turn(index, *state)` is done for index 0 to `count` - 1."""
    body = lambda index, *state: (index + 1, *turn(index, *state))  # noqa: E731
    return tf.while_loop(lambda index, *_: index < count, body, (0, *state))[1:]


def _mean_since(written: tf.Tensor, now: tf.Tensor) -> tf.Tensor:
    """[] f32: the mean of `now` less what the first rows [B] or [B, T + 1] i32 carry."""
    return tf.reduce_mean(tf.cast(now - (written if written.shape.rank == 1 else written[:, 0]), tf.float32))


def _priority_writer(addresses: Sequence[str], table: str) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], None]:
    """What sends keys [n] u64 and priorities [n] f64 to the servers of the numbers [n] i32 that hold the items."""
    clients = [reverb.TFClient(address) for address in addresses]

    def write(keys: tf.Tensor, priorities: tf.Tensor, shards: tf.Tensor) -> None:
        if len(clients) == 1:
            clients[0].update_priorities(table, keys, priorities)
            return
        for shard, client in enumerate(clients):
            own = shards == shard

            def send(client: reverb.TFClient = client, own: tf.Tensor = own) -> tf.Operation:
                client.update_priorities(table, tf.boolean_mask(keys, own), tf.boolean_mask(priorities, own))
                return tf.no_op()

            tf.cond(tf.reduce_any(own), send, tf.no_op)

    return write


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def make_strategy(sys: str, tpu: str = "") -> tf.distribute.Strategy:
    """The strategy that --sys asks for; to be made before anything else runs in TensorFlow.

    'local': this process and the others that TF_CONFIG names, on one device or all GPUs of each; their memory is taken
    as it is needed. 'tpu': the TPU named `tpu`; this branch has not been run on a TPU.
    'gcp': a Google Cloud machine's own TPU, or as 'local'. Raises UserError where the TPU cannot be
    reached, or TF_CONFIG is not understood.
    """
    if sys == "gcp":
        sys, tpu = ("tpu", "local") if TPU_DEVICE.exists() else ("local", "")
    if sys == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
            tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
        except (tf.errors.OpError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"--sys=tpu: the TPU {tpu!r} cannot be reached from here: {reason}.") from error
        return tf.distribute.TPUStrategy(resolver)
    # Those of the machine that were not hidden from this process.
    gpus = tf.config.get_visible_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if learners() > 1:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        # Else a worker that got no data would learn from an empty batch beside the others.
        strategy.extended.experimental_enable_get_next_as_optional = False
        return strategy
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()
