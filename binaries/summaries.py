"""TensorBoard: two folders of events, train and eval, against environment steps.

TensorBoard sorts groups of tags by name and opens the first two: `episode_return` comes before all others.
"""

from __future__ import annotations

import itertools
import os
import platform
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import tensorflow as tf
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

# Made by protoc, without types.
Event: Any = event_pb2.Event
Summary: Any = summary_pb2.Summary
FLUSH_SECONDS = 10.0
HISTOGRAMS, ADAM = "histograms", "histograms/adam_running_mean"
"""groups of tags: of what an algorithm computes, and of the running means of gradients that Adam keeps"""
_files = itertools.count()


class Summaries:
    """Collects what TensorBoard shows of a run, and writes it below the run's folder at every `flush`."""

    def __init__(self, folder: Path, env_steps: int, names: Sequence[str] = ("train", "eval")):
        """The run begins, or goes on, at `env_steps`: points after them are taken back, for it writes them again.

        `names`: of the folders of events that this process writes.
        """
        self._writers = {name: _Writer(folder / name) for name in names}
        self.drop_after(env_steps)
        self._flushed = time.monotonic()

    def drop_after(self, env_steps: int) -> None:
        """Takes back the points that were written of steps after `env_steps`."""
        for writer in self._writers.values():
            writer.drop_after(env_steps)

    def scalars(self, writer: str, step: int, values: Mapping[str, float]) -> None:
        """Shows `values` at environment step `step`."""
        self._writers[writer].add(step, *(scalar_pb(name, value) for name, value in values.items()))

    def distributions(self, writer: str, step: int, values: Mapping[str, Any]) -> None:
        """Shows a histogram of each array of `values`."""
        self._writers[writer].add(step, *(histogram_pb(name, value) for name, value in values.items()))

    def gif(self, writer: str, step: int, name: str, gif: bytes) -> None:
        """Shows an animated GIF among the images."""
        size = [str(number).encode() for number in struct.unpack("<HH", gif[6:10])]
        image = Summary()
        # What tf.summary.image writes, but that it encodes pictures of its own.
        metadata = create_summary_metadata(display_name=None, description="")
        image.value.add(tag=name, metadata=metadata, tensor=make_tensor_proto([*size, gif]))
        self._writers[writer].add(step, image)

    def hparams(self, settings: Mapping[str, Any], algo: type) -> None:
        """What TensorBoard's HParams page shows of this run, beside the scalars of 'eval'.

        The page begins with the settings that differ between runs, then goes by the alphabet: those of the algorithm
        `algo`, which have a capital, come before the others.
        """
        own = {base.__name__ for base in algo.__mro__}
        named = {name if name.partition(".")[0] in own else f"other/{name}": value for name, value in settings.items()}
        plain = {n: v if isinstance(v, bool | int | float | str) else repr(v) for n, v in named.items()}
        self._writers["eval"].add(0, hparams_pb(plain))

    def config(self, step: int, text: str) -> None:
        """Shows the operative configuration as text, among what the first folder shows."""
        # Markdown shows four spaces as code.
        next(iter(self._writers.values())).add(
            step, text_pb("config", "".join(f"    {line}\n" for line in text.splitlines()))
        )

    def due(self) -> bool:
        """Whether it is time for a `flush`, for those who watch."""
        return time.monotonic() - self._flushed > FLUSH_SECONDS

    def flush(self) -> None:
        """Writes what was collected; where the disk is full, raises OSError, and the next call writes it too."""
        self._flushed = time.monotonic()
        for writer in self._writers.values():
            writer.flush()


class _Writer:
    """A folder of event files."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._stream: Any = None
        self._pending: list[bytes] = []

    def add(self, step: int, *summaries: Any) -> None:
        """Takes one event that holds all `summaries`."""
        event = Event(wall_time=time.time(), step=step)
        for summary in summaries:
            event.summary.MergeFrom(summary)
        self._pending.append(event.SerializeToString())

    def drop_after(self, env_steps: int) -> None:
        """Removes the events after `env_steps` from the folder's files."""
        self._stream = None
        for path in self._folder.glob("events.out.tfevents.*"):
            _drop_after(path, env_steps)

    def flush(self) -> None:
        """Writes what was taken since."""
        if not self._pending:
            return
        try:
            if self._stream is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{os.getpid()}.{next(_files):04d}.v2"
                self._stream = tf.io.TFRecordWriter(str(self._folder / name))
                version = Event(wall_time=time.time(), file_version="brain.Event:2")
                self._stream.write(version.SerializeToString())
            for record in self._pending:
                self._stream.write(record)
            self._stream.flush()
        except tf.errors.OpError as error:
            # Whatever part of it is on the disk, it is written anew, to a file that begins whole.
            self._stream = None
            raise OSError(0, error.message) from error
        self._pending.clear()


def _drop_after(path: Path, env_steps: int) -> None:
    """Removes the events after `env_steps` from the file at `path`, and a last one that was cut off."""
    kept, count, records = [], 0, iter(tf.data.TFRecordDataset(str(path)))
    try:
        for record in records:
            count += 1
            event = Event()
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
