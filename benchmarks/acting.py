"""Environment steps a second of actor processes at a replay server without a learner: several beside one of them."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import psutil
from absl import flags

from benchmarks import fleet
from binaries import flags as program_flags
from binaries import settings
from pipeline.types import RunError

OVERRIDES = ("DQN.replay_size = 1_000_000", "DQN.min_replay_size = 1_000_000", "Experiment.train_steps = 1_000_000_000")
"""nothing may be sampled yet, so the limiter holds nobody back"""
HPARAMS = "dqn_cartpole"
START_S = 120.0
SETTLE_S = 1.0

flags.DEFINE_integer("actors", 2, "processes beside one", lower_bound=2)
flags.DEFINE_integer("turns", 5, "measurements of each, taken in turn; the median of their ratios counts")
flags.DEFINE_float("seconds", 8.0, "of one measurement")


def publish(words: list[str], address: str) -> None:
    """Does the learner's part: sends weights, untrained ones."""
    import reverb

    from agents.algos.algo import acting_variables
    from binaries.experiment import Plan
    from servers.variables import Publisher, Version

    settings.apply(program_flags.parse(["acting", *words]).settings)
    learner = Plan("local").learner()
    version = Version(run_id=1, updates=0, env_steps=0, finished=False, max_priority=1.0)
    if not Publisher([reverb.Client(address)], acting_variables(learner.params)).publish(version, [0]):
        raise RunError(f"The replay server at {address} took no weights.")


def main(argv: list[str]) -> int:
    flags.FLAGS(argv)
    count, turns, seconds = flags.FLAGS.actors, flags.FLAGS.turns, flags.FLAGS.seconds
    import reverb
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    words = fleet.settings(HPARAMS, OVERRIDES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with fleet.replay_servers(words, 1, folder) as ((address,), _):
            publish(words, address)
            client = reverb.Client(address)
            with fleet.actors(words, [address], count, folder) as started:
                actors = [psutil.Process(process.pid) for process in started]
                begin = time.monotonic()
                while any("acts in" not in process.output.read_text() for process in started):
                    if time.monotonic() - begin > START_S or any(p.code is not None for p in started):
                        raise RunError(f"An actor did not start: {started[0].last_line()}; {started[1].last_line()}")
                    time.sleep(fleet.POLL_S)

                def rate(running: int) -> float:
                    """Steps a second of so many actors, while the others stand still."""
                    for number, actor in enumerate(actors):
                        actor.resume() if number < running else actor.suspend()
                    time.sleep(SETTLE_S)
                    begin, before = time.monotonic(), fleet.inserted(client)
                    time.sleep(seconds)
                    return (fleet.inserted(client) - before) / (time.monotonic() - begin)

                rate(count)
                rates = [(rate(1), rate(count)) for _ in range(turns)]
                for actor in actors:
                    actor.resume()
    one, several = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(b / a for a, b in rates)
    print(f"{HPARAMS}: 1 actor {one:,.0f} steps/s, {count} actors {several:,.0f} steps/s: {ratio:.2f} times")
    return 0


if __name__ == "__main__":
    program_flags.main(main)
