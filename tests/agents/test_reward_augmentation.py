"""Rewards to learn from: by hand, with mountain car's energy written out, and in a learner."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.dqn import DQN
from agents.learner import Learner, make_strategy
from agents.reward_augmentation.registry import REWARD_AUGMENTATIONS
from pipeline.types import Step, UserError
from servers.memory.uniform import Uniform
from tests.agents.helpers import feed, make_learner, random_draw, random_steps

SCALE, GAMMA = 100.0, 0.9


def rewards(values: list[float]) -> Step:
    return random_steps((1, len(values)))._replace(reward=tf.constant([values]))


def augmented(name: str, steps: Step, **settings: Any) -> np.ndarray:
    """The rewards; nothing else may change."""
    result = REWARD_AUGMENTATIONS.get(name)(**settings)(steps)
    for field in Step._fields:
        if field != "reward":
            assert getattr(result, field) is getattr(steps, field)
    return np.asarray(result.reward)


def test_none_changes_nothing() -> None:
    steps = random_steps((3, 4))
    np.testing.assert_array_equal(augmented("none", steps), steps.reward)


def test_rewards_are_clipped() -> None:
    steps = rewards([-3.0, -0.5, 0.0, 0.9, 7.0])
    np.testing.assert_allclose(augmented("clip", steps), [[-1, -0.5, 0, 0.9, 1]])
    np.testing.assert_allclose(augmented("clip", steps, low=-2.0, high=0.5), [[-2, -0.5, 0, 0.5, 0.5]])


def test_rewards_are_scaled() -> None:
    steps = rewards([-3.0, 0.0, 7.0])
    np.testing.assert_allclose(augmented("scale", steps), [[-0.3, 0, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(augmented("scale", steps, factor=2.0), [[-6, 0, 14]])


def energy(position: float, velocity: float) -> float:
    """Of a car of mass 1 on the hill sin(3 x) / 3, where the environment's gravity is 0.0025."""
    return velocity**2 / 2 + 0.0025 * math.sin(3 * position) / 3


REST = energy(-math.pi / 6, 0.0)


def cars(last: list[bool]) -> tuple[Step, list[tuple[float, float]]]:
    """Rows of reward -1 with positions and velocities of mountain car."""
    rng = np.random.default_rng(2)
    states = list(zip(rng.uniform(-1.2, 0.6, len(last)), rng.uniform(-0.07, 0.07, len(last)), strict=True))
    steps = random_steps((1, len(last)))._replace(
        observation=tf.constant([states], tf.float32),
        reward=tf.constant([[0.0 if ended else -1.0 for ended in last]]),
        last=tf.constant([last]),
    )
    return steps, states


@pytest.mark.parametrize(
    "last",
    [
        [False] * 6,
        [False, False, True, False, False, False],
        [True, False, False, True, True, False],
        [False, False, False, False, False, True],
    ],
)
def test_mountain_car_earns_its_gain_in_energy_and_last_rows_earn_nothing(last: list[bool]) -> None:
    steps, states = cars(last)
    expected = []
    for t, ended in enumerate(last):
        if ended:
            expected.append(0.0)
        elif t == len(last) - 1:
            expected.append(-1.0)  # the window ends here: its action is not learnt from
        else:
            here, there = (SCALE * (energy(*states[i]) - REST) for i in (t, t + 1))
            there *= float(steps.discount[0, t])
            expected.append(-1.0 + GAMMA * there - here)
    found = augmented("mountain_car_default", steps, scale=SCALE, gamma=GAMMA)
    np.testing.assert_allclose(found, [expected], rtol=1e-5, atol=1e-6)


def test_arriving_is_a_gain_too() -> None:
    # The LAST row holds the state on the top: its potential counts although nothing follows.
    steps, _ = cars([False, True])
    states = [(0.48, 0.03), (0.51, 0.03)]
    steps = steps._replace(observation=tf.constant([states], tf.float32), discount=tf.constant([[0.0, 1.0]]))
    here, there = (1e4 * (energy(*state) - REST) for state in states)
    found = augmented("mountain_car_default", steps)
    np.testing.assert_allclose(found, [[-1 + there - here, 0.0]], rtol=1e-4)


REST_STATE = (-math.pi / 6, 0.0)


def shaped_return(actions: int, end: tuple[float, float], terminated: bool, gamma: float = 0.99) -> float:
    """The discounted sum of an episode from rest in the valley to `end`; where it is truncated, with the end's value.

    A value function that was learnt from shaped rewards is lower by the potential (Ng et al. 1999); the true one is 0.
    """
    steps, states = cars([False] * actions + [True])
    states[0], states[-1] = REST_STATE, end
    steps = steps._replace(
        observation=tf.constant([states], tf.float32),
        discount=tf.constant([[1.0] * (actions - 1) + [float(not terminated), 1.0]]),
    )
    rewards = augmented("mountain_car_default", steps, gamma=gamma)[0]
    value = 0.0 if terminated else -1e4 * (energy(*end) - REST)
    return float(np.sum(gamma ** np.arange(actions + 1) * rewards) + gamma**actions * value)


@pytest.mark.parametrize("terminated", [True, False])
def test_shaping_keeps_the_rank_of_policies(terminated: bool) -> None:
    # Slow but early, or fast but late: with a potential at the goal they are -57.3 and -52.3.
    early, late = shaped_return(100, (0.5, 0.0), terminated), shaped_return(108, (0.5, 0.07), terminated)
    assert [early, late] == pytest.approx([-63.397, -66.223], abs=0.01)


def test_at_rest_in_the_valley_nothing_is_earned() -> None:
    steps, _ = cars([False, False])
    steps = steps._replace(observation=tf.constant([[[-math.pi / 6, 0.0]] * 2], tf.float32))
    np.testing.assert_allclose(augmented("mountain_car_default", steps), [[-1.0, -1.0]], atol=1e-4)


def test_other_observations_are_refused() -> None:
    with pytest.raises(UserError, match=r"it needs observations \[position, velocity\]"):
        augmented("mountain_car_default", random_steps((1, 3)))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("clip", {"low": 1.0, "high": 1.0}, r"Clip\.low is 1.0 and Clip\.high 1.0: low must be below high"),
        ("scale", {"factor": 0.0}, r"Scale\.factor is 0.0: it must be positive"),
        ("mountain_car_default", {"scale": -1.0}, r"MountainCar\.scale is -1.0: it must be positive"),
        ("mountain_car_default", {"gamma": 0.0}, r"MountainCar\.gamma is 0.0: it must be positive"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        REWARD_AUGMENTATIONS.get(name)(**settings)


B = 16


def learner(rewards_times: float, **settings: Any) -> Learner:
    """One that reads a batch whose rewards are those of `random_draw` times a factor."""
    algo = DQN(batch_size=B, n_step=3)
    made = make_learner(algo, Uniform(), make_strategy("local"), updates_per_call=1, xla=False, **settings)
    draw = random_draw(1, B, 4)
    feed(made, draw._replace(steps=draw.steps._replace(reward=draw.steps.reward * rewards_times)))
    return made


def test_a_learner_learns_from_the_changed_rewards() -> None:
    changed, scaled = learner(1.0, reward_augmentation="scale"), learner(0.1)
    assert changed.run(0) == pytest.approx(scaled.run(0), rel=1e-5)
    for found, wanted in zip(changed.params.online["q"].variables, scaled.params.online["q"].variables, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(UserError, match=r"There is no .*'clp'; did you mean clip"):
        learner(1.0, reward_augmentation="clp")
