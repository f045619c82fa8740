"""A long run of several processes with a full replay: whether memory grows, and whether inserting becomes slower."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from absl import flags

from benchmarks import fleet
from binaries import flags as program_flags
from binaries import settings
from binaries.processes import Process, stop_all
from pipeline.types import RunError
from servers.ports import free_ports

if TYPE_CHECKING:
    import reverb

    from pipeline.types import Step
    from pipeline.writer import Writer

HPARAMS = "dqn_cartpole"
ACTORS = 2
OVERRIDES = (
    "DQN.replay_size = 20_000",
    "Learner.updates_per_step = 0.02",
    "Experiment.eval_period = 100_000",
    "Experiment.checkpoint_period = 20.0",
    "Experiment.replay_checkpoint_period = 20.0",
)
"""so little is learnt from a step that the limiter never holds the actors back: what an insert takes is the server's"""
FOREVER = 1_000_000_000
SETTLE_S = 120.0
"""after the table is full, for caches and allocators to fill"""
PROBE_S = 0.5
"""between two inserts that are timed"""
START_S = 180.0

flags.DEFINE_float("minutes", 30.0, "that are measured, after the table is full")
flags.DEFINE_float("window", 3.0, "minutes at the beginning and at the end that are compared")


class Probe:
    """An actor beside the run's own, of one lane: it writes a window and waits for the server's word."""

    def __init__(self, words: list[str], client: reverb.Client):
        import dm_env.specs
        import numpy as np
        import tree

        from binaries.experiment import Plan
        from pipeline.writer import Writer
        from servers import tables

        settings.apply(program_flags.parse(["soak", *words]).settings)
        plan = Plan("local")
        data = plan.data

        def zeros(spec: dm_env.specs.Array) -> np.ndarray:
            return np.zeros([1, *spec.shape], spec.dtype)

        step: Any = tree.map_structure(zeros, plan.rows.spec)
        self._step: Step = step
        self._writer: Writer = Writer([client], tables.TABLE, plan.rows, 1, data.window, 1, plan.memory.blocks)
        for _ in range(data.window):
            self.seconds()

    def seconds(self) -> float:
        """From the writing of an item to the word that the table holds it."""
        begin = time.monotonic()
        self._writer.append(self._step)
        self._writer.flush()
        return time.monotonic() - begin


def megabytes(train: Process) -> dict[str, float]:
    """Resident memory of each process of the run."""
    found = {}
    for process in [psutil.Process(train.pid), *psutil.Process(train.pid).children(recursive=True)]:
        words = process.cmdline()
        name = next((word.rpartition(".")[2] for word in words if word.startswith("binaries.")), words[0])
        number = next((word.rpartition("=")[2] for word in words if word.startswith("--actor_id=")), "")
        found[f"{name} {number}".strip()] = process.memory_info().rss / 2**20
    return found


def stand_back(train: Process) -> None:
    """Lets the actors, who take what cores there are, wait for everybody else: else an insert waits for theirs."""
    for process in psutil.Process(train.pid).children():
        if "binaries.actor" in process.cmdline():
            process.nice(19)


def main(argv: list[str]) -> int:
    flags.FLAGS(argv)
    seconds, window = 60 * flags.FLAGS.minutes, 60 * flags.FLAGS.window
    import reverb

    from servers import tables

    (port,) = free_ports(1)
    words = [*fleet.settings(HPARAMS, OVERRIDES), f"--train_steps={FOREVER}"]
    memory: list[tuple[float, dict[str, float]]] = []
    latency: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given = [f"--num_workers={ACTORS}", f"--port={port}", f"--output_dir={folder / 'run'}", "--quiet"]
        train = Process("binaries.train", [*words, *given], folder / "train.log")
        try:
            client = reverb.Client(f"localhost:{port}")
            probe = None
            deadline = time.monotonic() + START_S
            full = begin = 0.0
            said = time.monotonic()
            while not begin or time.monotonic() - begin < seconds:
                if train.code is not None:
                    raise RunError(f"The run ended: {train.last_line()}")
                time.sleep(PROBE_S)
                if not begin:
                    try:
                        info = client.server_info(timeout=5)[tables.TABLE]
                    except (reverb.ReverbError, RuntimeError):
                        info = None
                    if info is not None and info.current_size == info.max_size and not full:
                        full = time.monotonic()
                        probe = Probe(words, client)
                        stand_back(train)
                    if full and time.monotonic() - full > SETTLE_S:
                        begin = time.monotonic()
                    elif not full and time.monotonic() > deadline:
                        raise RunError(f"The replay was not full after {START_S:.0f} s.")
                    continue
                assert probe is not None
                now = time.monotonic() - begin
                latency.append((now, probe.seconds()))
                memory.append((now, megabytes(train)))
                if time.monotonic() - said > 60.0:
                    said = time.monotonic()
                    sizes = " ".join(f"{name} {size:,.0f}" for name, size in memory[-1][1].items())
                    insert = 1000 * statistics.median(taken for at, taken in latency if at > now - 60.0)
                    print(f"{now / 60:5.1f} min, insert {insert:.2f} ms, MiB: {sizes}", flush=True)
            inserted = fleet.inserted(client)
        finally:
            stop_all([train])
    print(
        f"{inserted:,} items inserted, {len(latency):,} timed; first and last {flags.FLAGS.window:g} minutes (medians)"
    )
    for name in memory[0][1]:
        first = statistics.median(sizes[name] for now, sizes in memory if now < window)
        last = statistics.median(sizes[name] for now, sizes in memory if now > seconds - window)
        print(f"{name:<16} {first:>8,.0f} MiB {last:>8,.0f} MiB {last / first - 1:>+7.1%}")
    first = 1000 * statistics.median(taken for now, taken in latency if now < window)
    last = 1000 * statistics.median(taken for now, taken in latency if now > seconds - window)
    print(f"{'insert':<16} {first:>8.2f} ms  {last:>8.2f} ms  {last / first - 1:>+7.1%}")
    return 0


if __name__ == "__main__":
    program_flags.main(main)
