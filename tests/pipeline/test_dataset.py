"""Draws are the table's windows: in shape, in order, once each from a queue, with the weights of their probability."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import reverb
import tensorflow as tf
import tree

from pipeline.dataset import Draw, check_divides
from pipeline.types import Data, UserError
from servers.memory.memory import Memory
from servers.memory.prioritized import Prioritized
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.pipeline.helpers import SCRIPTS, BlockQueue, LaneQueue, Stream, Window, expected_items, windows

Serve = Callable[[reverb.Table], reverb.Server]
LANES = len(SCRIPTS)


def batch_windows(draw: Draw) -> list[list[Window]]:
    """The windows of each of the draw's batches."""
    flat = windows(tree.map_structure(lambda leaf: tf.reshape(leaf, [-1, *leaf.shape[2:]]), draw.steps))
    size = len(flat) // len(draw.correction)
    return [flat[i : i + size] for i in range(0, len(flat), size)]


def all_windows(draw: Draw) -> list[Window]:
    return list(itertools.chain(*batch_windows(draw)))


@pytest.mark.parametrize("memory", [BlockQueue, LaneQueue])
@pytest.mark.parametrize(("batches", "replicas", "n"), [(2, 1, 2), (1, 1, 1), (3, 2, 3)])
def test_shapes(serve: Serve, memory: type[Memory], batches: int, replicas: int, n: int) -> None:
    stream = Stream(serve, memory(), n=n, batch_size=12)
    stream.write(30)
    specs = stream.draws(batches, replicas).element_spec
    draw = next(iter(stream.draws(batches, replicas)))
    batch = 12 // replicas
    assert draw.steps.observation.shape == (batches, batch, n + 1, 2)
    assert draw.steps.reward.shape == draw.steps.last.shape == (batches, batch, n + 1)
    assert draw.correction.shape == (batches, batch)
    assert draw.keys.shape == (batches * batch // (LANES if stream.memory.blocks else 1),)
    assert draw.keys.dtype == tf.uint64
    tree.map_structure(lambda spec, leaf: spec.shape.assert_is_fully_defined() or leaf.shape == spec.shape, specs, draw)


@pytest.mark.parametrize("memory", [BlockQueue, LaneQueue])
@pytest.mark.parametrize("n", [1, 2])
def test_a_queue_gives_every_window_once_and_in_order(serve: Serve, memory: type[Memory], n: int) -> None:
    stream = Stream(serve, memory(), n=n, batch_size=6)
    stream.write(41)
    items = expected_items(SCRIPTS, n, 1, 41, stream.memory.blocks)
    written = list(itertools.chain(*items))
    whole = len(written) // 12 * 12  # draws of 2 batches of 6 windows; the rest makes no draw
    got = [batch for draw in stream.draws(timeout_ms=1_000) for batch in batch_windows(draw)]
    assert [len(batch) for batch in got] == [6] * (whole // 6)
    assert list(itertools.chain(*got)) == written[:whole]
    assert stream.table_size() == 0


def test_a_queue_gives_up_little_more_than_a_batch(serve: Serve) -> None:
    stream = Stream(serve, BlockQueue(), batch_size=16 * LANES)
    stream.write(101)
    iterator = iter(stream.draws(batches=1))
    for drawn in (16, 32, 48):
        next(iterator)
        assert 100 - drawn - 4 <= stream.table_size() <= 100 - drawn


def test_replicas_share_the_batch(serve: Serve) -> None:
    stream = Stream(serve, BlockQueue(), batch_size=12)
    stream.write(9)
    draw = next(iter(stream.draws(batches=2, replicas=2)))
    assert batch_windows(draw) == [
        list(itertools.chain(*expected_items(SCRIPTS, 1, 1, 9, True)[i : i + 2])) for i in (0, 2)
    ]


def test_corrections_of_uniform_memory_are_one(serve: Serve) -> None:
    stream = Stream(serve, Uniform(), batch_size=60)
    stream.write(21)
    for draw in itertools.islice(stream.draws(), 3):
        np.testing.assert_allclose(draw.correction, np.ones([2, 60]), rtol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0])
def test_corrections_of_prioritized_memory_are_one_over_size_and_probability(serve: Serve, exponent: float) -> None:
    stream = Stream(serve, Prioritized(exponent), batch_size=64)
    priorities = [float(p) for p in np.random.default_rng(0).uniform(0.1, 5.0, 31)]
    stream.write(31, priorities)
    by_key = {item.key: item for item in stream.contents()}
    scaled = {key: item.priority**exponent for key, item in by_key.items()}
    size, total = stream.table_size(), sum(scaled.values())
    for draw in itertools.islice(stream.draws(), 2):
        expected = [total / (size * scaled[key]) for key in draw.keys.numpy().tolist()]
        np.testing.assert_allclose(np.ravel(draw.correction), expected, rtol=1e-5)


@pytest.mark.parametrize("memory", [Uniform, Prioritized])
def test_keys_stand_in_the_order_of_the_windows(serve: Serve, memory: type[Memory]) -> None:
    stream = Stream(serve, memory(), n=2, batch_size=30)
    stream.write(20)
    contents = {item.key: item.windows for item in stream.contents()}
    for draw in itertools.islice(stream.draws(), 3):
        assert list(itertools.chain(*(contents[key] for key in draw.keys.numpy().tolist()))) == all_windows(draw)


@pytest.mark.parametrize("memory", [BlockQueue, LaneQueue, Uniform, Prioritized])
def test_a_table_without_items_ends_the_iterator(serve: Serve, memory: type[Memory]) -> None:
    stream = Stream(serve, memory())
    iterator = iter(stream.draws(timeout_ms=200))

    @tf.function
    def draw() -> Draw:
        return next(iterator)

    with pytest.raises(tf.errors.OutOfRangeError):
        draw()


def test_a_new_iterator_goes_on_after_a_stall(serve: Serve) -> None:
    stream = Stream(serve, BlockQueue())
    assert list(stream.draws(timeout_ms=200)) == []
    stream.write(5)
    assert all_windows(next(iter(stream.draws()))) == list(itertools.chain(*expected_items(SCRIPTS, 1, 1, 5, True)))


@pytest.mark.parametrize(
    ("memory", "batch_size", "lanes", "replicas", "multiple"),
    [
        (Uniform(), 64, 8, 1, None),
        (Uniform(), 60, 8, 1, 8),
        (Uniform(), 8, 8, 2, 16),
        (Uniform(), 48, 8, 2, None),
        (BlockQueue(), 4, 8, 1, 8),
        (Queue(), 0, 8, 2, None),
        (Queue(), 8, 8, 1, None),
        (Queue(), 8, 8, 2, None),
        (Prioritized(), 60, 8, 1, None),
        (Prioritized(), 61, 8, 2, 2),
    ],
)
def test_a_batch_is_a_whole_number_of_items_on_each_replica(
    memory: Memory, batch_size: int, lanes: int, replicas: int, multiple: int | None
) -> None:
    data = Data("this", 2, batch_size, 1000, 1)
    if multiple is None:
        check_divides(data, memory, lanes, replicas)
        return
    with pytest.raises(UserError, match=rf"batch_size is {batch_size}: it must be a multiple of {multiple} .* this "):
        check_divides(data, memory, lanes, replicas)


@pytest.mark.parametrize(("batch_size", "replicas"), [(5, 1), (16, 1), (3, 2)])
def test_minibatches_divide_a_rollout(batch_size: int, replicas: int) -> None:
    with pytest.raises(UserError, match=rf"batch_size is {batch_size}: .* divide the 8 transitions of a "):
        check_divides(Data("queue", 2, batch_size, 16, 0), Queue(), 8, replicas)
