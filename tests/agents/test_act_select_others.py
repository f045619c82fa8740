"""Exploration by sampling and by noise: frequencies, recurrences, bounds, and what lanes remember."""

from __future__ import annotations

import gc
import sys
from typing import Any, cast

import dm_env.specs as specs
import numpy as np
import pytest
import tensorflow as tf

from agents.actor import Actor, Policy
from agents.algos.act_select.act_select import ActSelect
from agents.algos.act_select.basic import NonUniformRandom, Random, UniformRandom
from agents.algos.act_select.noise import NormalNoise, OUNoise
from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.algos.algo import Algo
from pipeline.envs.environment import Done
from pipeline.types import Data, Nest, Params, UserError
from pipeline.writer import Writer

LOGITS = np.array([1.0, 0.0, -1.0, 2.5], np.float32)
DRAWS = 20_000
CHI_SQUARE_BOUND = 44.0
"""of 3 degrees of freedom: P(X > x) is 1.5e-9 here"""


def chosen(select: ActSelect, values: np.ndarray, seed: int = 1) -> np.ndarray:
    """The actions in DRAWS lanes of equal `values`."""
    action, core = select(tf.constant(np.tile(values, (DRAWS, 1))), (), tf.constant([3, seed]), tf.constant(0))
    assert core == ()
    assert action.dtype == tf.int32
    return action.numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.sum(np.exp(logits))


@pytest.mark.parametrize(
    ("select", "probabilities"),
    [
        (Random(), np.full(4, 0.25)),
        (NonUniformRandom(), softmax(LOGITS)),
        (NonUniformRandom(temperature=2.0), softmax(LOGITS / 2)),
        (UniformRandom(), softmax(LOGITS)),
    ],
    ids=["random", "non_uniform_random", "temperature", "uniform_random"],
)
def test_actions_have_their_probabilities(select: ActSelect, probabilities: np.ndarray) -> None:
    counts, expected = np.bincount(chosen(select, LOGITS), minlength=4), DRAWS * probabilities
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_BOUND


@pytest.mark.parametrize("select", [Random(), NonUniformRandom(), UniformRandom()])
def test_the_seed_decides_and_lanes_differ(select: ActSelect) -> None:
    actions = chosen(select, LOGITS)
    np.testing.assert_array_equal(actions, chosen(select, LOGITS))
    assert np.any(actions != chosen(select, LOGITS, seed=2))
    assert len(set(actions.tolist())) == 4


def test_a_low_temperature_takes_the_best_action_and_a_high_one_any() -> None:
    assert np.all(chosen(NonUniformRandom(temperature=0.01), LOGITS) == 3)
    counts = np.bincount(chosen(NonUniformRandom(temperature=1e4), LOGITS), minlength=4)
    assert ((counts - DRAWS / 4) ** 2 / (DRAWS / 4)).sum() < CHI_SQUARE_BOUND


def test_the_gumbel_trick_is_the_seeds_formula() -> None:
    seed, values = tf.constant([5, 6]), np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    uniform = tf.random.stateless_uniform([50, 3], seed, minval=1e-20).numpy()
    expected = np.argmax(values - np.log(-np.log(uniform)), axis=-1)
    np.testing.assert_array_equal(UniformRandom()(tf.constant(values), (), seed, tf.constant(0))[0], expected)


def noisy(select: ActSelect, values: np.ndarray, env_steps: int = 0, seed: int = 1) -> np.ndarray:
    return select(tf.constant(values, tf.float32), (), tf.constant([3, seed]), tf.constant(env_steps))[0].numpy()


def test_normal_noise_has_the_mean_and_the_deviation() -> None:
    noise = noisy(NormalNoise(0.1), np.full((DRAWS, 2), 0.2)) - 0.2
    # 40,000 numbers: the mean's standard deviation is 0.0005, the deviation's 0.00035. Five of them:
    assert abs(noise.mean()) < 0.0025
    assert abs(noise.std() - 0.1) < 0.0018
    # Correlations of lanes with their neighbours and of an action's parts: standard deviation 0.007.
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.036
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.036


