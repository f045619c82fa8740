"""Weights on their way from the learner to the actors: a Reverb table that holds the newest ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

from pipeline.types import RunError

TABLE = "variables"


class VariablesError(RunError):
    """The replay server gave or took no weights in time."""


class Version(NamedTuple):
    """Which weights these are."""

    run: int
    """the life of the learner that made them: another one's are of no use, whatever their updates"""
    updates: int
    """that made them"""
    env_steps: int
    """of the training, when they were published"""


def signature(variables: Sequence[tf.Variable]) -> dict[str, tf.TensorSpec]:
    """Columns of the item: all values in one column of bytes, because a column costs the same whatever its size."""
    size = sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)
    return {
        "version": tf.TensorSpec([len(Version._fields)], tf.int64, "version"),
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
    """Publishes the values of `variables`."""

    def __init__(self, client: reverb.Client, variables: Sequence[tf.Variable], run: int):
        self._client = client
        self._variables = list(variables)
        self._run = run

    def publish(self, updates: int, env_steps: int, timeout_s: float = 10.0) -> None:
        """Returns when the server holds them; raises VariablesError where it does not answer in time."""
        values = [np.ascontiguousarray(variable.numpy()).reshape(-1).view(np.uint8) for variable in self._variables]
        version = np.array(Version(self._run, updates, env_steps), np.int64)
        try:
            with self._client.trajectory_writer(num_keep_alive_refs=1) as writer:
                writer.append({"version": version, "values": np.concatenate(values)})
                history: Any = writer.history
                writer.create_item(TABLE, 1.0, {name: column[0] for name, column in history.items()})
                writer.flush(timeout_ms=int(1000 * timeout_s))
        except (reverb.ReverbError, RuntimeError) as error:
            raise VariablesError(f"The replay server took no weights in {timeout_s:g} s: {error}") from error


class Puller:
    """Assigns the newest published values to `variables`."""

    def __init__(self, client: reverb.Client, variables: Sequence[tf.Variable]):
        self._client = client
        self._variables = list(variables)
        self.version: Version | None = None
        """of the values that were assigned last"""

    def pull(self, timeout_s: float = 10.0) -> bool:
        """Whether there were newer ones; raises VariablesError where the server does not answer in time."""
        try:
            if not self._client.server_info(timeout=max(int(timeout_s), 1))[TABLE].current_size:
                return False
            samples: Any = self._client.sample(TABLE, emit_timesteps=False, unpack_as_table_signature=True)
            (data,) = (sample.data for sample in samples)
        except (reverb.ReverbError, RuntimeError, ValueError) as error:
            raise VariablesError(f"The replay server gave no weights in {timeout_s:g} s: {error}") from error
        version = Version(*data["version"].tolist())
        if version == self.version:
            return False
        begin = 0
        for variable in self._variables:
            dtype = variable.dtype.as_numpy_dtype
            end = begin + variable.shape.num_elements() * variable.dtype.size
            variable.assign(data["values"][begin:end].view(dtype).reshape(variable.shape))
            begin = end
        self.version = version
        return True
