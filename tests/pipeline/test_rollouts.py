"""Rollouts on a real queue: every row exactly once and in order, and where the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Any

import pytest
import reverb
import tensorflow as tf

from pipeline.waiting import StallError
from servers.memory.queue import Queue
from tests.pipeline.helpers import SCRIPTS, Row, Script, Stream, Window, expected_rows, text, windows

Serve = Callable[[reverb.Table], reverb.Server]
A = Script((2, 1), (False, True))  # a00 a01 a02* a10 a11* a20 ...
B = Script((1, 3), (True, False))  # b00 b01* b10 b11 b12 b13* ...
LONG = Script((50,), (False,))


def as_state(row: Row) -> Row:
    """The row of a state in which no action was taken."""
    return row._replace(action=0, reward=0.0, discount=1.0)


def expected_rollouts(scripts: Sequence[Script], n: int, count: int) -> list[list[Window]]:
    """The rollouts of n steps that `count` steps of every lane complete: E windows of n + 1 rows each."""
    lanes = [list(islice(expected_rows(script, lane), count + 1)) for lane, script in enumerate(scripts)]
    rollouts, begin = [], 0
    while True:
        if all(rows[begin].last for rows in lanes):
            begin += 1
        if begin + n > count:
            return rollouts
        rollouts.append([[*rows[begin : begin + n], as_state(rows[begin + n])] for rows in lanes])
        begin += n


def episode(script: Script, lane: int, number: int, rows: int) -> Window:
    """One whole episode and LAST rows, `rows` in all; `together`, episodes of all lanes have the same numbers."""
    found = [row for row in islice(expected_rows(script, lane), 100) if row.episode == number]
    return [*found, *[found[-1]] * (rows - len(found))]


def same_discounts(rollouts: list[list[Window]]) -> list[list[Window]]:
    """With discount 1 in LAST rows, where it means nothing."""
    one = lambda row: row._replace(discount=1.0) if row.last else row  # noqa: E731
    return [[[one(row) for row in window] for window in rollout] for rollout in rollouts]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("scripts", [SCRIPTS, (A,), (A, A), (Script((3,), (False,)),)], ids=["3", "1", "2", "even"])
def test_rollouts_hold_every_number_of_their_rows(serve: Serve, scripts: Sequence[Script], n: int) -> None:
    stream = Stream(serve, Queue(), scripts, n=n)
    stream.write(40)
    expected = expected_rollouts(scripts, n, 40)
    assert stream.stored() == expected
    assert stream.actor.items == len(expected) >= 40 // (2 * n)


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("whole_episodes", [False, True])
def test_a_resumed_stream_writes_the_same_rollouts(serve: Serve, n: int, whole_episodes: bool) -> None:
    found = []
    for resumes in (False, True):
        stream = Stream(serve, Queue(), n=n, whole_episodes=whole_episodes)
        for count in (2, 1, 14, 23):
            stream.write(count)
            if resumes:
                stream.resume()
        found.append((stream.stored(), stream.actor.counters(), stream.actor.finished))
    assert found[0] == found[1]
    assert len(found[0][0]) > 2


@pytest.mark.parametrize("n", [1, 3, 4])
def test_every_row_is_written_exactly_once_and_in_order(serve: Serve, n: int) -> None:
    stream = Stream(serve, Queue(), n=n)
    found: list[list[Window]] = []
    for steps in (1, 2, 0, 13, 7, 17):
        stream.write(steps)
        found += stream.stored()
        assert stream.table_size() == 0
    for lane, script in enumerate(SCRIPTS):
        played = [row for rollout in found for row in rollout[lane][:-1] if not row.last]
        rows = [row for row in islice(expected_rows(script, lane), 40 // n * n) if not row.last]
        assert played == rows


@pytest.mark.parametrize(
    ("scripts", "n", "count", "rollouts"),
    [
        ((A, B), 2, 6, ["a00 a01 a02* | b00 b01* b10", "a02* a10 a11* | b10 b11 b12", "a11* a20 a21 | b12 b13* b20"]),
        ((A, B), 3, 6, ["a00 a01 a02* a10 | b00 b01* b10 b11", "a10 a11* a20 a21 | b11 b12 b13* b20"]),
        # The episode ends with the rollout: the next begins with the next episode.
        ((A,), 2, 7, ["a00 a01 a02*", "a10 a11* a20", "a20 a21 a22*"]),
        (
            (A,),
            1,
            5,
            [
                "a00 a01",
                "a01 a02*",
                "a10 a11*",
            ],
        ),
        ((A,), 4, 3, []),
    ],
)
def test_episodes_become_these_rollouts(
    serve: Serve, scripts: Sequence[Script], n: int, count: int, rollouts: list[str]
) -> None:
    stream = Stream(serve, Queue(), scripts, n=n)
    stream.write(count)
    assert text(stream.stored()) == rollouts


def test_the_next_rollout_begins_with_the_state_that_ended_the_one_before(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (LONG, Script((3,), (True,))), n=3)
    stream.write(30)
    found = stream.stored()
    assert len(found) == 10
    for before, after in pairwise(found):
        for lane in range(2):
            ended, begun = before[lane][-1], after[lane][0]
            assert (ended.episode, ended.step, ended.first, ended.last) == (
                begun.episode,
                begun.step,
                begun.first,
                begun.last,
            )
            assert (ended.action, ended.reward, ended.discount) == (0, 0.0, 1.0)


def test_rollouts_reach_the_learner_as_they_were_written(serve: Serve) -> None:
    stream = Stream(serve, Queue(), n=4)
    stream.write(24)
    draws = stream.draws(batches=1, timeout_ms=1_000)
    found = [windows(tf.nest.map_structure(lambda leaf: leaf[0], draw.steps)) for draw in draws]
    # The iterator ends when the queue gives nothing for a while: each rollout came once.
    assert found == expected_rollouts(SCRIPTS, 4, 24)
    assert len(found) == 6


def test_each_of_several_replicas_draws_a_whole_rollout(serve: Serve) -> None:
    stream = Stream(serve, Queue(), n=2)
    stream.write(10)
    draw: Any = next(iter(stream.draws(batches=1, replicas=2)))
    assert draw.steps.reward.shape == (1, len(SCRIPTS), 3)
    assert draw.correction.shape == (1, len(SCRIPTS))


WHOLE = (Script((2, 1, 4), (False, True, False)), Script((3, 1, 2), (True, False, True)))


def test_with_whole_episodes_every_lane_plays_exactly_one_a_rollout(serve: Serve) -> None:
    stream = Stream(serve, Queue(), WHOLE, n=6, whole_episodes=True)
    stream.write(3 + 1 + 1 + 1 + 4)  # the longest of each, and the resets between them
    assert text(stream.stored()) == [
        "a00 a01 a02* a02* a02* a02* a02* | b00 b01 b02 b03* b03* b03* b03*",
        "a10 a11* a11* a11* a11* a11* a11* | b10 b11* b11* b11* b11* b11* b11*",
        "a20 a21 a22 a23 a24* a24* a24* | b20 b21 b22* b22* b22* b22* b22*",
    ]
    assert stream.actor.items == 3
    assert stream.actor.episodes == 6
    # Waiting is no step of the environment.
    assert stream.actor.env_steps == 2 + 3 + 1 + 1 + 4 + 2
    assert [length for _, length in stream.actor.finished] == [2, 3, 1, 1, 2, 4]


@pytest.mark.parametrize("scripts", [WHOLE, SCRIPTS, (A,), (Script((6,), (False,)), A)])
def test_whole_episodes_hold_every_number_of_their_rows(serve: Serve, scripts: Sequence[Script]) -> None:
    stream = Stream(serve, Queue(), scripts, n=6, whole_episodes=True)
    stream.write(60)
    found = same_discounts(stream.stored())
    assert len(found) > 5
    for number, rollout in enumerate(found):
        assert rollout == [episode(script, lane, number, rows=7) for lane, script in enumerate(scripts)]


def test_last_rows_of_a_waiting_lane_have_discount_1(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (Script((1,), (False,)), Script((4,), (False,))), n=6, whole_episodes=True)
    stream.write(4)
    [[waiting, _]] = stream.stored()
    assert [row.last for row in waiting] == [False] + [True] * 6
    assert [row.discount for row in waiting] == [0.0] + [1.0] * 6


def test_an_episode_longer_than_the_rollout_is_cut_and_goes_on_in_the_next(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (Script((5,), (False,)), Script((2,), (False,))), n=3, whole_episodes=True)
    stream.write(5 + 1 + 3)
    assert text(stream.stored()) == [
        "a00 a01 a02 a03 | b00 b01 b02* b02*",
        "a03 a04 a05* a05* | b02* b02* b02* b02*",
        "a10 a11 a12 a13 | b10 b11 b12* b12*",
    ]


def reset_by_hand(stream: Stream) -> None:
    stream._state = stream.lanes.reset()


def test_a_reset_by_hand_ends_the_rollout_as_truncated(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (LONG, A), n=5)
    stream.write(2)
    reset_by_hand(stream)
    stream.write(5)
    found = stream.stored()
    assert text(found) == [
        "a00 a01 a02* a02* a02* a02* | b00 b01 b02* b02* b02* b02*",
        "a10 a11 a12 a13 a14 a15 | b10 b11* b20 b21 b22* b30",
    ]
    cut, terminated = found[0][0][1], found[0][1][1]
    assert (cut.discount, terminated.discount) == (1.0, 0.0)
    assert [row.first for row in found[1][0]] == [True] + [False] * 5
    assert (found[1][1][0].first, found[1][1][1].first) == (True, False)
    assert stream.actor.items == 2


def test_a_reset_by_hand_between_two_rollouts_writes_nothing_more(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (LONG,), n=2)
    stream.write(2)
    reset_by_hand(stream)
    stream.write(4)
    assert text(stream.stored()) == ["a00 a01 a02", "a10 a11 a12", "a12 a13 a14"]


def test_a_reset_by_hand_while_lanes_wait_gives_each_its_one_last_state(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (LONG, A), n=5, whole_episodes=True)
    stream.write(3)
    reset_by_hand(stream)
    stream.write(1)
    assert text(stream.stored()) == ["a00 a01 a02 a03* a03* a03* | b00 b01 b02* b02* b02* b02*"]


@pytest.mark.parametrize("before", [0, 4], ids=["from the start", "later"])
def test_a_dead_server_is_reported(serve: Serve, before: int) -> None:
    stream = Stream(serve, Queue(), n=2)
    stream.write(before)
    stream.server.stop()
    stream.give_up_after(1.0)
    with pytest.raises(StallError, match="table 'experience' takes no items"):
        stream.write(2)


def test_a_full_queue_holds_its_rollouts_and_makes_the_writer_wait(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (LONG,), n=2, size=2)
    stream.write(4)
    stream.write(1)
    stream.give_up_after(1.0)
    with pytest.raises(StallError, match="The actor waits for the replay server"):
        stream.write(1)
    assert text(stream.stored())[:2] == ["a00 a01 a02", "a02 a03 a04"]


def test_closing_drops_what_is_not_complete(serve: Serve) -> None:
    stream = Stream(serve, Queue(), (LONG,), n=3)
    stream.write(5)
    stream.writer.close()
    assert text(stream.stored()) == ["a00 a01 a02 a03"]
