"""Writes rows to a Reverb table, as windows or as rollouts. No arithmetic: returns are the learner's."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import reverb

from pipeline.rows import Rows
from pipeline.types import RunError, Step

PENDING = 32
"""items that may wait for the server's word before appending waits too; Reverb complains past 50"""
TIMEOUT_MS = 30_000


class WriterError(RunError):
    """The replay server did not take what was written."""


class Writer:
    """Writes rows of E lanes; an item is a window of consecutive rows.

    Windows run on across the end of an episode: a return is cut where `last` is set, and what follows counts for
    nothing. So every row that is not LAST starts exactly one window (with period 1), and the n - 1 windows at an
    episode's end wait for the next episode's rows.

    With `blocks`, an item holds all lanes over the same time steps: {column: [window, E, ...]}. Else an item is one
    lane's window, {column: [window, ...]}, with a priority of its own, and none starts at a LAST row.
    """

    def __init__(
        self,
        client: reverb.Client,
        table: str,
        rows: Rows,
        lanes: int,
        window: int,
        period: int,
        blocks: bool,
    ):
        self._table = table
        self._rows = rows
        self._window = window
        self._period = period
        self._blocks = blocks
        self._count = 0
        self._recent: deque[tuple[dict[str, np.ndarray], np.ndarray]] = deque(maxlen=window)
        """columns and `last` of the rows that a window may still begin at"""
        self._writer = client.trajectory_writer(num_keep_alive_refs=window)
        self._names = list(rows.columns())
        for name in self._names:
            for path in [(name,)] if blocks else [(name, lane) for lane in range(lanes)]:
                # One row a chunk: a row can be read at once, and a sample decompresses no row that it does not hold.
                self._writer.configure(path, num_keep_alive_refs=window, max_chunk_length=1)

    def append(self, step: Step, priority: float = 1.0) -> None:
        """Writes one row of arrays [E, ...], and every window that it completes.

        Raises WriterError where the server does not answer within 30 s.
        """
        self._append(self._rows.pack(step), step.last)
        if self._count < self._window or (self._count - self._window) % self._period:
            return
        history: Any = self._writer.history
        if self._blocks:
            self._create({name: history[name][-self._window :] for name in self._names}, priority)
        else:
            for lane in np.flatnonzero(~self._recent[0][1]):
                self._create({name: history[name][lane][-self._window :] for name in self._names}, priority)
        self._wait(PENDING)

    def flush(self) -> None:
        """Returns once the server holds every window that was written; raises WriterError after 30 s."""
        self._wait(0)

    def close(self) -> None:
        """Ends the stream; windows that are not complete are dropped."""
        self._writer.close()

    def state(self) -> dict[str, Any]:
        """The rows of windows that are not complete; picklable."""
        return {"count": self._count, "recent": list(self._recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over the rows of `state`, as the first of a new writer: windows go on from them."""
        for columns, last in state["recent"]:
            self._append(columns, last)
        self._count = state["count"]

    def _append(self, columns: dict[str, np.ndarray], last: np.ndarray) -> None:
        self._writer.append(columns if self._blocks else {name: list(columns[name]) for name in self._names})
        self._recent.append((columns, last))
        self._count += 1

    def _create(self, trajectory: dict[str, object], priority: float) -> None:
        self._writer.create_item(self._table, priority, trajectory)

    def _wait(self, pending: int) -> None:
        _flush(self._writer, self._table, pending)


class RolloutWriter:
    """Collects rows of E lanes and writes them as one item, {column: [window, E, ...]}, each row once."""

    def __init__(self, client: reverb.Client, table: str, rows: Rows, lanes: int, window: int):
        self._table = table
        self._rows = rows
        self._writer = client.trajectory_writer(num_keep_alive_refs=1)
        self._columns = rows.empty((window, lanes))
        self._count = 0

    def append(self, step: Step, priority: float = 1.0) -> None:
        """Keeps one row of arrays [E, ...]; a queue knows no priorities."""
        del priority
        self._rows.pack_into(step, {name: column[self._count] for name, column in self._columns.items()})
        self._count += 1

    def end(self) -> None:
        """Writes the rollout; one that is shorter than the window repeats its final row.

        Raises WriterError where the server does not answer within 30 s.
        """
        for column in self._columns.values():
            column[self._count :] = column[self._count - 1]
        self._count = 0
        self._writer.append(self._columns)
        history: Any = self._writer.history
        self._writer.create_item(self._table, 1.0, {name: history[name][-1] for name in self._columns})
        self.flush()

    def flush(self) -> None:
        """Returns once the server holds every rollout that was written; raises WriterError after 30 s."""
        _flush(self._writer, self._table, 0)

    def close(self) -> None:
        """Ends the stream; a rollout that is not complete is dropped."""
        self._writer.close()

    def state(self) -> dict[str, Any]:
        """The rows of the rollout that is not complete; picklable."""
        return {"count": self._count, "columns": {n: c[: self._count].copy() for n, c in self._columns.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over the rows of `state`."""
        self._count = state["count"]
        for name, rows in state["columns"].items():
            self._columns[name][: self._count] = rows


def _flush(writer: reverb.TrajectoryWriter, table: str, pending: int) -> None:
    try:
        writer.flush(block_until_num_items=pending, timeout_ms=TIMEOUT_MS)
    except (reverb.DeadlineExceededError, RuntimeError) as error:
        raise WriterError(
            f"The actor waits for the replay server: table '{table}' took no items for"
            f" {TIMEOUT_MS // 1000} s ({error})."
        ) from error
