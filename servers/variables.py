"""Weights on their way from the learner to the actors: in each replay server a table that holds the newest ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

from servers.limits import MOST_ACTORS

TABLE = "variables"
TIMEOUT_S = 5
_LARGEST = 2.0**53
"""number of a version: no larger one is exact"""


class Limit(NamedTuple):
    """How far one actor may go."""

    actor: int
    life: int
    """of its process"""
    counted: int
    """environment steps of this life that the learner knew of"""
    steps: int
    """that it may have made"""


class Version(NamedTuple):
    """Which weights these are, and what else the learner tells everyone with them."""

    training_id: int
    """the same in all lives of a training's learner"""
    run_id: int
    """the life of the learner that made them: another one's are of no use, whatever their updates"""
    updates: int
    """that made them"""
    begun_at: int
    """environment steps at which this life went on: what earlier lives learnt after them is lost"""
    env_steps: int
    """of the training, when they were published"""
    finished: bool
    """whether the training is done: nobody needs to act any more"""
    max_priority: float
    """the priority that new items enter with"""
    limits: tuple[Limit, ...] = ()
    """of the actors that the learner heard of; the others wait"""


_NUMBERS = len(Version._fields) - 1
"""fields that are one number"""


def signature(variables: Sequence[tf.Variable]) -> dict[str, tf.TensorSpec]:
    """Columns of the item: all values in one column of bytes, because a column costs the same whatever its size."""
    size = sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)
    return {
        "version": tf.TensorSpec([_NUMBERS], tf.float64, "version"),
        "limits": tf.TensorSpec([MOST_ACTORS, len(Limit._fields)], tf.int64, "limits"),
        "values": tf.TensorSpec([size], tf.uint8, "values"),
    }


def table(variables: Sequence[tf.Variable]) -> reverb.Table:
    """The table of size 1: what is published replaces what was there, and may be pulled by everyone."""
    return reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature(variables),
    )


class Publisher:
    """Publishes the values of `variables` on every server."""

    def __init__(self, clients: Sequence[reverb.Client], variables: Sequence[tf.Variable]):
        self._clients = clients
        self._variables = list(variables)
        self._writers: list[reverb.TrajectoryWriter | None] = [None] * len(clients)

    def publish(self, version: Version, alive: Sequence[int]) -> bool:
        """Returns whether the servers of the numbers `alive` all hold them now; waits `TIMEOUT_S` for each."""
        values = [np.ascontiguousarray(variable.numpy()).reshape(-1).view(np.uint8) for variable in self._variables]
        limits = np.zeros([MOST_ACTORS, len(Limit._fields)], np.int64)
        limits[: len(version.limits)] = np.array(version.limits, np.int64).reshape(-1, len(Limit._fields))
        numbers = np.array(version[:_NUMBERS], np.float64)
        columns = {"version": numbers, "limits": limits, "values": np.concatenate(values)}
        held = [self._send(shard, columns) for shard in alive]
        return all(held)

    def _send(self, shard: int, columns: dict[str, np.ndarray]) -> bool:
        client = self._clients[shard]
        try:
            # What a writer is given while its server is gone, it would send when the server is back and it is old.
            client.server_info(timeout=TIMEOUT_S)
        except (reverb.ReverbError, RuntimeError):
            return False
        try:
            writer = self._writers[shard] or client.trajectory_writer(num_keep_alive_refs=1)
            self._writers[shard] = writer
            writer.append(columns)
            history: Any = writer.history
            writer.create_item(TABLE, 1.0, {name: column[-1] for name, column in history.items()})
            writer.flush(timeout_ms=1000 * TIMEOUT_S)
        except reverb.DeadlineExceededError:
            # The writer stays, and is connected again by itself: whoever closes one whose server is gone has its heap
            # corrupted by Reverb 0.14, and dies of it later.
            return False
        except (reverb.ReverbError, RuntimeError):
            # It has given up.
            self._writers[shard] = None
            return False
        return True


class Puller:
    """Assigns the newest published values to `variables`, from whichever server answers."""

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        variables: Sequence[tf.Variable],
        warn: Callable[[str], None] = lambda line: None,
    ):
        """`warn` is given a sentence, once, where something else than a learner's weights was published."""
        self._clients = list(clients)
        self._variables = list(variables)
        self._warn = warn
        self._has_warned = False
        self._published = [-1] * len(clients)
        """how often each server had been published to when it was last read"""
        self.version: Version | None = None
        """of the values that were assigned last"""

    def pull(self) -> bool:
        """Whether a server answered and had weights; the newer ones are then assigned.

        Asking takes `TIMEOUT_S` for a server that does not answer. A server that dies while it sends makes this wait
        without an end: a process that calls it needs a watchdog.
        """
        for number, client in enumerate(self._clients):
            try:
                info = client.server_info(timeout=TIMEOUT_S)[TABLE]
                if not info.current_size:
                    continue
                published = info.rate_limiter_info.insert_stats.completed
                if published != self._published[number]:
                    self._read(client)
                    self._published[number] = published
                return True
            except (reverb.ReverbError, RuntimeError, ValueError):
                continue
        return False

    def _read(self, client: reverb.Client) -> None:
        samples: Any = client.sample(TABLE, emit_timesteps=False, unpack_as_table_signature=True)
        (data,) = (sample.data for sample in samples)
        numbers, limits = data["version"], data["limits"]
        values, begin = [], 0
        for variable in self._variables:
            end = begin + variable.shape.num_elements() * variable.dtype.size
            values.append(data["values"][begin:end].view(variable.dtype.as_numpy_dtype).reshape(variable.shape))
            begin = end
        # Whoever reaches the server can write to it.
        finite = [np.isfinite(value).all() for value in (numbers, *values) if value.dtype.kind == "f"]
        if not all(finite) or not ((numbers >= 0) & (numbers < _LARGEST)).all() or (limits < 0).any():
            if not self._has_warned:
                self._warn(
                    "WARNING: what was published as weights holds numbers that no learner publishes; it is not taken."
                    " Does somebody else write to the replay server?"
                )
            self._has_warned = True
            return
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        *counts, finished, max_priority = numbers.tolist()
        # Rows of zeros fill the column up.
        given = tuple(Limit(*row) for row in limits[limits[:, 1] > 0].tolist())
        training_id, run_id, updates, begun_at, env_steps = map(int, counts)
        self.version = Version(training_id, run_id, updates, begun_at, env_steps, bool(finished), max_priority, given)
