"""Learning-rate schedules: factors by hand, and that a learner's steps follow them."""

from __future__ import annotations

import math
from typing import Any

import gin
import numpy as np
import pytest
import tensorflow as tf

from agents.algos.dqn import DQN
from agents.learner import Learner, make_strategy
from agents.lr_schedules.registry import LR_SCHEDULES
from pipeline.types import UserError
from servers.memory.uniform import Uniform
from tests.agents.helpers import feed, make_learner, random_draw


@pytest.mark.parametrize(
    ("name", "settings", "factors"),
    [
        # at 0, 1/4, 1/2, 3/4 and 1 of the training
        ("constant", {}, [1, 1, 1, 1, 1]),
        ("linear", {}, [1, 0.75, 0.5, 0.25, 0]),
        ("linear", {"final": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", {"final": 1.0}, [1, 1, 1, 1, 1]),
        ("exponential", {"final": 0.0001}, [1, 0.1, 0.01, 0.001, 0.0001]),
        ("exponential", {}, [1, 0.01**0.25, 0.1, 0.01**0.75, 0.01]),
        ("cosine", {}, [1, 0.5 + 0.25 * math.sqrt(2), 0.5, 0.5 - 0.25 * math.sqrt(2), 0]),
        ("cosine", {"final": 0.5}, [1, 0.75 + 0.125 * math.sqrt(2), 0.75, 0.75 - 0.125 * math.sqrt(2), 0.5]),
        ("piecewise", {}, [1, 1, 0.1, 0.01, 0.01]),
        ("piecewise", {"boundaries": (0.3,), "factors": (1.0, 2.0)}, [1, 1, 2, 2, 2]),
        ("piecewise", {"boundaries": (), "factors": (0.5,)}, [0.5] * 5),
        ("piecewise", {"boundaries": (0.0, 1.0), "factors": (1.0, 2.0, 3.0)}, [2, 2, 2, 2, 3]),
    ],
)
def test_factors_at_the_quarters_of_the_training(name: str, settings: dict[str, Any], factors: list[float]) -> None:
    schedule = LR_SCHEDULES.get(name)(**settings)
    found = [schedule(tf.constant(progress)) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(factor.shape == () and factor.dtype == tf.float32 for factor in found)
    np.testing.assert_allclose(found, factors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("linear", {"final": -0.1}, r"Linear\.final is -0.1: it must lie in \[0, 1\]"),
        ("cosine", {"final": 1.5}, r"Cosine\.final is 1.5: it must lie in \[0, 1\]"),
        ("exponential", {"final": 0.0}, r"Exponential\.final is 0.0: it must be positive"),
        ("piecewise", {"factors": (1.0, 0.1, 0.0)}, r"Piecewise\.factors is 0.0: it must be positive"),
        ("piecewise", {"factors": ()}, r"Piecewise\.factors"),
        ("piecewise", {"boundaries": (0.5, 1.5)}, r"Piecewise\.boundaries is 1.5: it must lie in \[0, 1\]"),
        ("piecewise", {"boundaries": (0.7, 0.2)}, "boundaries must rise"),
        ("piecewise", {"boundaries": (0.5,)}, "one factor more than there are boundaries"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LR_SCHEDULES.get(name)(**settings)


def test_an_unknown_schedule_is_refused_with_the_near_names() -> None:
    with pytest.raises(UserError, match=r"There is no .*'cosin'; did you mean cosine"):
        DQN(lr_schedule="cosin")


K, B, RATE = 2, 16, 0.01


def learner(**settings: Any) -> Learner:
    algo = DQN(batch_size=B, learning_rate=RATE, **settings)
    made = make_learner(algo, Uniform(), make_strategy("local"), updates_per_call=K, xla=False)
    feed(made, random_draw(K, B, 2))
    return made


def parameters(made: Learner) -> list[np.ndarray]:
    return [v.numpy() for v in made.params.online["q"].trainable_variables]


def test_a_learner_uses_the_rate_of_its_progress() -> None:
    made = learner(lr_schedule="linear")
    # Of the 1,000 training steps.
    for env_steps, rate in [(0, RATE), (250, 0.75 * RATE), (900, 0.1 * RATE)]:
        assert made.run(env_steps)["learning_rate/q"] == pytest.approx(rate, rel=1e-5)
    assert made.trace_count() == 1
    before = parameters(made)
    assert made.run(2000)["learning_rate/q"] == 0.0
    for now, old in zip(parameters(made), before, strict=True):
        np.testing.assert_array_equal(now, old)


def test_the_steps_of_the_parameters_have_the_size_of_the_rate() -> None:
    made = learner(lr_schedule="exponential")

    def step(env_steps: int) -> float:
        before = parameters(made)
        made.run(env_steps)
        return max(float(np.abs(a - b).max()) for a, b in zip(parameters(made), before, strict=True))

    # Adam's first steps have the size of its learning rate: K of them here.
    assert step(0) == pytest.approx(K * RATE, rel=0.05)
    assert step(500) < 1.5 * K * RATE * 0.1
    assert step(1000) < 1.5 * K * RATE * 0.01


def test_a_schedule_takes_its_settings_from_gin() -> None:
    LR_SCHEDULES.get("linear")
    gin.parse_config("Linear.final = 0.5")
    rates = DQN(learning_rate=RATE, lr_schedule="linear").learning_rates(tf.constant(1.0))
    assert float(rates["q"]) == pytest.approx(0.5 * RATE)
