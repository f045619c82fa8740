"""TensorBoard: two folders of events, train and eval, against environment steps."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import tensorflow as tf
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.image import metadata as image_metadata


class Summaries:
    """Writes scalars and text below a run's folder."""

    def __init__(self, folder: Path, env_steps: int):
        """The run begins, or goes on, at `env_steps`: points after them are taken back, for it writes them again."""
        folders = {name: folder / name for name in ("train", "eval")}
        for path in (path for folder in folders.values() for path in folder.glob("events.out.tfevents.*")):
            _drop_after(path, env_steps)
        self._writers = {name: tf.summary.create_file_writer(str(path)) for name, path in folders.items()}

    def scalars(self, writer: str, step: int, values: Mapping[str, float]) -> None:
        """Writes `values` at environment step `step`."""
        with self._writers[writer].as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def distributions(self, writer: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a histogram of each array of `values`."""
        with self._writers[writer].as_default(step=step):
            for name, value in values.items():
                tf.summary.histogram(name, value)

    def gif(self, writer: str, step: int, name: str, gif: bytes) -> None:
        """Shows an animated GIF among the images."""
        width, height = struct.unpack("<HH", gif[6:10])
        # What tf.summary.image writes, but that it encodes its own pictures.
        metadata = image_metadata.create_summary_metadata(display_name=None, description="")
        with self._writers[writer].as_default(step=step):
            tf.summary.write(name, tf.constant([str(width), str(height), gif]), metadata=metadata)

    def hparams(self, settings: Mapping[str, Any]) -> None:
        """What TensorBoard's HParams page shows of this run, beside its scalars."""
        plain = {n: v if isinstance(v, bool | int | float | str) else repr(v) for n, v in settings.items()}
        with self._writers["eval"].as_default():
            hparams_api.hparams(plain)

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
