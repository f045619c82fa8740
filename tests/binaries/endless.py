"""A training that goes on for as long as a test needs it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from binaries.run_folder import read_progress
from tests.binaries.programs import Running, running
from tests.limits import LIMIT_S

SETTINGS = "Learner.xla=False;DQN.min_replay_size=100;Experiment.lanes=4"


@contextlib.contextmanager
def endless(folder: Path, *flags: str, inside: Sequence[str] = ()) -> Iterator[Running]:
    """`train`, once it has learnt from what it wrote into its replay."""
    command = ["--hparams=dqn_cartpole", f"--output_dir={folder}", "--train_steps=1000000000", "--quiet"]
    with running("binaries.train", *command, f"--hparam_override={SETTINGS}", *flags, inside=inside) as train:
        deadline = time.monotonic() + LIMIT_S
        while not (read_progress(folder) or {"updates": 0})["updates"]:
            assert train.process.poll() is None, train.read_rest() or train.text
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield train
