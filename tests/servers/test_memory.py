"""The kinds of memory on a real Reverb server: how often each window is sampled, what it weighs, which ones stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reverb
import tensorflow as tf

from pipeline.dataset import Draw
from pipeline.types import UserError
from servers import tables
from servers.memory.memory import Memory
from servers.memory.prioritized import Prioritized
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.limits import LIMIT_S
from tests.pipeline.helpers import SCRIPTS, Script, Stream, text

Serve = Callable[[reverb.Table], reverb.Server]
ONE_LANE = (Script((1000,), (False,)),)
PRIORITIES = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
SAMPLES = 20_000

CHI_SQUARE_BOUND = 40.0
"""of 4 degrees of freedom: P(X > x) = exp(-x / 2) (1 + x / 2), 4.3e-8 here"""


def written(serve: Serve, memory: Memory) -> Stream:
    """A table of five windows, of PRIORITIES; window i starts at step i."""
    stream = Stream(serve, memory, ONE_LANE, batch_size=SAMPLES // 20)
    stream.write(6, priorities=[1.0, *PRIORITIES.tolist()])
    return stream


def sampled(stream: Stream, batches: int = 20) -> tuple[Draw, np.ndarray]:
    """A draw, of SAMPLES samples where nothing else is said, and the number of each one's window."""
    draw: Any = next(iter(stream.draws(batches, timeout_ms=int(1000 * LIMIT_S))))
    return draw, draw.steps.observation.numpy()[:, :, 0, 1].astype(int)


def assert_frequencies(windows: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's test that SAMPLES independent samples have these probabilities."""
    assert windows.size == SAMPLES
    counts = np.bincount(windows.ravel(), minlength=5)
    expected = SAMPLES * probabilities / probabilities.sum()
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_BOUND


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_prioritized_windows_are_sampled_in_proportion_to_their_powers(serve: Serve, exponent: float) -> None:
    _, windows = sampled(written(serve, Prioritized(exponent)))
    assert_frequencies(windows, PRIORITIES**exponent)


def test_uniform_windows_are_sampled_equally_whatever_their_priorities(serve: Serve) -> None:
    _, windows = sampled(written(serve, Uniform()))
    assert_frequencies(windows, np.ones(5))


def test_new_priorities_by_key_change_the_frequencies(serve: Serve) -> None:
    stream = written(serve, Prioritized(0.6))
    draw, windows = sampled(stream)
    keys = dict(zip(windows.ravel().tolist(), draw.keys.numpy().tolist(), strict=True))
    new = PRIORITIES[::-1].copy()
    reverb.TFClient(stream.addresses[0]).update_priorities(
        tables.TABLE, tf.constant([keys[i] for i in range(5)], tf.uint64), tf.constant(new, tf.float64)
    )
    draw, windows = sampled(stream)
    assert_frequencies(windows, new**0.6)
    probabilities = new**0.6 / (new**0.6).sum()
    np.testing.assert_allclose(draw.correction.numpy(), 1 / (5 * probabilities[windows]), rtol=1e-5)


def test_a_priority_of_zero_is_never_sampled(serve: Serve) -> None:
    stream = Stream(serve, Prioritized(), ONE_LANE, batch_size=SAMPLES // 20)
    stream.write(6, priorities=[1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    assert set(np.unique(sampled(stream)[1])) == {0, 2, 3, 4}


@pytest.mark.parametrize(("beta", "final_beta"), [(0.4, 1.0), (0.5, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_importance_weights_of_what_is_sampled(serve: Serve, beta: float, final_beta: float, progress: float) -> None:
    stream = written(serve, Prioritized(0.6, beta, final_beta))
    draw, windows = sampled(stream, batches=1)
    probability = (PRIORITIES**0.6 / (PRIORITIES**0.6).sum())[windows]
    now = (1 - progress) * beta + progress * final_beta
    weight = stream.memory.weight(draw.correction, tf.constant(progress))
    assert weight.dtype == tf.float32
    np.testing.assert_allclose(weight.numpy(), (1 / (5 * probability)) ** now, rtol=1e-5)


@pytest.mark.parametrize("memory", [Uniform(), Queue()])
def test_other_memories_weigh_everything_equally(memory: Memory) -> None:
    weight = memory.weight(tf.constant([0.5, 2.0]), tf.constant(0.5))
    np.testing.assert_array_equal(weight.numpy(), np.ones(2, np.float32))


@pytest.mark.parametrize(
    ("memory", "size", "items"),
    [(Prioritized(), 12, 12), (Uniform(), 12, 4), (Uniform(), 13, 4), (Uniform(), 1, 1), (Queue(), 12, 12)],
)
def test_the_size_is_in_windows_and_of_a_queue_in_rollouts(serve: Serve, memory: Memory, size: int, items: int) -> None:
    stream = Stream(serve, memory, SCRIPTS, size=size)  # 3 lanes
    assert stream.client.server_info()[tables.TABLE].max_size == items


def test_a_full_replay_drops_its_oldest_windows(serve: Serve) -> None:
    lanes = Stream(serve, Prioritized(), ONE_LANE, size=4)
    lanes.write(11, priorities=[100.0] * 5 + [0.01] * 6)
    assert sorted(text([item.windows for item in lanes.contents()])) == ["a06 a07", "a07 a08", "a08 a09", "a09 a010"]
    blocks = Stream(serve, Uniform(), SCRIPTS[:2], size=4)
    blocks.write(5)
    assert sorted(text([item.windows for item in blocks.contents()])) == ["a02* a10 | b10 b11", "a10 a11* | b11 b12"]


def test_replays_give_their_windows_again_and_again(serve: Serve) -> None:
    for memory in (Uniform(), Prioritized()):
        stream = written(serve, memory)
        sampled(stream, batches=1)
        assert stream.table_size() == 5


@pytest.mark.parametrize(
    ("memory", "draw", "inline", "in_flight"),
    [
        (Uniform(), 32, True, 32),
        (Prioritized(), 32, True, 16),
        (Prioritized(), 1024, True, 64),
        (Prioritized(), 1024, False, 512),
        (Prioritized(), 1, True, 1),
        (Queue(), 32, False, 1),
    ],
)
def test_samples_in_flight_make_no_more_than_one_draw(memory: Memory, draw: int, inline: bool, in_flight: int) -> None:
    assert memory.in_flight(draw, inline) == in_flight
    assert memory.in_flight(draw, inline) * memory.workers <= max(draw, memory.workers)


@pytest.mark.parametrize("name", ["exponent", "beta", "final_beta"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_exponents_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"Prioritized\.{name} is {value}: it must lie in \[0, 1\]"):
        Prioritized(**{name: value})
