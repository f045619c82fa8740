"""A wait is said in words after some seconds, and ends at its limit."""

from __future__ import annotations

import pytest

import pipeline.waiting
from pipeline.waiting import TOLD_AFTER_S, TOLD_AGAIN_S, StallError, Stopped, Waiting


class Clock:
    """Stands in for the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pipeline.waiting, "time", clock)
    return clock


def test_a_short_wait_is_not_mentioned(clock: Clock) -> None:
    said: list[str] = []
    waiting = Waiting(60.0, said.append)
    for _ in range(4):
        waiting.on(lambda: "A waits for B")
        clock.now += TOLD_AFTER_S - 1
        waiting.over()
    assert said == []


def test_a_long_one_is_said_again_and_again_with_its_reason_and_then_that_it_is_over(clock: Clock) -> None:
    said: list[str] = []
    waiting = Waiting(600.0, said.append, explain=lambda: " (B sleeps)")
    firsts = []
    for second in range(int(TOLD_AFTER_S + TOLD_AGAIN_S) + 2):
        firsts += [second] if waiting.on(lambda: "A waits for B") else []
        clock.now += 1
    waiting.over()
    assert firsts == [TOLD_AFTER_S]
    assert said == [
        "A waits for B (B sleeps); this has lasted for 5 s.",
        "A waits for B (B sleeps); this has lasted for 35 s.",
        "It goes on, after 37 s.",
    ]


def test_past_the_limit_the_sentence_is_the_error(clock: Clock) -> None:
    waiting = Waiting(60.0)
    waiting.on(lambda: "A waits for B")
    clock.now += 61
    with pytest.raises(StallError, match=r"A waits for B: nothing moved for 61 s\."):
        waiting.on(lambda: "A waits for B")


def test_who_was_asked_to_stop_does_not_wait(clock: Clock) -> None:
    with pytest.raises(Stopped):
        Waiting(60.0, stop=lambda: True).on(lambda: "A waits for B")
