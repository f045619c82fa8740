"""What actors tell the learner, beside rows: a Reverb table of messages, each of which is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

from servers.limits import MOST_ACTORS

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

    training_id: int
    """of the training that it acts for"""
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


class Refused(NamedTuple):
    """A message that is no report of this training's."""

    actor: int
    """that it says it is of"""
    reason: str
    """'a count is negative'"""


def read(clients: Sequence[reverb.Client], training_id: int, most_steps: int) -> tuple[list[Report], list[Refused]]:
    """The messages that wait at the servers, oldest first at each; a server that does not answer has none.

    Whoever reaches a server can write to it: what no actor of the training `training_id`, none of which makes more than
    `most_steps` environment steps, can have sent is refused.

    A server that dies while it sends makes this wait without an end: a process that calls it needs a watchdog.
    """
    found: list[Report] = []
    refused: list[Refused] = []
    for client in clients:
        try:
            waiting = client.server_info(timeout=TIMEOUT_S)[TABLE].current_size
            if not waiting:
                continue
            samples: Any = client.sample(TABLE, waiting, emit_timesteps=False, unpack_as_table_signature=True)
            for sample in samples:
                report = _report(sample.data, training_id, most_steps)
                (found if isinstance(report, Report) else refused).append(report)  # pyright: ignore[reportArgumentType]
        # A message of another shape is a ValueError, and ends the reading of its batch.
        except (reverb.ReverbError, RuntimeError, ValueError):
            continue
    return found, refused


def _report(data: dict[str, np.ndarray], training_id: int, most_steps: int) -> Report | Refused:
    *counts, ended = data["counts"].tolist()
    report = Report(*counts, finished=[])
    episodes = data["episodes"][: max(ended, 0)]
    reason = None
    if report.training_id != training_id:
        reason = "it is of another training"
    elif min(counts) < 0 or ended < 0:
        reason = "a count is negative"
    elif report.actor >= MOST_ACTORS or not 0 < report.life < 2**31:
        reason = "no actor has this number, or this life"
    elif report.env_steps > most_steps:
        reason = "it tells of more steps than the training has"
    elif report.episodes > report.env_steps or ended > EPISODES:
        reason = "it tells of more episodes than it can"
    elif not np.isfinite(episodes).all() or (episodes[:, 1] < 1).any():
        reason = "an episode's return or length is no number"
    if reason is not None:
        return Refused(report.actor, reason)
    finished = [(episode_return, int(length)) for episode_return, length in episodes.tolist()]
    return report._replace(finished=finished)
