"""Items a second from a hundred actors and more at 1, 2 and 4 replay servers: simulated actors, real writers."""

from __future__ import annotations

import contextlib
import heapq
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
from absl import flags

from benchmarks import fleet
from binaries import console, settings
from binaries import flags as program_flags
from pipeline.types import RunError

if TYPE_CHECKING:
    import reverb

    from binaries.experiment import Plan
    from pipeline.types import Step

HPARAMS = "dqn_cartpole"
LANES = 4
OVERRIDES = (
    "DQN.replay_size = 200_000",
    "DQN.min_replay_size = 200_000_000",
    f"Experiment.lanes = {LANES}",
)
"""nothing may be sampled, so the limiter holds nobody back"""
TURNS = 500
"""steps of all lanes of a real actor, which the simulated ones write over and over"""
A_PROCESS = 64
"""simulated actors of one process, at most"""
RAMP_S = 4.0
"""before the measurement, in which every stream is opened and writes"""
START_S = 120.0
KEPT_UP = 0.95
"""the part of what was offered that still counts as all of it"""

flags.DEFINE_list("actors", ["16", "32", "64", "128", "192", "256"], "how many are simulated, in turn")
flags.DEFINE_list("servers", ["1", "2", "4"], "how many replay servers there are, in turn")
flags.DEFINE_float("rate", 100.0, "environment steps a second that each actor makes")
flags.DEFINE_float("seconds", 8.0, "of one measurement")
flags.DEFINE_string("figure", None, "a .svg file for the curve")


class Point(NamedTuple):
    """What was measured of so many actors at so many servers."""

    servers: int
    actors: int
    offered: float
    """items a second"""
    inserted: float
    """items a second"""
    latency_ms: float
    """median of the time that an actor spends on writing a step of all its lanes"""
    slowest_ms: float
    """its 99th percentile"""
    server_cores: float
    actor_cores: float


class Recorder:
    """Stands for a writer, and keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def append(self, step: Step, priority: float = 1.0) -> None:
        del priority
        self.steps.append(step)


def plan_of(words: list[str]) -> Plan:
    """The experiment's plan, in this process."""
    from binaries.experiment import Plan

    settings.apply(program_flags.parse(["scale", *words]).settings)
    return Plan("local")


def record(plan: Plan) -> list[Step]:
    """What a real actor writes."""
    from agents.actor import Actor, Policy

    environment, recorder, lanes = plan.environment, Recorder(), plan.lanes
    policy = Policy(plan.algo, plan.learner().params, environment.observation_spec, lanes, 0, training=True)
    writer: Any = recorder
    actor = Actor(policy, writer, environment.action_spec, lanes, plan.data)
    state: Any = environment.reset(0)
    for _ in range(TURNS):
        last_state, action = state, actor.act(state)
        state, reward, done = environment.step(action)
        actor.observe(last_state, action, reward, done, state, 1.0)
    return recorder.steps


def simulate(words: list[str], addresses: list[str], first: int, count: int, rate: float, pipe: Connection) -> None:
    """In a process of its own: so many actors, whose environments take `lanes / rate` seconds a step.

    Sends how many items there are to a recorded row, and writes. Asked for them, it sends the seconds that each write
    took since it was asked before.
    """
    console.NativeLog()
    import reverb

    from pipeline.writer import Writer
    from servers import tables

    plan = plan_of(words)
    steps, data = record(plan), plan.data
    clients = [reverb.Client(address) for address in addresses]
    writers = []
    for actor in range(first, first + count):
        turned = [*clients[actor % len(clients) :], *clients[: actor % len(clients)]]
        writers.append(
            Writer(turned, tables.TABLE, plan.rows, plan.lanes, data.window, data.period, plan.memory.blocks)
        )
    period = plan.lanes / rate
    pipe.send(float(np.mean([~step.last for step in steps])))
    begin = time.monotonic()
    due = [(begin + period * actor / count, actor, 0) for actor in range(count)]
    taken: list[float] = []
    while True:
        at, actor, turn = heapq.heappop(due)
        now = time.monotonic()
        while pipe.poll(max(at - now, 0.0)):
            if pipe.recv() == "end":
                return
            pipe.send(taken)
            taken = []
            now = time.monotonic()
        now = time.monotonic()
        writers[actor].append(steps[(turn + 7 * actor) % len(steps)])
        taken.append(time.monotonic() - now)
        # An environment goes on only when its step is written: who is late is not hurried.
        heapq.heappush(due, (max(at + period, time.monotonic() - period), actor, turn + 1))


