"""Actors together make the steps of the training and none more, whatever their pace and whoever dies."""

from __future__ import annotations

import random

import pytest

from servers.limits import Limits

Life = tuple[int, int]


def play(
    limits: Limits, made: dict[Life, int], paces: dict[Life, int], lanes: int, rounds: int = 10_000
) -> dict[Life, int]:
    """Lets the lives of `paces` act as they may, each so many times its lanes a round, until nobody can."""
    for _ in range(rounds):
        limits.share(made, list(paces))
        before = dict(made)
        for life, pace in paces.items():
            most = max((limits.limits[life] - made[life]) // lanes, 0)
            made[life] += min(pace, most) * lanes
        if made == before:
            return made
    raise AssertionError("It does not come to an end.")


@pytest.mark.parametrize(
    ("steps", "lanes", "unit", "actors"),
    [(8_000, 16, 16, 2), (6_000, 16, 16, 8), (24_576, 64, 8_192, 2), (20_000, 8, 1_024, 4), (100, 64, 64, 3)],
)
def test_all_steps_are_made_and_none_more(steps: int, lanes: int, unit: int, actors: int) -> None:
    limits = Limits(steps, lanes, unit)
    paces = {(actor, 100 + actor): 1 + 5 * actor for actor in range(actors)}
    made = play(limits, dict.fromkeys(paces, 0), paces, lanes)
    assert sum(made.values()) == steps // lanes * lanes
    assert limits.all_made(sum(made.values()))


def test_rollouts_are_whole_while_there_is_room_for_one() -> None:
    limits = Limits(20_000, lanes=8, unit=1_024)
    paces = {(actor, 1): 1 for actor in range(4)}
    made = play(limits, dict.fromkeys(paces, 0), paces, lanes=8)
    assert sum(steps // 1_024 for steps in made.values()) == 20_000 // 1_024


def test_what_one_that_died_did_not_make_is_made_by_the_others() -> None:
    limits = Limits(10_000, lanes=16, unit=16)
    made = {(0, 1): 0, (1, 2): 0}
    limits.share(made, list(made))
    made[1, 2] = 480
    again = {(0, 1): 3, (1, 3): 2}  # another life of the second
    made = play(limits, {**made, (1, 3): 0}, again, lanes=16)
    assert made[1, 2] == 480
    assert sum(made.values()) == 10_000


def test_lives_may_come_and_go_at_any_time() -> None:
    chance = random.Random(3)
    limits = Limits(50_000, lanes=16, unit=16)
    made: dict[Life, int] = {(0, 1): 0}
    acting: list[Life] = [(0, 1)]
    for turn in range(400):
        if chance.random() < 0.1:
            acting = [(n, turn) for n in range(chance.randint(1, 5))]
            made |= dict.fromkeys(acting, 0)
        limits.share(made, acting)
        for life in acting:
            left = limits.limits[life] - made[life]
            made[life] += min(chance.randint(0, 20), max(left, 0) // 16) * 16
        assert sum(made.values()) <= 50_000
    made = play(limits, made, dict.fromkeys(acting, 4), lanes=16)
    assert sum(made.values()) == 50_000


def test_it_is_urgent_where_one_has_little_left_and_only_then() -> None:
    limits = Limits(100_000, lanes=16, unit=16)
    made = {(0, 1): 0, (1, 1): 0}
    assert limits.share(made, list(made))
    assert not limits.share(made, list(made))
    made[0, 1] = 16 * 10
    assert not limits.share(made, list(made))
    made[0, 1] = limits.limits[0, 1] - 16
    assert limits.share(made, list(made))


def test_a_fast_one_has_many_steps_ahead_of_it() -> None:
    limits = Limits(1_000_000, lanes=16, unit=16)
    made = {(0, 1): 0, (1, 1): 0}
    limits.share(made, list(made))
    assert min(limits.limits.values()) >= 200_000
