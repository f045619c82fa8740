"""TensorBoard's files: what a resumed run takes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from binaries.summaries import Summaries
from tests.binaries.units import curve


@pytest.mark.parametrize("cut", [0, 1, 30], ids=["whole", "cut in the last record", "cut deep"])
def test_points_after_the_checkpoint_are_taken_back_and_written_anew(cut: int, tmp_path: Path) -> None:
    summaries = Summaries(tmp_path, env_steps=0)
    summaries.config(0, "a = 1")
    for step in (10, 20, 30, 40):
        summaries.scalars("train", step, {"loss": step / 10})
    summaries.scalars("eval", 20, {"episode_return": 5.0})
    summaries.flush()
    # A process that is killed leaves half a record behind.
    (path,) = (tmp_path / "train").glob("events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    resumed = Summaries(tmp_path, env_steps=20)
    assert curve(tmp_path, "loss") == [(10, 1.0), (20, 2.0)]
    for step in (30, 40, 50):
        resumed.scalars("train", step, {"loss": -step / 10})
    resumed.flush()
    assert curve(tmp_path, "loss") == [(10, 1.0), (20, 2.0), (30, -3.0), (40, -4.0), (50, -5.0)]
    assert curve(tmp_path, "episode_return", "eval") == [(20, 5.0)]
    # One that ended well is left as it is.
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("events.*")}
    Summaries(tmp_path, env_steps=50)
    assert files.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("events.*")}.items()


def test_a_full_disk_costs_no_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summaries = Summaries(tmp_path, env_steps=0)
    summaries.scalars("train", 1, {"loss": 1.0})
    summaries.flush()
    summaries.scalars("train", 2, {"loss": 2.0})
    with monkeypatch.context() as full:

        def refuse(writer: Any) -> None:
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

        full.setattr(tf.io.TFRecordWriter, "flush", refuse)
        with pytest.raises(OSError, match="No space left on device"):
            summaries.flush()
    summaries.scalars("train", 3, {"loss": 3.0})
    summaries.flush()
    assert sorted(set(curve(tmp_path, "loss"))) == [(1, 1.0), (2, 2.0), (3, 3.0)]
