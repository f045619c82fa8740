"""TensorBoard: two folders of events, train and eval, against environment steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
import tensorflow as tf


class Summaries:
    """Writes scalars and text below a run's folder."""

    def __init__(self, folder: Path):
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in ("train", "eval")}

    def scalars(self, writer: str, step: int, values: Mapping[str, float]) -> None:
        """Writes `values` at environment step `step`."""
        with self._writers[writer].as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def config(self, step: int, text: str) -> None:
        """Shows the operative configuration as text."""
        with self._writers["train"].as_default(step=step):
            # Markdown shows four spaces as code.
            tf.summary.text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def flush(self) -> None:
        """Makes everything visible to TensorBoard."""
        for writer in self._writers.values():
            writer.flush()


def resident_megabytes() -> float:
    """This process's resident memory."""
    return psutil.Process().memory_info().rss / 2**20
