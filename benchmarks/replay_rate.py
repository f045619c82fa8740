"""Windows a second into and out of a replay server, beside Reverb's client as its manual has it, and at its best."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from binaries import flags as program_flags
from pipeline.types import UserError

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.rows import Rows
    from pipeline.types import Data, Step

LANES = 16
STEPS = 64
"""of all lanes, made beforehand and written over and over"""
PENDING = 32
"""items that the bare client leaves unconfirmed, as ours does"""
TIMEOUT_MS = 60_000
WARM_UP_S = 1.0
START_S = 60.0
OURS = "ours"
BARE = "bare"
"""a writer for each lane, rows as they are with a column for each leaf, windows that refer to them"""
LIMIT = "limit"
"""our items, from rows that were packed beforehand, by Reverb's calls alone; read as they lie in the table"""


class Work(NamedTuple):
    """What an item holds."""

    shape: tuple[int, ...]
    """of an observation: f32 where it is a vector, uint8 where it is an image"""
    memory: str
    window: int
    size: int
    """windows in each table"""
    batches: int
    """of 64 windows each, that one draw holds"""

    @property
    def data(self) -> Data:
        """As an algorithm would ask for it; batches of 64 windows."""
        from pipeline.types import Data

        return Data(self.memory, self.window, batch_size=64, size=self.size, min_size=1)

    @property
    def rows(self) -> Rows:
        """The rows of DQN's actors."""
        import dm_env.specs as specs
        import numpy as np

        from agents.learner import STAMPS
        from pipeline.rows import Rows

        observation = specs.Array(self.shape, np.float32 if len(self.shape) == 1 else np.uint8)
        action = specs.DiscreteArray(4, np.int32)
        return Rows(observation, action, {name: specs.Array((), np.int32) for name in STAMPS})


WORKS = {
    "vectors_prioritized": Work((4,), "prioritized", 11, 20_000, 16),
    "vectors_uniform": Work((4,), "uniform", 11, 20_000, 16),
    "images_prioritized": Work((84, 84, 4), "prioritized", 2, 4_000, 2),
    "images_uniform": Work((84, 84, 4), "uniform", 2, 4_000, 2),
}

flags.DEFINE_multi_enum("work", list(WORKS), list(WORKS), "what to measure")
flags.DEFINE_integer("turns", 5, "measurements of each, taken in turn; the median of their ratios counts")
flags.DEFINE_float("seconds", 3.0, "of one measurement")


def signature(work: Work) -> dict[str, tf.TensorSpec]:
    """Columns of an item."""
    from servers import tables

    return tables.signature(work.rows, work.window, LANES if _memory(work).blocks else None)


