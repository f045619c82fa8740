"""Advantages of rollouts against slow numpy that sums discounted errors row by row, and by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.advantages.basic import GAE, DiscountedReturn
from agents.advantages.registry import ADVANTAGES
from agents.losses.returns import gae
from pipeline.types import Step, UserError

GAMMA = 0.9


class Window(NamedTuple):
    """The rows of one window, a number each."""

    reward: list[float]
    discount: list[float]
    last: list[bool]
    value: list[float]


def slow_gae(window: Window, gamma: float, gae_lambda: float) -> list[float]:
    """sum_l (gamma lambda)^l delta_{t + l} over what is left of row t's episode in the window (eq. 16)."""
    steps = len(window.reward) - 1
    advantages = []
    for start in range(steps):
        total, factor = 0.0, 1.0
        for t in range(start, steps):
            if window.last[t]:
                break
            delta = window.reward[t] + gamma * window.discount[t] * window.value[t + 1] - window.value[t]
            total += factor * delta
            factor *= gamma * gae_lambda * window.discount[t]
        advantages.append(total)
    return advantages


def slow_return(window: Window, start: int, gamma: float) -> float:
    """The discounted rewards from row `start` on, then the value of the row where its episode stops."""
    total, factor, row = 0.0, 1.0, start
    while row < len(window.reward) - 1 and not window.last[row]:
        total += factor * window.reward[row]
        factor *= gamma * window.discount[row]
        row += 1
    return total + factor * window.value[row]


def window_of(endings: str, rng: np.random.Generator) -> Window:
    """A row a letter: '.' goes on, 't' terminates its episode, '*' is a LAST row, of random rewards and values.

    LAST rows have rewards and discounts of their own here, which must count for nothing.
    """
    return Window(
        reward=rng.normal(size=len(endings)).tolist(),
        discount=[0.0 if e == "t" else float(rng.integers(2)) if e == "*" else 1.0 for e in endings],
        last=[e == "*" for e in endings],
        value=rng.normal(size=len(endings)).tolist(),
    )


def estimate(windows: list[Window], gamma: float, gae_lambda: float) -> np.ndarray:
    reward, discount, last, value = (tf.constant(column) for column in zip(*windows, strict=True))
    return gae(reward, discount, last, value, gamma, gae_lambda).numpy()


WINDOWS = [
    "......",  # inside one episode
    "..t*..",  # terminated
    "...*..",  # truncated
    "*.....",  # a LAST row first
    ".....*",  # truncated by the final row
    "....t*",  # terminated at the window's last action
    "....*.",
    "..**..",  # a reset by hand
    "t*t*t*",
    "*.*.*.",
    "****..",
    "******",
    "t*..*.",
]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_advantages_equal_slow_numpy_wherever_episodes_end(gae_lambda: float) -> None:
    rng = np.random.default_rng(3)
    windows = [window_of(endings, rng) for endings in WINDOWS * 4]
    expected = [slow_gae(window, GAMMA, gae_lambda) for window in windows]
    np.testing.assert_allclose(estimate(windows, GAMMA, gae_lambda), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    endings=st.text("..t*", min_size=6, max_size=6),
    gamma=st.floats(0, 1, width=32),
    gae_lambda=st.floats(0, 1, width=32),
    seed=st.integers(0, 2**16),
)
def test_advantages_equal_slow_numpy_for_every_pattern(
    endings: str, gamma: float, gae_lambda: float, seed: int
) -> None:
    # Some patterns are no stream that is written, 't' before '.', and have a meaning all the same.
    window = window_of(endings, np.random.default_rng(seed))
    expected = [slow_gae(window, gamma, gae_lambda)]
    np.testing.assert_allclose(estimate([window], gamma, gae_lambda), expected, rtol=1e-4, atol=1e-5)


def test_by_hand() -> None:
    # gamma 0.5, lambda 0.5: two steps, the second terminates; LAST; then a step of an episode that goes on.
    window = Window(
        reward=[1.0, 2.0, 0.0, 3.0, 0.0],
        discount=[1.0, 0.0, 1.0, 1.0, 1.0],
        last=[False, False, True, False, False],
        value=[4.0, 6.0, 100.0, 8.0, 10.0],
    )
    # 3 + 5 - 8; 0; 2 + 0 - 6; (1 + 3 - 4) + 0.25 x -4
    np.testing.assert_allclose(estimate([window], 0.5, 0.5), [[-1.0, -4.0, 0.0, 0.0]])


def test_truncation_bootstraps_from_the_final_observation_and_termination_from_nothing() -> None:
    rows = {"reward": [1.0, 0.0, 9.0], "last": [False, True, False], "value": [2.0, 6.0, 50.0]}
    truncated, terminated = (Window(discount=[discount, 1.0, 1.0], **rows) for discount in (1.0, 0.0))
    np.testing.assert_allclose(estimate([truncated, terminated], 0.5, 0.95), [[2.0, 0.0], [-1.0, 0.0]])


def test_lambda_0_is_the_temporal_difference_error() -> None:
    window = window_of(".....", np.random.default_rng(0))
    delta = [window.reward[t] + GAMMA * window.value[t + 1] - window.value[t] for t in range(4)]
    np.testing.assert_allclose(estimate([window], GAMMA, 0.0), [delta], rtol=1e-5)


@pytest.mark.parametrize("endings", WINDOWS)
def test_lambda_1_is_the_discounted_return_less_the_value(endings: str) -> None:
    window = window_of(endings, np.random.default_rng(1))
    expected = [0.0 if last else slow_return(window, t, GAMMA) - window.value[t] for t, last in enumerate(window.last)]
    np.testing.assert_allclose(estimate([window], GAMMA, 1.0), [expected[:-1]], rtol=1e-5, atol=1e-5)


def steps_of(window: Window) -> Step:
    reward, discount, last, _ = (tf.constant([column]) for column in window)
    nothing: Any = ()
    return Step(nothing, nothing, reward, discount, tf.zeros_like(last), last, nothing)


def test_discounted_return_without_values_is_the_return_to_go_of_each_episode() -> None:
    window = Window(
        reward=[1.0, 2.0, 4.0, 7.0, 8.0, 16.0, 9.0],
        discount=[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        last=[False, False, False, True, False, False, True],
        value=[0.0] * 7,
    )
    advantage = DiscountedReturn()(steps_of(window), tf.zeros([1, 7]), 0.5)
    # 1 + 2/2 + 4/4, 2 + 4/2, 4; 0; 8 + 16/2, 16
    np.testing.assert_allclose(advantage, [[3.0, 4.0, 4.0, 0.0, 16.0, 16.0]])


def test_the_registered_estimators_use_their_lambda() -> None:
    window = window_of("..t*...*..", np.random.default_rng(5))
    steps, value = steps_of(window), tf.constant([window.value])
    made = {
        0.3: ADVANTAGES.get("gae")(gae_lambda=0.3),
        0.95: ADVANTAGES.get("gae")(),
        1.0: ADVANTAGES.get("discounted_return")(),
    }
    for gae_lambda, estimator in made.items():
        expected = [slow_gae(window, GAMMA, gae_lambda)]
        np.testing.assert_allclose(estimator(steps, value, GAMMA), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gae_lambda", [-0.1, 1.1, float("nan")])
def test_a_lambda_outside_its_range_is_refused(gae_lambda: float) -> None:
    with pytest.raises(UserError, match=rf"GAE\.gae_lambda is {gae_lambda}: it must lie in \[0, 1\]"):
        GAE(gae_lambda)
