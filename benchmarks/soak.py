"""A long run of several processes with a full replay: whether memory grows, and whether inserting becomes slower.

What an insert takes depends on who else wants the cores at that moment, so each is timed beside one into a replay
server that has nothing else to do, and the two are compared.
"""

from __future__ import annotations

import contextlib
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
ALONE = "DQN.min_replay_size = 1_000_000_000"
"""of the other server: nobody samples from it, and it takes items all the same"""
FOREVER = 1_000_000_000
SETTLE_S = 120.0
"""after the table is full, for caches and allocators to fill"""
PROBE_S = 0.1
"""between two inserts that are timed"""
MEMORY_S = 1.0
"""between two looks at the processes' memory"""
START_S = 180.0

flags.DEFINE_float("minutes", 30.0, "that are measured, after the table is full")
flags.DEFINE_float("window", 3.0, "minutes at the beginning and at the end that are compared")


class Probe:
    """An actor beside the run's own, of one lane: it writes a window and waits for the server's word."""

    def __init__(self, client: reverb.Client):
        """The settings of the run are applied already."""
        import dm_env.specs
        import numpy as np
        import tree

        from binaries.experiment import Plan
        from pipeline.writer import Writer
        from servers import tables

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


class Soak:
    """A run of `train` with several actors, and what is measured beside it."""

    def __init__(self, train: Process, address: str, alone: str):
        """`address`: of the run's replay server. `alone`: of one that serves nobody else."""
        import reverb

        self._train = train
        self._client = reverb.Client(address)
        self._alone = reverb.Client(alone)
        self.memory: list[tuple[float, dict[str, float]]] = []
        """seconds since `measure` began, and MiB of each process"""
        self.latency: list[tuple[float, float, float]] = []
        """seconds since `measure` began, and what an insert took into the run's server and into the other"""

    @property
    def inserted(self) -> int:
        """Items that the run's server has taken."""
        return fleet.inserted(self._client)

    def fill(self) -> None:
        """Returns when the run's table is full; raises RunError where that takes too long."""
        import reverb

        from servers import tables

        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self._check()
            with contextlib.suppress(reverb.ReverbError, RuntimeError):
                info = self._client.server_info(timeout=5)[tables.TABLE]
                if info.current_size == info.max_size:
                    return
            time.sleep(PROBE_S)
        raise RunError(f"The replay was not full after {START_S:.0f} s.")

    def measure(self, seconds: float) -> None:
        """Times inserts and notes memory for `seconds`; says a line a minute."""
        probes = [Probe(self._client), Probe(self._alone)]
        begin = said = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            self._check()
            ours, alone = (probe.seconds() for probe in probes)
            self.latency.append((now, ours, alone))
            if not self.memory or now - self.memory[-1][0] > MEMORY_S:
                self.memory.append((now, megabytes(self._train)))
            if time.monotonic() - said > 60.0:
                said = time.monotonic()
                sizes = " ".join(f"{name} {size:,.0f}" for name, size in self.memory[-1][1].items())
                ours, alone, ratio = self.inserts(now - 60.0, now)
                line = (
                    f"{now / 60:5.1f} min, insert {ours:.2f} ms, alone {alone:.2f} ms, ratio {ratio:.2f}, MiB: {sizes}"
                )
                print(line, flush=True)
            time.sleep(PROBE_S)

    def inserts(self, begin: float, end: float) -> tuple[float, float, float]:
        """Medians from `begin` to `end`: ms of an insert into the run's server, into the other, and their ratio."""
        ours, alone = zip(*((ours, alone) for now, ours, alone in self.latency if begin <= now <= end), strict=True)
        ratio = statistics.median(ours) / statistics.median(alone)
        return 1000 * statistics.median(ours), 1000 * statistics.median(alone), ratio

    def sizes(self, name: str, begin: float, end: float) -> float:
        """Median from `begin` to `end`, MiB of one process."""
        return statistics.median(sizes[name] for now, sizes in self.memory if begin <= now <= end)

    def _check(self) -> None:
        if self._train.code is not None:
            raise RunError(f"The run ended: {self._train.last_line()}")


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    seconds, window = 60 * flags.FLAGS.minutes, 60 * flags.FLAGS.window
    (port,) = free_ports(1)
    words = [*fleet.settings(HPARAMS, OVERRIDES), f"--train_steps={FOREVER}"]
    settings.apply(program_flags.parse(["soak", *words]).settings)
    others_words = [*fleet.settings(HPARAMS, (*OVERRIDES, ALONE)), f"--train_steps={FOREVER}"]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        (alone,), _ = stack.enter_context(fleet.replay_servers(others_words, 1, folder))
        given = [f"--num_workers={ACTORS}", f"--port={port}", f"--output_dir={folder / 'run'}", "--quiet"]
        train = Process("binaries.train", [*words, *given], folder / "train.log")
        stack.callback(stop_all, [train])
        soak = Soak(train, f"localhost:{port}", alone)
        soak.fill()
        stand_back(train)
        time.sleep(SETTLE_S)
        soak.measure(seconds)
        inserted = soak.inserted
    print(f"{inserted:,} items inserted, {len(soak.latency):,} timed; first and last {flags.FLAGS.window:g} minutes")
    ends = (0.0, window), (seconds - window, seconds)
    for name in soak.memory[0][1]:
        first, last = (soak.sizes(name, *end) for end in ends)
        print(f"{name:<16} {first:>8,.0f} MiB {last:>8,.0f} MiB {last / first - 1:>+7.1%}")
    (first, first_alone, before), (last, last_alone, after) = (soak.inserts(*end) for end in ends)
    print(f"{'insert':<16} {first:>8.2f} ms  {last:>8.2f} ms")
    print(f"{'  alone':<16} {first_alone:>8.2f} ms  {last_alone:>8.2f} ms")
    print(f"{'  ratio':<16} {before:>8.2f}     {after:>8.2f}     {after / before - 1:>+7.1%}")
    return 0


if __name__ == "__main__":
    program_flags.main(main)
