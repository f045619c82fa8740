"""Which experiment a replay server serves: its settings, in a table of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

TABLE = "experiment"


def table() -> reverb.Table:
    """The table of one item."""
    return reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Fifo(),
        remover=reverb.selectors.Fifo(),
        max_size=1,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={"settings": tf.TensorSpec([1, None], tf.uint8, "settings")},
    )


def write(client: reverb.Client, settings: Mapping[str, str]) -> None:
    """Says what the server of `client` serves."""
    text = np.frombuffer(json.dumps(dict(settings)).encode(), np.uint8)
    with client.trajectory_writer(num_keep_alive_refs=1) as writer:
        writer.append({"settings": text})
        history: Any = writer.history
        writer.create_item(TABLE, 1.0, {"settings": history["settings"][-1:]})
        writer.flush(timeout_ms=10_000)


def read(client: reverb.Client) -> dict[str, str]:
    """The settings of the experiment that the server of `client` serves."""
    samples: Any = client.sample(TABLE, emit_timesteps=False, unpack_as_table_signature=True)
    (data,) = (sample.data for sample in samples)
    return json.loads(bytes(np.asarray(data["settings"]).reshape(-1)))
