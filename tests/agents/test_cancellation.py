"""A call that waits for data is given up in time; one that computes is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reverb
import tensorflow as tf

from agents.cancellation import cancellable
from tests.limits import LIMIT_S

SIGNATURE = tf.TensorSpec([], tf.float32)


def empty_table() -> reverb.Server:
    table = reverb.Table.queue("empty", 10, signature={"x": SIGNATURE})
    return reverb.Server([table])


def draws_of(server: reverb.Server) -> tuple[Any, Any]:
    """A dataset of the table's items, and what draws one of its iterator."""
    address = f"localhost:{server.port}"
    source = reverb.TrajectoryDataset(
        address, "empty", {"x": tf.float32}, {"x": tf.TensorShape([])}, 1, num_workers_per_iterator=1
    )
    return source, tf.function(lambda iterator: next(iterator).data["x"], autograph=False)


def test_a_draw_from_an_empty_table_is_given_up_and_the_next_iterator_draws() -> None:
    server = empty_table()
    source, draw = draws_of(server)
    iterator = iter(source)
    call = cancellable(draw.get_concrete_function(iterator), lambda: True)
    with pytest.raises(tf.errors.CancelledError):
        call(0.3, iterator)
    with reverb.Client(f"localhost:{server.port}").trajectory_writer(1) as writer:
        writer.append({"x": np.float32(7.0)})
        history: Any = writer.history
        writer.create_item("empty", 1.0, {"x": history["x"][-1]})
        writer.flush(timeout_ms=int(1000 * LIMIT_S))
    assert call(LIMIT_S, iter(source)).numpy() == 7.0
    server.stop()


def test_a_draw_that_waits_hears_that_the_process_was_asked_to_stop() -> None:
    server = empty_table()
    source, draw = draws_of(server)
    iterator = iter(source)
    call = cancellable(draw.get_concrete_function(iterator), lambda: True, stop=lambda: True)
    with pytest.raises(tf.errors.CancelledError):
        call(10_000.0, iterator)
    server.stop()


def test_what_does_not_wait_is_left_alone() -> None:
    slow = tf.function(
        lambda: tf.while_loop(lambda i: i < 400_000, lambda i: [i + 1], [0])[0], autograph=False
    ).get_concrete_function()
    assert cancellable(slow, lambda: False)(0.0).numpy() == 400_000
