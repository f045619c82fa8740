"""From what an algorithm asks for to a Reverb server: signature, memory budget, table, server."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import reverb
import tensorflow as tf
from reverb.platform.default import checkpointers

from pipeline.rows import Rows
from pipeline.types import Data, UserError
from servers.memory.memory import Memory

TABLE = "experience"
TIMEOUT_S = 5
"""for a server to say what it holds"""
CGROUP = Path("/sys/fs/cgroup")
"""where a container's limits stand"""
OVERHEAD = 1.5
"""resident bytes per byte of rows, measured: keys, chunks and allocator"""
ITEM_BYTES = 1000
"""resident bytes per item beside its rows, measured: item, chunk headers, priority tree"""
ROLLOUT_COPIES = 12
"""resident bytes per byte of a rollout that one process acts in, keeps and learns from, measured: 10 to 14"""


def signature(rows: Rows, window: int, lanes: int | None) -> dict[str, tf.TensorSpec]:
    """Columns of one item of `window` rows and their history: [rows, lanes, ...], or [rows, ...] of one lane."""
    leading = [rows.history + window] if lanes is None else [rows.history + window, lanes]
    return {name: tf.TensorSpec([*leading, *spec.shape], spec.dtype, name) for name, spec in rows.columns().items()}


def budget(data: Data, memory: Memory, rows: Rows, lanes: int, replicas: int | None = None) -> int:
    """Resident bytes that the full table is expected to take.

    `replicas`: of a learner in the same process. It takes a rollout for each of them from a queue as soon as they are
    there, so that no others are held; what is learnt from them counts too.
    """
    if memory.on_policy and replicas is not None:
        return replicas * lanes * (rows.history + data.window) * rows.row_bytes() * ROLLOUT_COPIES
    items = memory.items(data, lanes)
    windows = items * lanes if memory.blocks else items
    # Large windows share their rows: `period` rows are kept for each of them.
    shared = not memory.on_policy and not rows.stored_whole(data.window)
    kept = windows * (data.period if shared else rows.history + data.window)
    return int(kept * rows.row_bytes() * OVERHEAD) + items * ITEM_BYTES


def free_memory() -> int:
    """Bytes that are free on this machine, and in the container that this process may be in."""
    free = psutil.virtual_memory().available
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def check_budget(needed: int, setting: str, value: int) -> None:
    """Raises UserError where `needed` bytes exceed what is free; they grow with `setting`, which is `value`."""
    free = free_memory()
    if needed > free:
        fit = value * free // needed
        advice = f"make {setting} smaller, which is {value:,} (at most {fit:,} fit)"
        if not fit:
            advice = f"make states smaller, by the environment's settings or a wrapper (no {setting} fits)"
        raise UserError(
            f"The replay needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are free: {advice}."
        )


def serve(
    served: Sequence[reverb.Table], scratch: Path, contents: Path | None = None, port: int | None = None
) -> reverb.Server:
    """Starts a Reverb server of these tables in this process, with `contents` (a Reverb checkpoint) where given.

    Its checkpoints are written below `scratch`. It listens on all interfaces, without authentication.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    checkpointer = checkpointers.DefaultCheckpointer(
        str(scratch), fallback_checkpoint_path=None if contents is None else str(contents)
    )
    return reverb.Server(served, port=port or None, checkpointer=checkpointer)
