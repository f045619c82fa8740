"""Sums over actors and their lives, whatever is lost, repeated or late."""

from __future__ import annotations

import json

import pytest

import binaries.tally
from binaries.tally import CONNECTED_S, RECENT, Tally
from servers.reports import Report


def report(actor: int, life: int, env_steps: int, returns: tuple[float, ...] = (), crashes: int = 0) -> Report:
    return Report(1, actor, life, env_steps, env_steps // 10, crashes, 0, [(value, 10) for value in returns])


def test_the_newest_report_of_each_life_counts() -> None:
    tally = Tally()
    tally.take([report(0, 1, 100), report(1, 1, 50, crashes=2), report(0, 1, 300), report(0, 2, 20)])
    assert (tally.env_steps, tally.episodes, tally.crashes) == (300 + 50 + 20, 30 + 5 + 2, 2)
    tally.take([report(0, 1, 200)])  # of another server, and late
    assert tally.env_steps == 370


def test_it_goes_on_from_what_was_saved_and_actors_that_live_on_are_counted_once() -> None:
    tally = Tally()
    tally.take([report(0, 7, 100), report(1, 8, 50)])
    again = Tally()
    again.restore(json.loads(json.dumps(tally.state())))
    again.take([report(0, 7, 160)])
    assert again.env_steps == 210


def test_returns_are_handed_over_once_and_the_latest_are_remembered() -> None:
    tally = Tally()
    assert tally.mean_return is None
    tally.take([report(0, 1, 10, (1.0, 2.0)), report(1, 1, 10, (6.0,))])
    assert tally.mean_return == 3.0
    assert [value for value, _ in tally.finished] == [1.0, 2.0, 6.0]
    tally.take([report(0, 1, 20, (5.0,) * RECENT)])
    assert tally.mean_return == 5.0


def test_who_is_silent_is_no_longer_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(binaries.tally, "time", clock)
    tally = Tally()
    tally.take([report(0, 1, 10), report(1, 1, 10)])
    clock.now = CONNECTED_S - 1
    tally.take([report(1, 1, 20)])
    assert tally.connected == 2
    assert tally.fell_silent() == []
    clock.now = CONNECTED_S + 1
    assert tally.connected == 1
    assert tally.fell_silent() == [0]
    assert tally.fell_silent() == []
    tally.take([report(0, 1, 30)])
    assert tally.fell_silent() == []
    clock.now += CONNECTED_S
    assert tally.fell_silent() == [0, 1]
