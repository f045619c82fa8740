"""Writes rows to Reverb, as windows or as rollouts. No arithmetic: returns are the learner's."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import reverb

from pipeline.rows import Rows
from pipeline.types import Step
from pipeline.waiting import Waiting

PENDING = 32
"""items that may wait for the server's word before appending waits too; Reverb complains past 50"""
TIMEOUT_S = 30.0
"""after which a writer that was given no `Waiting` gives up"""
PATIENCE_MS = 1000
"""that one server is waited for before the others are tried, and before something is said"""
TURN = 256
"""rows written to one server before the next one's turn comes"""


class Streams:
    """A stream of items to each of several replay servers, which take turns.

    So all of them hold alike much, however many actors there are. A server that takes nothing loses its turn to the
    next one; what it was sent reaches it when it is back.
    """

    def __init__(self, clients: Sequence[reverb.Client], table: str, kept: int, waiting: Waiting | None):
        """`kept`: rows that a new item may refer to. `waiting`: what becomes of a wait for all servers."""
        self._table = table
        self._waiting = Waiting(TIMEOUT_S) if waiting is None else waiting
        self.writers = [client.trajectory_writer(num_keep_alive_refs=kept) for client in clients]
        self._turn = 0
        self._rows = 0

    @property
    def writer(self) -> reverb.TrajectoryWriter:
        """Whose turn it is."""
        return self.writers[self._turn]

    def next_row(self) -> bool:
        """Counts a row; returns whether the turn went to another server, which knows no row before this one."""
        self._rows += 1
        if len(self.writers) == 1 or self._rows % TURN:
            return False
        self.pass_turn()
        return True

    def pass_turn(self) -> None:
        """The next server's turn."""
        self._turn = (self._turn + 1) % len(self.writers)

    def wait(self, pending: int) -> bool:
        """Returns when the server whose turn it is has confirmed all but `pending` items.

        With several servers, one that does not is left; returns whether it was. Raises StallError where none takes
        items for as long as the `Waiting` allows.
        """
        moved, said = False, ""
        while True:
            for _ in self.writers:
                try:
                    self.writer.flush(block_until_num_items=pending, timeout_ms=PATIENCE_MS)
                except (reverb.DeadlineExceededError, RuntimeError) as error:
                    said = str(error)
                    if len(self.writers) > 1:
                        self.pass_turn()
                        moved = True
                else:
                    self._waiting.over()
                    return moved
            self._waiting.on(partial(_reason, self._table, said))

    def flush(self) -> None:
        """Returns when the servers have confirmed every item; of several, one that does not answer is passed over.

        Raises StallError as `wait`.
        """
        if len(self.writers) == 1:
            self.wait(0)
            return
        for writer in self.writers:
            with contextlib.suppress(reverb.DeadlineExceededError, RuntimeError):
                writer.flush(timeout_ms=PATIENCE_MS)

    def close(self) -> None:
        """Ends the streams."""
        for writer in self.writers:
            writer.close()