def test_normal_noise_stays_inside_the_bounds() -> None:
    actions = noisy(NormalNoise(0.5), np.full((DRAWS, 1), 0.9))
    assert actions.max() == 1.0
    # P(N > 0.1 / 0.5) = 0.4207, standard deviation 0.0035.
    assert abs(np.mean(actions == 1.0) - 0.4207) < 5 * 0.0035
    assert noisy(NormalNoise(0.5), np.full((DRAWS, 1), -0.9)).min() == -1.0


def test_the_deviation_goes_linearly_and_then_stays() -> None:
    select = NormalNoise(deviation=0.4, final_deviation=0.1, decay_steps=100)
    values = np.zeros((50, 2))
    normals = tf.random.stateless_normal([50, 2], tf.constant([3, 1])).numpy()
    for env_steps, deviation in [(0, 0.4), (50, 0.25), (100, 0.1), (1000, 0.1)]:
        np.testing.assert_allclose(
            noisy(select, values, env_steps), np.clip(deviation * normals, -1, 1), rtol=1e-5, atol=1e-7
        )
        assert float(select.metrics(tf.constant(env_steps))["noise_deviation"]) == pytest.approx(deviation)


THETA, SIGMA, DT = 0.15, 0.2, 0.25


def test_ou_noise_is_its_recurrence() -> None:
    select, lanes, size = OUNoise(THETA, SIGMA, DT), 3, 2
    values = np.random.default_rng(0).uniform(-1, 1, [30, lanes, size]).astype(np.float32)
    core = select.initial_core(np.zeros(lanes), size)
    x = np.zeros([lanes, size])
    for t in range(30):
        seed = tf.constant([7, t])
        action, core = select(tf.constant(values[t]), core, seed, tf.constant(0))
        normals = tf.random.stateless_normal([lanes, size], seed).numpy()
        for lane in range(lanes):
            for i in range(size):
                x[lane, i] += -THETA * x[lane, i] * DT + SIGMA * DT**0.5 * normals[lane, i]
        np.testing.assert_allclose(core, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(action, np.clip(values[t] + x, -1, 1), rtol=1e-4, atol=1e-5)


def test_ou_noise_begins_at_0() -> None:
    core = OUNoise().initial_core(np.zeros(4), 3)
    assert core.dtype == tf.float32
    np.testing.assert_array_equal(core, np.zeros([4, 3]))


def test_ou_noise_drifts_back_to_0_and_spreads_to_its_stationary_deviation() -> None:
    select = OUNoise(theta=0.5, sigma=0.2)
    core = tf.fill([DRAWS, 1], 4.0)
    for t in range(40):
        _, core = select(tf.zeros([DRAWS, 1]), core, tf.constant([1, t]), tf.constant(0))
    # x' = x / 2 + 0.2 N: the mean 4 falls to 4e-12, the variance rises to 0.04 / (1 - 0.25).
    deviation = (0.04 / 0.75) ** 0.5
    assert abs(float(tf.reduce_mean(core))) < 5 * deviation / DRAWS**0.5
    assert abs(float(tf.math.reduce_std(core)) - deviation) < 5 * deviation / (2 * DRAWS) ** 0.5


def test_ou_noise_of_a_lane_does_not_depend_on_the_others() -> None:
    select, seed = OUNoise(), tf.constant([1, 2])
    core = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    other = core.copy()
    other[1:] += 1.0
    one, two = (select(tf.zeros([1000, 2]), tf.constant(c), seed, tf.constant(0))[1].numpy() for c in (core, other))
    np.testing.assert_array_equal(one[0], two[0])
    push = one - (1 - 0.15) * core
    # Of 1,000 pairs, the correlation's standard deviation is 0.032.
    assert abs(np.corrcoef(push[:, 0], push[:, 1])[0, 1]) < 0.16
    assert abs(np.corrcoef(push[1:, 0], push[:-1, 0])[0, 1]) < 0.16


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("non_uniform_random", {"temperature": 0.0}),
        ("normal_noise", {"deviation": -0.1}),
        ("normal_noise", {"final_deviation": -0.1}),
        ("normal_noise", {"decay_steps": 0}),
        ("ou_noise", {"theta": 0.0}),
        ("ou_noise", {"sigma": -1.0}),
        ("ou_noise", {"dt": 0.0}),
    ],
)
def test_impossible_settings_are_refused(name: str, setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match=rf"\.{next(iter(setting))} is "):
        ACTION_SELECTORS.get(name)(**setting)


