"""What logging, evaluation and checkpoints cost: a training as it is by default, beside one without them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from absl import flags

from binaries import flags as program_flags
from pipeline.index import ROOT
from pipeline.types import RunError

WORK = {"dqn_cartpole": (4_000, 34_000), "ppo_cartpole": (20_000, 220_000)}
"""environment steps of a short and of a long training; what is measured is their difference, without start and end"""
NEVER = 10**9
OFF = ";".join(
    f"Experiment.{name}={NEVER}" for name in ("log_period", "distribution_period", "eval_period", "checkpoint_period")
)

POLL_S = 0.02

flags.DEFINE_integer("rounds", 2, "how often each is measured on either core", lower_bound=1)


class Measured(NamedTuple):
    """One of two trainings that run at the same time, each on a core of its own."""

    process: subprocess.Popen[bytes]
    begin: float
    """seconds, of `time.perf_counter`"""


def start(hparams: str, steps: int, on: bool, core: int, folder: str) -> Measured:
    """Starts a whole training in a process of its own."""
    program = [sys.executable, "-m", "binaries.train", f"--hparams={hparams}", f"--train_steps={steps}"]
    program += [f"--output_dir={Path(folder) / str(on)}", "--test_episodes=1", "--quiet"]
    program += [] if on else [f"--hparam_override={OFF}"]
    begin = time.perf_counter()
    return Measured(
        subprocess.Popen(
            program,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ),
        begin,
    )


def seconds(hparams: str, steps: int, cores: tuple[int, int]) -> dict[bool, float]:
    """Of the training with them (True) and of that without, which run side by side."""
    taken: dict[bool, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        running = {on: start(hparams, steps, on, core, folder) for on, core in zip((True, False), cores, strict=True)}
        try:
            while len(taken) < len(running):
                time.sleep(POLL_S)
                for on, one in running.items():
                    code = one.process.poll()
                    if code:
                        raise RunError(f"The training of {hparams} failed; its own message stands above.")
                    if code == 0 and on not in taken:
                        taken[on] = time.perf_counter() - one.begin
        finally:
            for one in running.values():
                one.process.kill()
                one.process.wait()
    return taken


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    first, second = sorted(os.sched_getaffinity(0))[:2]
    print(f"{'hparams':<16} {'with them':>16} {'without':>16} {'cost':>8}   median of {2 * flags.FLAGS.rounds} runs")
    for hparams, (short, long) in WORK.items():
        rates: dict[bool, list[float]] = {True: [], False: []}
        for cores in [(first, second), (second, first)] * flags.FLAGS.rounds:
            begun, ended = seconds(hparams, short, cores), seconds(hparams, long, cores)
            for on in rates:
                rates[on].append((long - short) / (ended[on] - begun[on]))
        costs = [1 - on / off for on, off in zip(rates[True], rates[False], strict=True)]
        on, off = (statistics.median(rates[which]) for which in (True, False))
        print(f"{hparams:<16} {on:>10,.0f} steps/s {off:>8,.0f} steps/s {statistics.median(costs):>8.1%}", flush=True)
    return 0


if __name__ == "__main__":
    program_flags.main(main)
