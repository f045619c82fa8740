"""What actors tell the learner, beside rows: a Reverb table of messages, each of which is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

TABLE = "reports"
EPISODES = 64
"""that one message has room for"""
KEPT = 10_000
"""messages that wait for a learner; then the oldest go"""
TIMEOUT_S = 5
TIMEOUT_MS = 500
"""that sending may take: counts of the next message hold those of one that is lost"""


class Report(NamedTuple):
    """How far an actor is. Counts are of its whole life, so that a lost message costs nothing."""

    actor: int
    life: int
    """a process' life: the next one begins its counts anew"""
    env_steps: int
    episodes: int
    crashes: int
    """failures of its environments"""
    weights_updates: int
    """updates that made the weights it acts with"""
    finished: list[tuple[float, int]]
    """return and length of the episodes that ended since the message before"""


def table() -> reverb.Table:
    """The table of messages; writing to it never waits."""
    return reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=KEPT,
        max_times_sampled=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={
            "counts": tf.TensorSpec([len(Report._fields)], tf.int64, "counts"),
            "episodes": tf.TensorSpec([EPISODES, 2], tf.float32, "episodes"),
        },
    )


class Reporter:
    """Sends reports to one server."""

    def __init__(self, client: reverb.Client):
        self._writer = client.trajectory_writer(num_keep_alive_refs=1)

    def send(self, report: Report) -> bool:
        """Returns whether the server confirmed it in time; the newest `EPISODES` episodes of it are sent."""
        finished = report.finished[-EPISODES:]
        episodes = np.zeros([EPISODES, 2], np.float32)
        episodes[: len(finished)] = np.array(finished, np.float32).reshape(-1, 2)
        counts = np.array([*report[:-1], len(finished)], np.int64)
        self._writer.append({"counts": counts, "episodes": episodes})
        history: Any = self._writer.history
        self._writer.create_item(TABLE, 1.0, {name: column[-1] for name, column in history.items()})
        try:
            self._writer.flush(timeout_ms=TIMEOUT_MS)
        except (reverb.ReverbError, RuntimeError):
            return False
        return True


def read(clients: Sequence[reverb.Client]) -> list[Report]:
    """The messages that wait at the servers, oldest first at each; a server that does not answer has none.

    A server that dies while it sends makes this wait without an end: a process that calls it needs a watchdog.
    """
    found = []
    for client in clients:
        try:
            waiting = client.server_info(timeout=TIMEOUT_S)[TABLE].current_size
            if waiting:
                samples: Any = client.sample(TABLE, waiting, emit_timesteps=False, unpack_as_table_signature=True)
                found += [_report(sample.data) for sample in samples]
        except (reverb.ReverbError, RuntimeError):
            continue
    return found


def _report(data: dict[str, np.ndarray]) -> Report:
    *counts, ended = data["counts"].tolist()
    finished = [(float(episode_return), int(length)) for episode_return, length in data["episodes"][:ended].tolist()]
    return Report(*counts, finished=finished)
