"""Environment steps a second of actor processes at a replay server without a learner: several beside one of them."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from absl import flags

from benchmarks import fleet
from binaries import flags as program_flags
from binaries import settings
from binaries.experiment import Plan
from pipeline.types import RunError

if TYPE_CHECKING:
    import reverb

ENDLESS = "Experiment.train_steps = 1_000_000_000"
UNLIMITED = ("DQN.min_replay_size = 1_000_000_000",)
"""steps: nothing may be sampled yet, so the limiter holds nobody back"""
WORKS = {"ppo_cartpole": (ENDLESS,), **dict.fromkeys(("dqn_cartpole_uniform", "dqn_cartpole"), (ENDLESS, *UNLIMITED))}
FOREVER = 1_000_000_000
START_S = 120.0
SETTLE_S = 1.0

flags.DEFINE_multi_enum("work", list(WORKS), list(WORKS), "what to measure")
flags.DEFINE_integer("actors", 2, "processes beside one", lower_bound=2)
flags.DEFINE_integer("turns", 5, "measurements of each, taken in turn; the median of their ratios counts")
flags.DEFINE_float("seconds", 8.0, "of one measurement")


def publish(plan: Plan, client: reverb.Client, count: int) -> Callable[[], None]:
    """Does the learner's part: sends weights, untrained ones, and takes what a queue holds.

    What it returns waits for `count` actors to say that they are there, and gives them steps without end to make.
    """
    import reverb

    from agents.algos.algo import acting_variables
    from servers import reports, tables
    from servers.variables import Limit, Publisher, Version

    version = Version(1, 1, updates=0, begun_at=0, env_steps=0, finished=False, max_priority=1.0)
    publisher = Publisher([client], acting_variables(plan.learner().params))
    if not publisher.publish(version, [0]):
        raise RunError("The replay server took no weights.")

    def take() -> None:
        with contextlib.suppress(reverb.ReverbError, RuntimeError):
            for _ in client.sample(tables.TABLE, num_samples=FOREVER, emit_timesteps=False):
                pass

    if plan.memory.on_policy:
        threading.Thread(target=take, daemon=True).start()

    def begin() -> None:
        lives: set[tuple[int, int]] = set()
        started = time.monotonic()
        while len(lives) < count:
            if time.monotonic() - started > START_S:
                raise RunError("The actors do not say that they are there.")
            time.sleep(fleet.POLL_S)
            found, _ = reports.read([client], version.training_id, FOREVER)
            lives |= {(report.actor, report.life) for report in found}
        limits = tuple(Limit(*life, counted=0, steps=FOREVER) for life in lives)
        publisher.publish(version._replace(limits=limits), [0])

    return begin


def rates(hparams: str, folder: Path) -> list[tuple[float, float]]:
    """Steps a second of one actor, and of several, in every turn."""
    import reverb

    count, seconds = flags.FLAGS.actors, flags.FLAGS.seconds
    words = fleet.settings(hparams, WORKS[hparams])
    with contextlib.ExitStack() as stack:
        ((address,), _) = stack.enter_context(fleet.replay_servers(words, 1, folder))
        settings.apply(program_flags.parse(["acting", *words]).settings)
        plan, client = Plan("local"), reverb.Client(address)
        begin_acting = publish(plan, client, count)
        started = stack.enter_context(fleet.actors(words, [address], count, folder))
        begin = time.monotonic()
        while any("acts in" not in process.output.read_text() for process in started):
            if time.monotonic() - begin > START_S or any(p.code is not None for p in started):
                raise RunError(f"The actors did not start: {'; '.join(p.last_line() for p in started)}")
            time.sleep(fleet.POLL_S)
        begin_acting()
        actors = [psutil.Process(process.pid) for process in started]
        stack.callback(lambda: [actor.resume() for actor in actors])
        steps = plan.rollout_steps if plan.memory.on_policy else plan.windows * plan.data.period

        def rate(running: int) -> float:
            """Of so many actors, while the others stand still."""
            for number, actor in enumerate(actors):
                actor.resume() if number < running else actor.suspend()
            time.sleep(SETTLE_S)
            begin, before = time.monotonic(), fleet.inserted(client)
            time.sleep(seconds)
            return steps * (fleet.inserted(client) - before) / (time.monotonic() - begin)

        rate(count)
        return [(rate(1), rate(count)) for _ in range(flags.FLAGS.turns)]


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    count = flags.FLAGS.actors
    print(f"{'steps/s':<22} {'1 actor':>9} {f'{count} actors':>9} {'times':>6}   median of {flags.FLAGS.turns} turns")
    for hparams in flags.FLAGS.work:
        with tempfile.TemporaryDirectory() as folder:
            found = rates(hparams, Path(folder))
        one, several = (statistics.median(column) for column in zip(*found, strict=True))
        ratio = statistics.median(b / a for a, b in found)
        print(f"{hparams:<22} {one:>9,.0f} {several:>9,.0f} {ratio:>6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    program_flags.main(main)
