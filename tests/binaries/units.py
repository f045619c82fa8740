"""What a run left in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto import event_pb2


def results(folder: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl, oldest first."""
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def variables(folder: Path) -> dict[str, np.ndarray]:
    """Every variable of the newest checkpoint, optimizer slots and moments too."""
    reader = tf.train.load_checkpoint(str(max((folder / "checkpoints").glob("step-*")) / "learner"))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_")]
    return {name: reader.get_tensor(name) for name in names}


def curve(folder: Path, tag: str, writer: str = "train") -> list[tuple[int, float]]:
    """The points of a TensorBoard scalar, each as often as it lies in the files."""
    points = []
    for path in sorted((folder / writer).glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event: Any = event_pb2.Event()
            event.ParseFromString(record.numpy())
            points += [(event.step, float(tf.make_ndarray(v.tensor))) for v in event.summary.value if v.tag == tag]
    return points
