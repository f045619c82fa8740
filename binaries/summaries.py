"""TensorBoard: two folders of events, train and eval, against environment steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import tensorflow as tf
from tensorboard.compat.proto import event_pb2


class Summaries:
    """Writes scalars and text below a run's folder."""

    def __init__(self, folder: Path, env_steps: int | None = None):
        """Where a run resumes at `env_steps`, points after them are taken back: it writes them again."""
        folders = {name: folder / name for name in ("train", "eval")}
        if env_steps is not None:
            for path in (path for folder in folders.values() for path in folder.glob("events.out.tfevents.*")):
                _drop_after(path, env_steps)
        self._writers = {name: tf.summary.create_file_writer(str(path)) for name, path in folders.items()}

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


def _drop_after(path: Path, env_steps: int) -> None:
    """Removes the events after `env_steps` from the file at `path`, and a last one that was cut off."""
    kept, count, records = [], 0, iter(tf.data.TFRecordDataset(str(path)))
    try:
        for record in records:
            count += 1
            event: Any = event_pb2.Event()
            event.ParseFromString(record.numpy())
            if event.step <= env_steps:
                kept.append(record.numpy())
    except tf.errors.DataLossError:
        count += 1
    if len(kept) < count:
        temporary = path.with_name(f"new.{path.name}")
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for record in kept:
                writer.write(record)
        temporary.replace(path)


def resident_megabytes() -> float:
    """This process's resident memory."""
    return psutil.Process().memory_info().rss / 2**20