@contextlib.contextmanager
def simulated(
    words: list[str], addresses: list[str], count: int, rate: float
) -> Iterator[tuple[dict[int, Connection], float]]:
    """`count` actors that write: by the number of each of their processes, the pipe to it; items to a row."""
    context = multiprocessing.get_context("spawn")
    started, pipes = [], []
    for first in range(0, count, A_PROCESS):
        own, theirs = context.Pipe()
        share = min(A_PROCESS, count - first)
        process = context.Process(target=simulate, args=(words, addresses, first, share, rate, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append(process)
        pipes.append(own)
    try:
        share = 0.0
        for pipe in pipes:
            if not pipe.poll(START_S):
                raise RunError(f"The simulated actors did not start within {START_S:.0f} s.")
            share = pipe.recv()
        yield {process.pid: pipe for process, pipe in zip(started, pipes, strict=True)}, share
    finally:
        for pipe in pipes:
            with contextlib.suppress(OSError):
                pipe.send("end")
        for process in started:
            process.join(10.0)
            process.kill()


def _asked(pipes: list[Connection]) -> list[float]:
    for pipe in pipes:
        pipe.send("times")
    times = []
    for pipe in pipes:
        if not pipe.poll(START_S):
            raise RunError(f"The simulated actors stood still for {START_S:.0f} s.")
        times += pipe.recv()
    return times


def _cpu(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def measure(words: list[str], servers: int, count: int) -> Point:
    """Starts servers and actors, and looks at them for a while."""
    import reverb

    rate, seconds = flags.FLAGS.rate, flags.FLAGS.seconds
    with (
        tempfile.TemporaryDirectory() as scratch,
        fleet.replay_servers(words, servers, Path(scratch)) as (
            addresses,
            processes,
        ),
    ):
        clients: list[reverb.Client] = [reverb.Client(address) for address in addresses]
        serving = [process.pid for process in processes]
        with simulated(words, addresses, count, rate) as (writing, share):
            time.sleep(RAMP_S)
            _asked(list(writing.values()))
            begin, before = time.monotonic(), sum(map(fleet.inserted, clients))
            cpu = _cpu(serving), _cpu(list(writing))
            time.sleep(seconds)
            after = sum(map(fleet.inserted, clients))
            lasted = time.monotonic() - begin
            server_cores, actor_cores = (_cpu(serving) - cpu[0]) / lasted, (_cpu(list(writing)) - cpu[1]) / lasted
            times = _asked(list(writing.values()))
    median, slowest = np.percentile(times, [50, 99]) * 1000
    return Point(
        servers, count, count * rate * share, (after - before) / lasted, median, slowest, server_cores, actor_cores
    )


def bend(points: list[Point]) -> str:
    """Up to where the servers take what the actors make."""
    kept = [p for p in points if p.inserted >= KEPT_UP * p.offered]
    most = max(points, key=lambda p: p.inserted)
    held = f"all that {kept[-1].actors} actors make" if kept else "less than the fewest actors make"
    return f"{points[0].servers} server(s): {held}; at most {most.inserted:,.0f} items/s"


def draw(points: list[Point], path: str) -> None:
    """The curve, as an .svg file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "encore"}):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        offered = sorted({p.offered for p in points})
        axes.plot(offered, offered, color="0.6", linestyle=":", label="offered")
        for count in sorted({p.servers for p in points}):
            own = [p for p in points if p.servers == count]
            label = f"{count} server{'s' if count > 1 else ''}"
            axes.plot([p.offered for p in own], [p.inserted for p in own], marker="o", label=label)
        axes.set_xlabel(f"items/s that the actors make ({flags.FLAGS.rate:g} each)")
        axes.set_ylabel("items/s that the servers take")
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    counts, numbers = [int(word) for word in flags.FLAGS.servers], [int(word) for word in flags.FLAGS.actors]
    words = fleet.settings(HPARAMS, OVERRIDES)
    figure = flags.FLAGS.figure
    print(f"{'servers':>7} {'actors':>7} {'made':>10} {'taken':>10} {'median':>9} {'99%':>9}   cores: servers  actors")
    points = []
    for servers in counts:
        for actors in numbers:
            point = measure(words, servers, actors)
            points.append(point)
            print(
                f"{point.servers:>7} {point.actors:>7} {point.offered:>8,.0f}/s {point.inserted:>8,.0f}/s"
                f" {point.latency_ms:>6.2f} ms {point.slowest_ms:>6.1f} ms {point.server_cores:>16.2f}"
                f" {point.actor_cores:>7.2f}",
                flush=True,
            )
    for servers in counts:
        print(bend([p for p in points if p.servers == servers]))
    if figure:
        draw(points, figure)
    return 0


if __name__ == "__main__":
    program_flags.main(main)
