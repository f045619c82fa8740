"""What a replay server belongs to: an experiment, by its settings, and a training, by its learner. A table of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import reverb
import tensorflow as tf

TABLE = "experiment"
OWNER = "training"
TIMEOUT_MS = 10_000


class Owner(NamedTuple):
    """The learner whose server it is."""

    training_id: int
    """the same in all lives of a training's learner"""
    since: int
    """seconds of Unix time"""
    run_id: int
    """of the learner's life"""


def tables() -> list[reverb.Table]:
    """Of one item each; what is written replaces what was there."""
    return [
        _table(TABLE, {"settings": tf.TensorSpec([1, None], tf.uint8, "settings")}),
        _table(OWNER, {"owner": tf.TensorSpec([1, len(Owner._fields)], tf.int64, "owner")}),
    ]


def write(client: reverb.Client, settings: Mapping[str, str]) -> None:
    """Says what the server of `client` serves."""
    _write(client, TABLE, "settings", np.frombuffer(json.dumps(dict(settings)).encode(), np.uint8))


def read(client: reverb.Client) -> dict[str, str]:
    """The settings of the experiment that the server of `client` serves; raises ValueError where they are none."""
    settings = json.loads(bytes(_read(client, TABLE, "settings").reshape(-1)))
    if not isinstance(settings, dict) or not all(isinstance(v, str) for v in settings.values()):
        raise ValueError("no settings by name")
    return settings


def write_owner(client: reverb.Client, owner: Owner) -> None:
    """Says whose the server of `client` is."""
    _write(client, OWNER, "owner", np.array(owner, np.int64))


def read_owner(client: reverb.Client) -> tuple[Owner | None, int]:
    """Whose the server of `client` is (None: nobody's yet), and how often that was written."""
    info = client.server_info(timeout=TIMEOUT_MS // 1000)[OWNER]
    written = info.rate_limiter_info.insert_stats.completed
    if not info.current_size:
        return None, written
    return Owner(*_read(client, OWNER, "owner").reshape(-1).tolist()), written


def _table(name: str, signature: dict[str, tf.TensorSpec]) -> reverb.Table:
    return reverb.Table(
        name=name,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature=signature,
    )


def _write(client: reverb.Client, table: str, column: str, value: np.ndarray) -> None:
    with client.trajectory_writer(num_keep_alive_refs=1) as writer:
        writer.append({column: value})
        history: Any = writer.history
        writer.create_item(table, 1.0, {column: history[column][-1:]})
        writer.flush(timeout_ms=TIMEOUT_MS)


def _read(client: reverb.Client, table: str, column: str) -> np.ndarray:
    samples: Any = client.sample(table, emit_timesteps=False, unpack_as_table_signature=True)
    (data,) = (sample.data for sample in samples)
    return np.asarray(data[column])