class Writer:
    """Writes rows of E lanes; an item is a window of consecutive rows.

    Windows run on across the end of an episode: a return is cut where `last` is set, and what follows counts for
    nothing. So every row that is not LAST starts exactly one window (with period 1), and the n - 1 windows at an
    episode's end wait for the next episode's rows.

    With `blocks`, an item holds all lanes over the same time steps: {column: [window, E, ...]}. Else an item is one
    lane's window, {column: [window, ...]}, with a priority of its own, and none starts at a LAST row. Small windows are
    written whole, and large ones share the rows that they have in common.

    In front of a window lie the rows that its first stacks of frames reach back to (`Rows.history`).
    """

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        table: str,
        rows: Rows,
        lanes: int,
        window: int,
        period: int,
        blocks: bool,
        waiting: Waiting | None = None,
    ):
        """`clients`: of the replay servers that take turns. `waiting`: see `Streams`; without one it gives up soon."""
        self._rows = rows
        self._history = rows.history
        self._window = rows.history + window
        self._period = period
        self._blocks = blocks
        self._table = table
        self._whole = rows.stored_whole(window)
        self.items = 0
        """written by this writer"""
        self._count = 0
        """rows, with a first history of repetitions"""
        self._recent: deque[tuple[dict[str, np.ndarray], np.ndarray]] = deque(maxlen=self._window)
        """columns and `last` of the rows that a window may still begin at"""
        kept = 1 if self._whole else self._window
        self._streams = Streams(clients, table, kept, waiting)
        self._names = list(rows.columns())
        lane_by_lane = not (blocks or self._whole)
        for writer in self._streams.writers:
            for name in self._names:
                for path in [(name, lane) for lane in range(lanes)] if lane_by_lane else [(name,)]:
                    # One row a chunk: a row can be read at once, and a sample decompresses no row it does not hold.
                    writer.configure(path, num_keep_alive_refs=kept, max_chunk_length=1)

    def append(self, step: Step, priority: float = 1.0) -> None:
        """Writes one row of arrays [E, ...], and every window that it completes.

        Raises StallError where no server answers for too long.
        """
        columns = self._rows.pack(step)
        for _ in range(0 if self._count else self._history):
            self._append(columns, step.last)
        self._append(columns, step.last)
        if self._streams.next_row():
            self._repeat()
        if self._count < self._window or (self._count - self._window) % self._period:
            return
        lanes = np.flatnonzero(~self._recent[self._history][1])
        if self._whole:
            self._write_whole(lanes, priority)
        else:
            self._write_shared(lanes, priority)
        if self._streams.wait(PENDING):
            self._repeat()

    def flush(self) -> None:
        """Returns once the servers hold every window that was written; raises StallError as `append`."""
        self._streams.flush()

    def close(self) -> None:
        """Ends the streams; windows that are not complete are dropped."""
        self._streams.close()

    def state(self) -> dict[str, Any]:
        """The rows of windows that are not complete; picklable."""
        return {"count": self._count, "recent": list(self._recent)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over the rows of `state`, as the first of a new writer: windows go on from them."""
        for columns, last in state["recent"]:
            self._append(columns, last)
        self._count = state["count"]

    def _append(self, columns: dict[str, np.ndarray], last: np.ndarray) -> None:
        self._send(columns)
        self._recent.append((columns, last))
        self._count += 1

    def _repeat(self) -> None:
        """Sends the recent rows to the server whose turn has come: windows may begin at them."""
        for columns, _ in self._recent:
            self._send(columns)

    def _send(self, columns: dict[str, np.ndarray]) -> None:
        if not self._whole:
            rows = columns if self._blocks else {name: list(columns[name]) for name in self._names}
            self._streams.writer.append(rows)

    def _write_whole(self, lanes: np.ndarray, priority: float) -> None:
        writer: Any = self._streams.writer
        time_axis = 0 if self._blocks else 1
        windows = {name: np.stack([row[name] for row, _ in self._recent], time_axis) for name in self._names}
        for item in [windows] if self._blocks else ({n: windows[n][lane] for n in self._names} for lane in lanes):
            writer.append(item)
            writer.create_item(self._table, priority, {name: writer.history[name][-1] for name in self._names})
            self.items += 1

    def _write_shared(self, lanes: np.ndarray, priority: float) -> None:
        writer: Any = self._streams.writer
        columns = {name: writer.history[name] for name in self._names}
        paths = [columns] if self._blocks else [{name: columns[name][lane] for name in self._names} for lane in lanes]
        for path in paths:
            trajectory = {name: column[-self._window :] for name, column in path.items()}
            writer.create_item(self._table, priority, trajectory)
            self.items += 1


class RolloutWriter:
    """Collects rows of E lanes and writes them as one item, {column: [window, E, ...]}, each row once.

    In front of them lie the rows that their first stacks of frames reach back to, of the rollout before.
    """

    def __init__(
        self,
        clients: Sequence[reverb.Client],
        table: str,
        rows: Rows,
        lanes: int,
        window: int,
        waiting: Waiting | None = None,
    ):
        """`clients` and `waiting`: see `Writer`."""
        self._table = table
        self._rows = rows
        self._streams = Streams(clients, table, 1, waiting)
        self._history = rows.history
        self._columns = rows.empty((rows.history + window, lanes))
        self.items = 0
        """rollouts written by this writer"""
        self._count = 0
        """rows that are there, with their history"""

    def append(self, step: Step, priority: float = 1.0) -> None:
        """Keeps one row of arrays [E, ...]; a queue knows no priorities."""
        del priority
        self._rows.pack_into(step, {name: column[self._count] for name, column in self._columns.items()})
        if not self._count:
            for column in self._columns.values():
                column[1 : self._history + 1] = column[0]
            self._count = self._history
        self._count += 1

    def end(self) -> None:
        """Writes the rollout; one that is shorter than the window repeats its final row.

        Raises StallError where no server takes it for too long.
        """
        for column in self._columns.values():
            column[self._count :] = column[self._count - 1]
        writer = self._streams.writer
        writer.append(self._columns)
        # The final row's state begins the next rollout.
        for column in self._columns.values():
            column[: self._history] = column[self._count - 1 - self._history : self._count - 1].copy()
        self._count = self._history
        history: Any = writer.history
        writer.create_item(self._table, 1.0, {name: history[name][-1] for name in self._columns})
        self.items += 1
        if not self._streams.wait(0):
            self._streams.pass_turn()

    def flush(self) -> None:
        """Returns once the servers hold every rollout that was written; raises StallError as `end`."""
        self._streams.flush()

    def close(self) -> None:
        """Ends the streams; a rollout that is not complete is dropped."""
        self._streams.close()

    def state(self) -> dict[str, Any]:
        """The rows of the rollout that is not complete; picklable."""
        return {"count": self._count, "columns": {n: c[: self._count].copy() for n, c in self._columns.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over the rows of `state`."""
        self._count = state["count"]
        for name, rows in state["columns"].items():
            self._columns[name][: self._count] = rows


def _reason(table: str, said: str) -> str:
    return f"The actor waits for the replay server: table '{table}' takes no items ({said})"
