"""Distributions over actions against the formulas in numpy, for every kind of action space."""

from __future__ import annotations

import math
from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
import tensorflow as tf

from agents.losses.policies import distribution, is_continuous, parameter_count
from agents.models.registry import MODELS

B = 6
DISCRETE = specs.DiscreteArray(4, np.int32)
MULTI = specs.BoundedArray((3,), np.int32, 0, np.array([1, 4, 2]))
GRID = specs.BoundedArray((2, 2), np.int32, 0, np.array([[1, 2], [0, 4]]))
BINARY = specs.BoundedArray((3,), np.int32, 0, 1)
BOX = specs.BoundedArray((2,), np.float32, -1.0, 1.0)
BOX_MATRIX = specs.BoundedArray((2, 3), np.float32, -np.inf, np.inf)
COUNTS = {"multi": [2, 5, 3], "grid": [2, 3, 1, 5], "binary": [2, 2, 2]}
VECTORS = {"multi": MULTI, "grid": GRID, "binary": BINARY}
BOXES = {"vector": BOX, "matrix": BOX_MATRIX}


def parameters(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(B, count)).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.sum(np.exp(logits)))


def entropy(logits: np.ndarray) -> float:
    return -float(np.sum(np.exp(log_softmax(logits)) * log_softmax(logits)))


def seed(number: int) -> tf.Tensor:
    return tf.constant([1, number])


def test_how_many_parameters_each_space_needs() -> None:
    assert [parameter_count(s) for s in (DISCRETE, MULTI, GRID, BINARY, BOX, BOX_MATRIX)] == [4, 10, 11, 6, 2, 6]
    assert [is_continuous(s) for s in (DISCRETE, MULTI, BOX)] == [False, False, True]


def test_discrete() -> None:
    logits = parameters(4)
    policy = distribution(DISCRETE, tf.constant(logits))
    action = np.array([0, 1, 2, 3, 0, 1], np.int32)
    np.testing.assert_allclose(
        policy.log_prob(action), [log_softmax(row)[a] for row, a in zip(logits, action, strict=True)], rtol=1e-5
    )
    np.testing.assert_allclose(policy.entropy(), [entropy(row) for row in logits], rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(), np.argmax(logits, axis=-1))
    sample = policy.sample(seed=seed(0))
    assert (sample.shape, sample.dtype, policy.mode().dtype) == ((B,), tf.int32, tf.int32)


