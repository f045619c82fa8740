"""What the writer stores: exactly the windows of the episodes, refused or given up loudly where it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice

import pytest
import reverb
import tensorflow as tf

import pipeline.rows
import pipeline.writer
from pipeline.waiting import StallError
from servers import tables
from tests.pipeline.helpers import SCRIPTS, BlockQueue, LaneQueue, Script, Stream, expected_items, expected_rows, text

Serve = Callable[[reverb.Table], reverb.Server]
MEMORIES = {"blocks": BlockQueue, "lanes": LaneQueue}
A = Script((2, 1), (False, True))  # a00 a01 a02* a10 a11* a20 ...
B = Script((1, 3), (True, False))  # b00 b01* b10 b11 b12 b13* ...


@pytest.fixture(autouse=True, params=[pipeline.rows.WHOLE, 0], ids=["whole", "shared"])
def _stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lie whole in the table, or share their rows; what is read is the same."""
    monkeypatch.setattr(pipeline.rows, "WHOLE", request.param)


@pytest.mark.parametrize(
    ("memory", "n", "period", "count", "items"),
    [
        ("lanes", 1, 1, 5, ["a00 a01", "b00 b01*", "a01 a02*", "b10 b11", "a10 a11*", "b11 b12"]),
        ("lanes", 2, 1, 5, ["a00 a01 a02*", "b00 b01* b10", "a01 a02* a10", "b10 b11 b12"]),
        ("lanes", 3, 1, 5, ["a00 a01 a02* a10", "b00 b01* b10 b11", "a01 a02* a10 a11*"]),
        ("lanes", 1, 2, 6, ["a00 a01", "b00 b01*", "b10 b11", "b12 b13*"]),
        ("lanes", 2, 3, 6, ["a00 a01 a02*", "b00 b01* b10", "a10 a11* a20", "b11 b12 b13*"]),
        ("blocks", 1, 1, 3, ["a00 a01 | b00 b01*", "a01 a02* | b01* b10"]),
        ("blocks", 2, 1, 4, ["a00 a01 a02* | b00 b01* b10", "a01 a02* a10 | b01* b10 b11"]),
        ("blocks", 2, 3, 6, ["a00 a01 a02* | b00 b01* b10", "a10 a11* a20 | b11 b12 b13*"]),
        ("blocks", 3, 1, 3, []),
    ],
)
def test_episodes_become_these_items(
    serve: Serve, memory: str, n: int, period: int, count: int, items: list[str]
) -> None:
    stream = Stream(serve, MEMORIES[memory](), (A, B), n=n, period=period)
    stream.write(count)
    assert text(stream.stored()) == items


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("period", [1, 2, 5])
@pytest.mark.parametrize("memory", ["blocks", "lanes"])
def test_items_hold_every_number_of_their_rows(serve: Serve, memory: str, n: int, period: int) -> None:
    stream = Stream(serve, MEMORIES[memory](), n=n, period=period)
    stream.write(40)
    assert stream.stored() == expected_items(SCRIPTS, n, period, 40, memory == "blocks")


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("memory", ["blocks", "lanes"])
def test_a_resumed_stream_writes_the_same_items(serve: Serve, memory: str, n: int, period: int) -> None:
    stream = Stream(serve, MEMORIES[memory](), n=n, period=period)
    for count in (2, 1, 14, 23):
        stream.write(count)
        stream.resume()
    assert stream.stored() == expected_items(SCRIPTS, n, period, 40, memory == "blocks")
    assert stream.actor.env_steps == sum(not row.last for s in SCRIPTS for row in islice(expected_rows(s, 0), 40))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(1,), (1, 1, 2), (7,), (3, 1, 5)])
