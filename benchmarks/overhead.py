"""What logging, evaluation and checkpoints cost: a training as it is by default, beside one without them."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from pipeline.index import ROOT
from pipeline.types import RunError, UserError

WORK = {"dqn_cartpole": (4_000, 34_000), "ppo_cartpole": (20_000, 220_000)}
"""environment steps of a short and of a long training; what is measured is their difference, without start and end"""
NEVER = 10**9
OFF = ";".join(
    f"Experiment.{name}={NEVER}" for name in ("log_period", "distribution_period", "eval_period", "checkpoint_period")
)

flags.DEFINE_integer("rounds", 3, "how often each is measured, in turn", lower_bound=1)


def seconds(hparams: str, steps: int, on: bool) -> float:
    """Of a whole training in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "binaries.train", f"--hparams={hparams}", f"--train_steps={steps}"]
        program += [f"--output_dir={Path(folder) / 'run'}", "--test_episodes=1", "--quiet"]
        begin = time.perf_counter()
        ended = subprocess.run(
            [*program, *([] if on else [f"--hparam_override={OFF}"])], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        if ended.returncode:
            raise RunError(f"The training of {hparams} failed; its own message stands above.")
        return time.perf_counter() - begin


def main(argv: list[str]) -> int:
    try:
        flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{str(error).splitlines()[0]}.") from error
    print(f"{'hparams':<16} {'with them':>16} {'without':>16} {'cost':>8}   median of {flags.FLAGS.rounds} rounds")
    for hparams, (short, long) in WORK.items():
        rates: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(flags.FLAGS.rounds):
            for on in (True, False):
                taken = seconds(hparams, long, on) - seconds(hparams, short, on)
                rates[on].append((long - short) / taken)
        costs = [1 - on / off for on, off in zip(rates[True], rates[False], strict=True)]
        on, off = (statistics.median(rates[which]) for which in (True, False))
        print(f"{hparams:<16} {on:>10,.0f} steps/s {off:>8,.0f} steps/s {statistics.median(costs):>8.1%}", flush=True)
    return 0


if __name__ == "__main__":
    from binaries.flags import main as run_program

    run_program(main)