@pytest.mark.parametrize("kind", ["multi", "grid", "binary"])
def test_vectors_of_integers_are_independent_in_each_dimension(kind: str) -> None:
    spec, counts = VECTORS[kind], COUNTS[kind]
    logits = parameters(sum(counts))
    policy = distribution(spec, tf.constant(logits))
    rng = np.random.default_rng(1)
    action = np.array([[rng.integers(count) for count in counts] for _ in range(B)], np.int32)
    log_probs, entropies, modes = [], [], []
    for row in range(B):
        parts = np.split(logits[row], np.cumsum(counts)[:-1])
        log_probs.append(sum(log_softmax(part)[a] for part, a in zip(parts, action[row], strict=True)))
        entropies.append(sum(entropy(part) for part in parts))
        modes.append([int(np.argmax(part)) for part in parts])
    np.testing.assert_allclose(policy.log_prob(action.reshape(B, *spec.shape)), log_probs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(policy.entropy(), entropies, rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(), np.reshape(modes, [B, *spec.shape]))
    sample = policy.sample(seed=seed(0))
    assert (sample.shape, sample.dtype, policy.mode().dtype) == ((B, *spec.shape), tf.int32, tf.int32)


@pytest.mark.parametrize("kind", ["multi", "grid"])
def test_impossible_actions_are_never_sampled_and_possible_ones_are(kind: str) -> None:
    spec, counts = VECTORS[kind], COUNTS[kind]
    draws = 20_000
    policy = distribution(spec, tf.zeros([draws, sum(counts)]))
    sample = policy.sample(seed=seed(3)).numpy().reshape(draws, -1)
    for dimension, count in enumerate(counts):
        frequencies = np.bincount(sample[:, dimension], minlength=count) / draws
        assert len(frequencies) == count
        # Five standard deviations of a frequency are at most 0.018.
        assert np.all(np.abs(frequencies - 1 / count) < 0.018)


@pytest.mark.parametrize("kind", ["multi", "grid"])
def test_padding_leaves_entropies_and_gradients_finite(kind: str) -> None:
    spec, counts = VECTORS[kind], COUNTS[kind]
    logits = tf.constant(parameters(sum(counts)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        policy = distribution(spec, logits)
        entropies, log_prob = policy.entropy(), policy.log_prob(policy.mode())
    for value in (entropies, tape.gradient(entropies, logits), tape.gradient(log_prob, logits)):
        assert np.all(np.isfinite(np.asarray(value)))


@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_boxes_are_independent_gaussians(kind: str) -> None:
    spec = BOXES[kind]
    size = parameter_count(spec)
    mean, log_deviation = parameters(size), 0.5 * parameters(size, seed=1)
    policy = distribution(spec, tf.constant(np.concatenate([mean, log_deviation], axis=-1)))
    action = parameters(size, seed=2)
    log_probs, entropies = [], []
    for row in range(B):
        log_prob, total = 0.0, 0.0
        for i in range(size):
            deviation = math.exp(log_deviation[row, i])
            z = (action[row, i] - mean[row, i]) / deviation
            log_prob += -0.5 * z**2 - math.log(deviation) - 0.5 * math.log(2 * math.pi)
            total += math.log(deviation) + 0.5 * math.log(2 * math.pi * math.e)
        log_probs.append(log_prob)
        entropies.append(total)
    np.testing.assert_allclose(policy.log_prob(action.reshape(B, *spec.shape)), log_probs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(policy.entropy(), entropies, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(policy.mode(), mean.reshape(B, *spec.shape))
    sample = policy.sample(seed=seed(0))
    assert (sample.shape, sample.dtype) == ((B, *spec.shape), tf.float32)


@pytest.mark.parametrize("kind", ["vector", "matrix"])
def test_samples_of_a_box_have_their_means_and_deviations(kind: str) -> None:
    spec, draws = BOXES[kind], 20_000
    size = parameter_count(spec)
    mean, deviation = np.arange(size, dtype=np.float32), np.linspace(0.5, 2.0, size, dtype=np.float32)
    row = np.concatenate([mean, np.log(deviation)])
    sample = distribution(spec, tf.constant(np.tile(row, (draws, 1)))).sample(seed=seed(1))
    flat = sample.numpy().reshape(draws, size)
    assert np.all(np.abs(flat.mean(0) - mean) < 5 * deviation / draws**0.5)
    assert np.all(np.abs(flat.std(0) - deviation) < 5 * deviation / (2 * draws) ** 0.5)


ALL: dict[str, Any] = {"discrete": DISCRETE, **VECTORS, **BOXES}


@pytest.mark.parametrize("kind", list(ALL))
def test_a_policy_network_gives_actions_of_the_space(kind: str) -> None:
    spec = ALL[kind]
    network = MODELS.get("policy")(spec)
    policy = network.distribution(tf.random.stateless_normal([B, 4], (0, 0)))
    for action in (policy.sample(seed=seed(0)), policy.mode()):
        assert action.shape == (B, *spec.shape)
        assert action.dtype == tf.as_dtype(spec.dtype)
    assert policy.log_prob(policy.mode()).shape == (B,)
    assert policy.entropy().shape == (B,)


def test_the_first_actions_hardly_depend_on_the_state_and_have_the_deviation() -> None:
    policy = MODELS.get("policy")(BOX, deviation=0.5).distribution(tf.random.stateless_normal([B, 4], (0, 0)))
    assert np.abs(policy.mode()).max() < 0.05
    np.testing.assert_allclose(policy.stddev(), np.full([B, 2], 0.5), rtol=1e-5)


def test_the_deviation_is_learnt_for_all_states_together() -> None:
    network = MODELS.get("policy")(BOX)
    with tf.GradientTape() as tape:
        policy = network.distribution(tf.zeros([B, 4]))
        log_prob = policy.log_prob(tf.fill([B, 2], 2.0))
    grads = tape.gradient(log_prob, network.trainable_variables)
    [index] = [i for i, v in enumerate(network.trainable_variables) if "log_deviation" in v.name]
    # d log_prob / d log sigma = z^2 - 1 = 3, in each of the rows.
    np.testing.assert_allclose(grads[index], [3.0 * B, 3.0 * B], rtol=1e-4)