def test_every_state_that_is_not_final_starts_exactly_one_window(
    serve: Serve, lengths: tuple[int, ...], n: int
) -> None:
    count = 30
    script = Script(lengths, tuple(i % 2 == 0 for i in range(len(lengths))))
    stream = Stream(serve, LaneQueue(), (script, A), n=n)
    stream.write(count)
    starts = Counter(window[0] for [window] in stream.stored())
    rows = [row for lane, s in enumerate((script, A)) for row in islice(expected_rows(s, lane), count - n)]
    assert starts == Counter(row for row in rows if not row.last)


def test_the_last_row_holds_the_true_final_observation(serve: Serve) -> None:
    stream = Stream(serve, LaneQueue(), (A,))
    stream.write(30)
    endings = [window for [window] in stream.stored() if window[1].last]
    assert len(endings) == 12
    for before, last in endings:
        terminated = last.episode % 2 == 0  # A's episodes: 2 steps and terminated, 1 step and truncated
        assert (last.episode, last.step) == (before.episode, 2 if terminated else 1)
        assert before.discount == (0.0 if terminated else 1.0)
        assert (last.action, last.reward) == (0, 0.0)


def test_priorities_are_those_of_the_completing_row(serve: Serve) -> None:
    stream = Stream(serve, LaneQueue(), (A,), n=2)
    stream.write(6, priorities=[9.0, 9.0, 1.0, 2.0, 4.0, 8.0])
    items = stream.items()
    assert text([item.windows for item in items]) == ["a00 a01 a02*", "a01 a02* a10", "a10 a11* a20"]
    assert [item.priority for item in items] == [1.0, 2.0, 8.0]  # none starts at a02*


def test_windows_of_one_row_are_possible(serve: Serve) -> None:
    stream = Stream(serve, LaneQueue(), (A, B), n=0)
    stream.write(3)
    assert text(stream.stored()) == ["a00", "b00", "a01", "b10"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"packed": ([3, 2, 11], tf.int32)},
        {"packed": ([2, 3, 11], tf.int32)},
        {"packed": ([2, 2, 10], tf.int32)},
        {"packed": ([2, 2, 11], tf.float32)},
        {"packed": ([2, 2, 11], tf.int32), "image": ([2, 2, 300], tf.uint8)},
    ],
    ids=["window", "lanes", "row", "dtype", "column"],
)
def test_a_table_whose_signature_disagrees_refuses_the_items(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, tuple[list[int], tf.DType]]
) -> None:
    signature = {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in wrong.items()}
    monkeypatch.setattr(tables, "signature", lambda rows, window, lanes: signature)
    stream = Stream(serve, BlockQueue(), (A, B))
    with pytest.raises(ValueError, match="inconsistent with the table signature"):
        stream.write(3)
    assert stream.table_size() == 0


@pytest.mark.parametrize("before", [0, 5], ids=["from the start", "later"])
def test_a_dead_server_is_reported(serve: Serve, before: int) -> None:
    stream = Stream(serve, BlockQueue())
    stream.write(before)
    stream.server.stop()
    stream.give_up_after(1.0)
    with pytest.raises(StallError, match=r"table 'experience' takes no items \(.* timeout of 0:00:01\): nothing moved"):
        stream.write(3)


def test_appending_to_a_dead_server_does_not_go_on_for_ever(serve: Serve) -> None:
    stream = Stream(serve, BlockQueue())
    stream.server.stop()
    stream.give_up_after(1.0)
    with pytest.raises(StallError):
        stream.write(pipeline.writer.PENDING + 2, flush=False)


def test_a_full_queue_holds_its_size_and_makes_the_writer_wait(serve: Serve) -> None:
    stream = Stream(serve, BlockQueue(), (A,), size=4)
    stream.write(5)
    stream.give_up_after(1.0)
    with pytest.raises(StallError):
        stream.write(1)
    assert text(stream.stored())[:4] == ["a00 a01", "a01 a02*", "a02* a10", "a10 a11*"]


def test_closing_keeps_what_was_flushed(serve: Serve) -> None:
    stream = Stream(serve, BlockQueue(), (A,), n=2)
    stream.write(3)
    stream.writer.close()
    assert text(stream.stored()) == ["a00 a01 a02*"]
