"""Several replay servers are one replay: rows are spread over them, and draws are as if all lay in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import reverb
import tensorflow as tf

import pipeline.rows
import pipeline.writer
from pipeline.dataset import Shares
from pipeline.waiting import StallError
from pipeline.writer import Writer
from servers import tables
from servers.memory.prioritized import Prioritized
from servers.memory.uniform import Uniform
from tests.pipeline.helpers import SCRIPTS, LaneQueue, Stream, expected_items

Serve = Callable[[reverb.Table], reverb.Server]
LANES = len(SCRIPTS)


@pytest.fixture(autouse=True, params=[pipeline.rows.WHOLE, 0], ids=["whole", "shared"])
def _stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lie whole in the table, or share their rows; what is read is the same."""
    monkeypatch.setattr(pipeline.rows, "WHOLE", request.param)


@pytest.mark.parametrize("n", [1, 3])
def test_every_window_is_written_once_and_all_servers_hold_alike_much(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr(pipeline.writer, "TURN", 10)
    stream = Stream(serve, LaneQueue(), n=n, servers=3)
    stream.write(90)
    held = [stream.stored(server) for server in range(3)]
    every = [window[0] for items in held for item in items for window in item]
    expected = [window[0] for item in expected_items(SCRIPTS, n, 1, 90, blocks=False) for window in item]
    assert Counter(every) == Counter(expected)
    sizes = [len(items) for items in held]
    assert max(sizes) - min(sizes) <= 10 * LANES


def test_a_server_that_is_gone_is_left_and_used_again_when_it_is_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.writer, "TURN", 10)
    monkeypatch.setattr(pipeline.writer, "PENDING", 2)
    stream = Stream(serve, Uniform(), n=2, servers=2)
    stream.write(30)
    monkeypatch.setattr(pipeline.writer, "PATIENCE_MS", 200)
    before = stream.table_size(1)
    port = stream.servers[0].port
    stream.servers[0].stop()
    stream.write(40)
    alone = stream.table_size(1) - before
    assert alone > 30, "The other server takes every window, but those that were on their way."
    stream.servers[0] = tables.serve([stream.table()], tables.Path("unused"), port=port)
    while stream.table_size(0) <= 50:
        stream.write(10)
    stream.servers[0].stop()


def test_where_no_server_answers_the_writer_gives_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(serve, Uniform(), servers=2)
    stream.write(10)
    for server in stream.servers:
        server.stop()
    monkeypatch.setattr(pipeline.writer, "PATIENCE_MS", 200)
    stream.give_up_after(1.0)
    with pytest.raises(StallError, match="The actor waits for the replay server"):
        stream.write(pipeline.writer.PENDING * 4)


def filled(serve: Serve, memory: Uniform | Prioritized, rows: tuple[int, ...]) -> Stream:
    """Servers that hold the windows of so many `rows` each, all with priority 1."""
    stream = Stream(serve, memory, servers=len(rows), batch_size=60)
    for client, count in zip(stream.clients, rows, strict=True):
        stream.writer = Writer([client], tables.TABLE, stream.rows, LANES, 2, 1, memory.blocks)
        stream.actor._writer = stream.writer
        stream.write(count)
    return stream


def test_draws_follow_what_the_servers_hold(serve: Serve) -> None:
    stream = filled(serve, Uniform(), (11, 31, 1))
    shares = Shares(3)
    shares.items.assign([10.0, 30.0, 0.0])
    draws = iter(stream.draws(batches=10, alive=[0, 1], shares=shares))
    counts = np.bincount(np.concatenate([next(draws).shard.numpy() for _ in range(20)]), minlength=3)
    # 2,000 items, three quarters from the second: five standard deviations are 97.
    assert counts.sum() == 20 * 10 * 60 // LANES
    assert abs(counts[1] - 0.75 * counts.sum()) < 5 * np.sqrt(counts.sum() * 0.75 * 0.25)
    assert counts[2] == 0
    draw = next(draws)
    np.testing.assert_allclose(draw.correction.numpy(), 1.0, rtol=1e-6)


def test_draws_follow_priorities_and_their_weights_undo_that(serve: Serve) -> None:
    stream = filled(serve, Prioritized(exponent=0.5), (21, 21))
    sizes = [stream.table_size(server) for server in range(2)]
    keys: set[int] = set()
    while len(keys) < sizes[1]:
        keys |= {item.key for item in stream.items(1)}
    # Every item of the second server counts three times as much as one of the first.
    stream.clients[1].mutate_priorities(tables.TABLE, updates=dict.fromkeys(keys, 9.0))
    shares = Shares(2)
    shares.items.assign([float(size) for size in sizes])
    draws = iter(stream.draws(batches=10, alive=[0, 1], shares=shares))
    for _ in range(3):
        next(draws)  # tells how large priorities are
    np.testing.assert_allclose(shares.means.numpy(), [1.0, 3.0])
    found = [next(draws) for _ in range(20)]
    shard = np.concatenate([draw.shard.numpy() for draw in found])
    expected = sizes[1] * 3 / (sizes[0] + sizes[1] * 3)
    assert abs(shard.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(shard))
    correction = np.concatenate([draw.correction.numpy().ravel() for draw in found])
    # 1 / (N P(i)), with P(i) = sqrt(p_i) / sum of all sqrt(p).
    total = sizes[0] + 3 * sizes[1]
    for server, weight in enumerate((1.0, 3.0)):
        np.testing.assert_allclose(correction[shard == server], total / (sum(sizes) * weight), rtol=1e-5)


def test_shares_are_of_those_alive_only() -> None:
    shares = Shares(3)
    shares.items.assign([5.0, 0.0, 15.0])
    shares.means.assign([1.0, 9.0, 2.0])
    np.testing.assert_allclose(shares.now().numpy(), [5 / 35, 0.0, 30 / 35])
    assert isinstance(shares.items, tf.Variable)
