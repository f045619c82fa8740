"""Epsilon-greedy: the schedule, one coin per lane, and how often it explores."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.act_select.basic import Epsilon, EpsilonByLane, Max
from pipeline.types import UserError

VALUES = tf.constant([[0.0, 1.0, 0.0, 0.0]] * 1000)


def actions(epsilon: float, seed: int) -> np.ndarray:
    return Epsilon(epsilon, epsilon)(VALUES, (), tf.constant([7, seed]), tf.constant(0))[0].numpy()


def test_epsilon_goes_linearly_and_then_stays() -> None:
    epsilon = Epsilon(initial=1.0, final=0.2, decay_steps=100)
    assert [round(float(epsilon.epsilon(tf.constant(s))), 3) for s in (0, 50, 100, 1000)] == [1.0, 0.6, 0.2, 0.2]


def test_each_lane_has_a_coin_of_its_own() -> None:
    # With one coin for all lanes a call would explore in all of them or in none.
    explored = np.mean(actions(0.5, 1) != 1)
    # 1000 coins of probability 0.5 x 3/4: five standard deviations are 0.077.
    assert abs(explored - 0.375) < 0.077


def test_random_actions_are_uniform() -> None:
    counts = np.bincount(np.concatenate([actions(1.0, s) for s in range(20)]), minlength=4)
    # 20,000 draws, 5,000 expected each, standard deviation 61.
    assert np.all(np.abs(counts - 5000) < 5 * 62)


def test_no_exploration_is_the_best_action() -> None:
    assert np.all(actions(0.0, 3) == 1)
    assert np.all(Max()(VALUES, (), tf.constant([0, 0]), tf.constant(0))[0].numpy() == 1)


def test_the_seed_decides() -> None:
    np.testing.assert_array_equal(actions(0.5, 4), actions(0.5, 4))
    assert np.any(actions(0.5, 4) != actions(0.5, 5))


@pytest.mark.parametrize("setting", [{"initial": 1.5}, {"final": -0.1}, {"decay_steps": 0}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match="Epsilon"):
        Epsilon(**setting)  # pyright: ignore[reportArgumentType]


def test_every_lane_of_every_actor_has_an_epsilon_of_its_own() -> None:
    places = np.linspace(0, 1, 4, dtype=np.float32)
    select = EpsilonByLane(epsilon=0.5, alpha=3.0)
    core = select.initial_core(places, 1)
    np.testing.assert_allclose(core.numpy(), [0.5, 0.25, 0.125, 0.0625], rtol=1e-5)
    values = tf.constant([[0.0, 1.0]] * 4)
    explored = np.zeros(4)
    for seed in range(4000):
        action, after = select(values, core, tf.constant([7, seed]), tf.constant(0))
        assert after is core
        explored += action.numpy() != 1
    # Half of what is explored is the other action: five standard deviations of 4,000 coins.
    expected = core.numpy() / 2
    assert np.all(np.abs(explored / 4000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000))
