"""n-step returns against slow numpy over whole episodes, and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from agents.losses.returns import at_row, n_step

GAMMA = 0.9


def episode_rows(length: int, truncated: bool, rng: np.random.Generator) -> list[dict[str, float]]:
    """Rows of one episode, with values of their states: the LAST row holds the final state."""
    rows = [{"reward": rng.normal(), "discount": 1.0, "last": False, "value": rng.normal()} for _ in range(length)]
    rows[-1]["discount"] = float(truncated)
    return [*rows, {"reward": 0.0, "discount": 1.0, "last": True, "value": rng.normal()}]


def slow_return(rows: list[dict[str, float]], start: int, n: int) -> float:
    """r_0 + gamma r_1 + ... + gamma^k value, read row by row; stops at n steps or at the LAST row."""
    total, factor = 0.0, 1.0
    for row in rows[start : start + n]:
        if row["last"]:
            return total + factor * row["value"]
        total += factor * row["reward"]
        factor *= GAMMA * row["discount"]
    return total + factor * rows[start + n]["value"]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_fold_equals_slow_numpy_for_every_start_state(n: int) -> None:
    rng = np.random.default_rng(n)
    rows = []
    for length, truncated in itertools.product(range(1, 10), [False, True]):
        rows += episode_rows(length, truncated, rng)
    rows += episode_rows(n + 1, False, rng)
    starts = [i for i in range(len(rows) - n) if not rows[i]["last"]]
    window = {key: np.array([[r[key] for r in rows[s : s + n + 1]] for s in starts]) for key in rows[0]}
    fold = n_step(
        tf.constant(window["reward"], tf.float32),
        tf.constant(window["discount"], tf.float32),
        tf.constant(window["last"], tf.bool),
        GAMMA,
    )
    value = at_row(tf.constant(window["value"], tf.float32), fold.row)
    expected = [slow_return(rows, s, n) for s in starts]
    np.testing.assert_allclose(fold.reward + fold.factor * value, expected, rtol=1e-5, atol=1e-5)


def fold_of(reward: list[float], discount: list[float], last: list[bool]):
    return n_step(tf.constant([reward]), tf.constant([discount]), tf.constant([last]), 0.5)


def test_whole_window_bootstraps_from_the_final_row() -> None:
    fold = fold_of([1.0, 2.0, 9.0], [1.0, 1.0, 1.0], [False, False, False])
    assert (fold.reward[0], fold.factor[0], fold.row[0]) == (2.0, 0.25, 2)


def test_termination_bootstraps_from_nothing() -> None:
    fold = fold_of([1.0, 0.0, 9.0], [0.0, 1.0, 1.0], [False, True, False])
    assert (fold.reward[0], fold.factor[0], fold.row[0]) == (1.0, 0.0, 1)


def test_truncation_bootstraps_from_final_observation() -> None:
    fold = fold_of([1.0, 0.0, 9.0], [1.0, 1.0, 1.0], [False, True, False])
    assert (fold.reward[0], fold.factor[0], fold.row[0]) == (1.0, 0.5, 1)


def test_window_that_begins_with_a_last_row_holds_nothing() -> None:
    fold = fold_of([0.0, 5.0, 9.0], [1.0, 0.0, 1.0], [True, False, False])
    assert (fold.reward[0], fold.row[0]) == (0.0, 0)