def _bare(work: Work) -> dict[str, tf.TensorSpec]:
    """Columns of a window of one lane: a leaf each."""
    import tensorflow as tf
    import tree

    leaves = tree.flatten_with_path(work.rows.spec)
    return {_name(path): tf.TensorSpec([work.window, *spec.shape], spec.dtype, _name(path)) for path, spec in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _windows(work: Work) -> int:
    """That one of our items holds."""
    return LANES if _memory(work).blocks else 1


def _memory(work: Work) -> Any:
    from servers.memory.registry import MEMORIES

    return MEMORIES.get(work.memory)()


def serve(name: str, scratch: str, pipe: Connection) -> None:
    """In a process of its own: a table for either client, until the other end of `pipe` is closed."""
    import reverb

    from servers import tables

    work = WORKS[name]
    memory = _memory(work)
    served = [memory.table(table, work.data, LANES, signature(work)) for table in (OURS, LIMIT)]
    # Its items are windows of one lane.
    bare = reverb.Table(
        BARE,
        memory.sampler(),
        reverb.selectors.Fifo(),
        work.size,
        memory.limiter(work.size, None),
        signature=_bare(work),
    )
    server = tables.serve([*served, bare], Path(scratch))
    pipe.send(server.port)
    with contextlib.suppress(EOFError):
        pipe.recv()
    server.stop()


@contextlib.contextmanager
def served(name: str) -> Iterator[str]:
    """The address of a server of these tables."""
    context = multiprocessing.get_context("spawn")
    own, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as scratch:
        process = context.Process(target=serve, args=(name, scratch, theirs), daemon=True)
        process.start()
        theirs.close()
        if not own.poll(START_S):
            raise UserError(f"The replay server said nothing for {START_S:.0f} s.")
        yield f"localhost:{own.recv()}"
        own.close()
        process.join(START_S)


def steps_of(work: Work) -> list[Step]:
    """Steps of all lanes; images are noise, which does not compress."""
    import numpy as np

    from agents.learner import STAMPS
    from pipeline.types import Step

    rng = np.random.default_rng(0)

    def observation() -> np.ndarray:
        shape = (LANES, *work.shape)
        return rng.normal(size=shape).astype(np.float32) if len(shape) == 2 else rng.integers(0, 256, shape, np.uint8)

    zeros, never = np.zeros(LANES, np.int32), np.zeros(LANES, bool)
    ones = np.ones(LANES, np.float32)
    extras = dict.fromkeys(STAMPS, zeros)
    return [Step(observation(), zeros, ones, ones, never, never, extras) for _ in range(STEPS)]


def our_insert(work: Work, address: str) -> Callable[[], int]:
    """Writes steps as an actor does; returns how many windows it wrote."""
    import reverb

    from pipeline.writer import Writer

    blocks = _memory(work).blocks
    writer = Writer([reverb.Client(address)], OURS, work.rows, LANES, work.window, 1, blocks)
    steps = steps_of(work)

    def insert() -> int:
        for step in steps:
            writer.append(step)
        return STEPS * LANES

    return insert


def bare_insert(work: Work, address: str) -> Callable[[], int]:
    """See `BARE`."""
    import reverb
    import tree

    client, window = reverb.Client(address), work.window
    writers: list[Any] = [client.trajectory_writer(num_keep_alive_refs=window) for _ in range(LANES)]
    steps = [{_name(path): leaf for path, leaf in tree.flatten_with_path(step)} for step in steps_of(work)]

    def insert() -> int:
        for step in steps:
            for lane, writer in enumerate(writers):
                writer.append({name: leaf[lane] for name, leaf in step.items()})
                if writer.episode_steps >= window:
                    writer.create_item(BARE, 1.0, {name: column[-window:] for name, column in writer.history.items()})
                writer.flush(block_until_num_items=PENDING)
        return STEPS * LANES

    return insert


def limit_insert(work: Work, address: str) -> Callable[[], int]:
    """See `LIMIT`."""
    import numpy as np
    import reverb

    rows, window = work.rows, work.window
    blocks, whole = _memory(work).blocks, rows.stored_whole(work.window)
    packed = [rows.pack(step) for step in steps_of(work)]
    names = list(rows.columns())
    kept = 1 if whole else window
    writer: Any = reverb.Client(address).trajectory_writer(num_keep_alive_refs=kept)
    for name in names:
        for path in [(name,)] if blocks or whole else [(name, lane) for lane in range(LANES)]:
            writer.configure(path, num_keep_alive_refs=kept, max_chunk_length=1)
    if whole:
        items = [
            {name: np.stack([packed[(at + row) % STEPS][name] for row in range(window)]) for name in names}
            for at in range(STEPS)
        ]
        lanes = [{n: np.ascontiguousarray(v[:, lane]) for n, v in items[0].items()} for lane in range(LANES)]
    else:
        items, lanes = [], []
        for columns in packed[:window]:
            writer.append(columns if blocks else {name: list(columns[name]) for name in names})
    rowwise = packed if blocks else [{name: list(columns[name]) for name in names} for columns in packed]

    def insert() -> int:
        for step in range(STEPS):
            if whole:
                for item in [items[step]] if blocks else lanes:
                    writer.append(item)
                    writer.create_item(LIMIT, 1.0, {name: writer.history[name][-1] for name in names})
            else:
                writer.append(rowwise[step])
                history = writer.history
                for lane in [None] if blocks else range(LANES):
                    column = {n: history[n] if lane is None else history[n][lane] for n in names}
                    writer.create_item(LIMIT, 1.0, {name: column[name][-window:] for name in names})
            writer.flush(block_until_num_items=PENDING)
        return STEPS * LANES

    return insert


def our_sample(work: Work, address: str) -> Callable[[], int]:
    """Reads draws as a learner does; returns how many windows it read."""
    from pipeline.dataset import dataset

    draws = iter(
        dataset(
            [address],
            OURS,
            work.rows,
            work.data,
            _memory(work),
            lanes=LANES,
            signature=signature(work),
            batches=work.batches,
            replicas=1,
            timeout_ms=TIMEOUT_MS,
        )
    )
    return lambda: bool(next(draws)) * work.batches * work.data.batch_size


def bare_sample(work: Work, address: str) -> Callable[[], int]:
    """See `BARE`."""
    return _read(work, address, BARE, _bare(work), 1)


def limit_sample(work: Work, address: str) -> Callable[[], int]:
    """See `LIMIT`."""
    return _read(work, address, LIMIT, signature(work), _windows(work))


def _read(work: Work, address: str, table: str, columns: dict[str, tf.TensorSpec], windows: int) -> Callable[[], int]:
    """Reads as many windows at once as a draw of ours holds, by Reverb's own dataset."""
    import reverb
    import tensorflow as tf

    memory, count = _memory(work), work.batches * work.data.batch_size
    options = tf.data.Options()
    options.autotune.enabled = False
    source = reverb.TrajectoryDataset(
        server_address=address,
        table=table,
        dtypes={name: spec.dtype for name, spec in columns.items()},
        shapes={name: spec.shape for name, spec in columns.items()},
        max_in_flight_samples_per_worker=memory.in_flight(count // windows),
        num_workers_per_iterator=memory.workers,
        rate_limiter_timeout_ms=TIMEOUT_MS,
    )
    batches = iter(source.batch(count // windows, drop_remainder=True).with_options(options))
    return lambda: bool(next(batches)) * count


def rate(call: Callable[[], int], seconds: float) -> float:
    """Windows a second."""
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        count += call()
    return count / (time.monotonic() - begin)


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    turns, seconds = flags.FLAGS.turns, flags.FLAGS.seconds
    ways = {"insert": (our_insert, bare_insert, limit_insert), "sample": (our_sample, bare_sample, limit_sample)}
    print(f"{'windows/s':<28} {'ours':>21} {'bare':>9} {'limit':>9}   of bare   of limit   median of {turns} turns")
    for name in flags.FLAGS.work:
        work = WORKS[name]
        window_bytes = work.window * work.rows.row_bytes()
        with served(name) as address:
            for what, makers in ways.items():
                calls = [make(work, address) for make in makers]
                for call in calls:
                    rate(call, WARM_UP_S)
                rates = [[rate(call, seconds) for call in calls] for _ in range(turns)]
                ours, bare, limit = (statistics.median(column) for column in zip(*rates, strict=True))
                of_bare, of_limit = (statistics.median(row[0] / row[i] for row in rates) for i in (1, 2))
                print(
                    f"{name:<20} {what:<7} {ours:>9,.0f} {ours * window_bytes / 1e9:>6.3f} GB/s {bare:>9,.0f}"
                    f" {limit:>9,.0f} {of_bare:>9.2f} {of_limit:>10.2f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    program_flags.main(main)