def test_noise_takes_actions_and_sampling_takes_values() -> None:
    for name in ACTION_SELECTORS.names():
        takes = "actions" if name in ("normal_noise", "ou_noise") else "values"
        assert ACTION_SELECTORS.get(name, takes=takes)().takes == takes


LANES = 4
OBSERVATION = specs.Array((1,), np.float32)


class Counting:
    """Stands in for an algorithm: its core counts the calls since a lane's episode began, and is its action."""

    def initial_core(self, params: Params, places: np.ndarray) -> Nest:
        return {"calls": tf.zeros([LANES], tf.int32), "sum": tf.fill([LANES, 2], 0.5)}

    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        return core["calls"], {"sum": core["sum"]}, {"calls": core["calls"] + 1, "sum": core["sum"] + observation}


def counting() -> Policy:
    params = Params({}, {}, tf.constant(0), {})
    return Policy(cast(Algo, Counting()), params, OBSERVATION, LANES, seed=0, training=True)


def test_exactly_the_lanes_whose_episode_begins_start_with_a_fresh_core() -> None:
    policy = counting()
    rng, expected, total = np.random.default_rng(0), np.zeros(LANES, int), np.full([LANES, 2], 0.5)
    for first in [np.ones(LANES, bool), *(rng.random([20, LANES]) < 0.3)]:
        observation = rng.normal(size=(LANES, 1)).astype(np.float32)
        expected[first], total[first] = 0, 0.5
        action, extras = policy(observation, first, 0)
        np.testing.assert_array_equal(action, expected)
        np.testing.assert_allclose(extras["sum"], total, rtol=1e-5, atol=1e-6)
        expected, total = expected + 1, total + observation


def test_acting_for_long_takes_no_more_memory() -> None:
    policy, first = counting(), np.zeros(LANES, bool)

    def call(times: int) -> int:
        for number in range(times):
            first[0] = number % 10 == 0
            policy(np.zeros((LANES, 1), np.float32), first, 0)
        gc.collect()
        return sys.getallocatedblocks()

    call(100)
    before = call(1000)
    assert call(1000) - before < 500


class Nowhere:
    """Stands in for a Writer, and keeps nothing."""

    def append(self, step: Any, priority: float) -> None: ...


def acting(policy: Policy) -> Actor:
    data = Data("uniform", 2, 1, 1, 1)
    return Actor(policy, cast(Writer, Nowhere()), specs.DiscreteArray(100, np.int32), LANES, data)


def states(number: float) -> np.ndarray:
    return np.full([LANES, 1], number, np.float32)


def test_acting_resets_the_core_of_a_lane_where_its_next_episode_begins() -> None:
    actor, actions = acting(counting()), []
    ended_in = {1: [2], 3: [0, 2]}
    for t in range(6):
        done = np.array([Done.TERMINATED if lane in ended_in.get(t, []) else Done.NO for lane in range(LANES)])
        actions.append(actor.act(states(t)).tolist())
        actor.observe(states(t), np.zeros(LANES, np.int32), np.zeros(LANES), done, states(t + 1), 1.0)
    # Calls since the episode began: that of the LAST row, one step after the end, still counts to the old one.
    assert actions == [[0] * 4, [1] * 4, [2] * 4, [3, 3, 0, 3], [4, 4, 1, 4], [0, 5, 0, 5]]


def test_a_reset_by_hand_resets_every_core() -> None:
    actor = acting(counting())
    for t in (0, 1, 2):
        actor.act(states(t))
        actor.observe(states(t), np.zeros(LANES, np.int32), np.zeros(LANES), np.zeros(LANES), states(t + 1), 1.0)
    np.testing.assert_array_equal(actor.act(states(100)), np.zeros(LANES))
