"""Noisy networks: their weights in literal numpy, whose noise is whose, and how DQN acts and learns with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.dqn import DQN
from agents.models.noisy import Noisy, NoisyDense
from agents.models.registry import MODELS
from pipeline.types import Batch, Params, UserError
from tests.agents.helpers import ACTION, OBSERVATION, random_steps

ROWS, SIZE, UNITS = 5, 3, 4
SEED = tf.constant([2, 9])


def layer(factorised: bool) -> tuple[Any, np.ndarray]:
    """A layer whose sigmas all differ, and rows for it."""
    tf.keras.utils.set_random_seed(4)
    made: Any = NoisyDense(UNITS, factorised, 0.5)
    x = np.random.default_rng(0).normal(size=(ROWS, SIZE)).astype(np.float32)
    made(x, None, False)
    for sigma in (made.sigma_w, made.sigma_b):
        sigma.assign(np.random.default_rng(1).uniform(0.1, 0.9, sigma.shape))
    return made, x


def scaled(noise: np.ndarray) -> np.ndarray:
    return np.sign(noise) * np.sqrt(np.abs(noise))


def numpy_output(made: Any, x: np.ndarray, seed: tf.Tensor, factorised: bool, each_row: bool) -> np.ndarray:
    """eq. 9, a row at a time, with the noise that `seed` stands for."""
    one, two = tf.unstack(tf.random.split(seed))
    noises = ROWS if each_row else 1
    outputs = []
    if factorised:
        noise_in = scaled(tf.random.stateless_normal([noises, SIZE], one).numpy())
        noise_out = scaled(tf.random.stateless_normal([noises, UNITS], two).numpy())
        noise_w = [np.outer(noise_in[i], noise_out[i]) for i in range(noises)]  # eq. 10
        noise_b = noise_out  # eq. 11
    else:
        noise_w = tf.random.stateless_normal([noises, SIZE, UNITS], one).numpy()
        noise_b = tf.random.stateless_normal([noises, UNITS], two).numpy()
    for row in range(ROWS):
        i = row if each_row else 0
        weights = made.mu_w.numpy() + made.scale * made.sigma_w.numpy() * noise_w[i]
        bias = made.mu_b.numpy() + made.scale * made.sigma_b.numpy() * noise_b[i]
        outputs.append(x[row] @ weights + bias)
    return np.array(outputs)


@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize("factorised", [False, True])
def test_a_layer_is_linear_with_noisy_weights(factorised: bool, each_row: bool) -> None:
    made, x = layer(factorised)
    expected = numpy_output(made, x, SEED, factorised, each_row)
    np.testing.assert_allclose(made(x, SEED, each_row), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factorised", [False, True])
def test_without_a_seed_there_is_no_noise(factorised: bool) -> None:
    made, x = layer(factorised)
    np.testing.assert_allclose(made(x, None, False), x @ made.mu_w.numpy() + made.mu_b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factorised", [False, True])
def test_rows_share_one_noise_or_have_one_each(factorised: bool) -> None:
    made, _ = layer(factorised)
    same = tf.ones([ROWS, SIZE])
    shared, own = made(same, SEED, False).numpy(), made(same, SEED, True).numpy()
    np.testing.assert_allclose(shared, np.tile(shared[0], (ROWS, 1)), rtol=1e-5)
    assert len(np.unique(own, axis=0)) == ROWS
    assert not np.allclose(shared, made(same, tf.constant([2, 10]), False))
    np.testing.assert_array_equal(shared, made(same, SEED, False))


@pytest.mark.parametrize(("factorised", "sigma"), [(True, 0.5), (False, 0.017)])
def test_initial_weights_are_the_papers(factorised: bool, sigma: float) -> None:
    # Section 3.2: mu uniform within 1 / sqrt(p), sigma sigma_0 / sqrt(p); independent noise sqrt(3 / p) and 0.017.
    p, units = 64, 500
    network: Any = Noisy(units, hidden_sizes=(p,), factorised=factorised)
    network(tf.zeros([1, 16]))
    for made, inputs in [(network._hidden[0], 16), (network._head, p)]:
        bound = (1 / inputs) ** 0.5 if factorised else (3 / inputs) ** 0.5
        initial_sigma = sigma / inputs**0.5 if factorised else sigma
        for sigmas in (made.sigma_w, made.sigma_b):
            np.testing.assert_allclose(made.scale * sigmas.numpy(), initial_sigma, rtol=1e-6)
        mu = np.concatenate([made.mu_w.numpy().ravel(), made.mu_b.numpy()])
        assert np.abs(mu).max() <= bound
        assert np.abs(mu).max() > 0.97 * bound
        # Of 1,088 numbers at least; a uniform one's standard deviation is bound / sqrt(3).
        assert abs(mu.mean()) < 5 * bound / (3 * mu.size) ** 0.5
    assert np.abs(network._head.mu_b.numpy()).max() > 0


def test_head_gain_scales_the_means_of_the_head_alone() -> None:
    tf.keras.utils.set_random_seed(1)
    network: Any = Noisy(200, head_gain=0.01, hidden_sizes=(16,))
    network(tf.zeros([1, 4]))
    assert np.abs(network._head.mu_w.numpy()).max() <= 0.01 / 4
    assert np.abs(network._hidden[0].mu_w.numpy()).max() > 0.4


def test_the_network_gives_each_layer_noise_of_its_own() -> None:
    network: Any = Noisy(UNITS, hidden_sizes=(SIZE, SIZE))
    x = tf.random.stateless_normal([ROWS, SIZE], (1, 2))
    seeds = tf.unstack(tf.random.split(SEED, 3))
    output = network(x, SEED)
    hidden = x
    for made, seed in zip(network._hidden, seeds[:2], strict=True):
        hidden = tf.nn.relu(made(hidden, seed, False))
    np.testing.assert_allclose(output, network._head(hidden, seeds[2], False), rtol=1e-5)
    assert len({tuple(seed.numpy()) for seed in seeds}) == 3


def test_plain_layers_have_no_noise() -> None:
    network: Any = Noisy(UNITS, plain_sizes=(7,), hidden_sizes=(SIZE,))
    x = tf.random.stateless_normal([ROWS, 4], (1, 2))
    output = network(x, SEED)
    plain, noisy = network._hidden
    assert len(plain.variables) == 2
    assert len(network.variables) == 10
    hidden = tf.nn.relu(x @ plain.mu_w + plain.mu_b)
    hidden = tf.nn.relu(noisy(hidden, tf.random.split(SEED, 3)[1], False))
    np.testing.assert_allclose(output, network._head(hidden, tf.random.split(SEED, 3)[2], False), rtol=1e-5)
    assert not np.allclose(output, network(x, None))


@pytest.mark.parametrize(
    "settings",
    [{"sigma": 0.0}, {"head_gain": -1.0}, {"hidden_sizes": (4, 0)}, {"plain_sizes": (0,)}, {"activation": "rlu"}],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"Noisy\.{next(iter(settings))} is "):
        MODELS.get("noisy")(2, **settings)


B = 16


def setting(**settings: Any) -> tuple[DQN, Params, Batch]:
    tf.keras.utils.set_random_seed(1)
    algo = DQN(batch_size=B, model="noisy", act_select="max", **settings)
    params = networks(algo, OBSERVATION, ACTION)
    steps = random_steps((B, 2))
    return algo, params, Batch(steps._replace(last=tf.zeros_like(steps.last)), tf.ones([B]), tf.constant([0, 5]))


def test_greedy_evaluation_is_without_noise() -> None:
    algo, params, batch = setting()
    observation = batch.steps.observation[:, 0]
    best = np.argmax(params.online["q"](observation), axis=-1)
    for seed in range(20):
        action, _, _ = algo.select_action(params, observation, (), tf.constant([1, seed]), training=False)
        np.testing.assert_array_equal(action, best)


def test_while_training_every_call_and_every_lane_has_noise_of_its_own() -> None:
    algo, params, _ = setting()
    same = tf.zeros([1000, 4])
    first, second = (
        algo.select_action(params, same, (), tf.constant([1, call]), training=True)[0].numpy() for call in (0, 1)
    )
    again = algo.select_action(params, same, (), tf.constant([1, 0]), training=True)[0]
    np.testing.assert_array_equal(first, again)
    assert np.any(first != second)
    assert 0 < first.mean() < 1


def test_actions_are_the_best_of_the_noisy_values() -> None:
    algo, params, batch = setting()
    observation, seed = batch.steps.observation[:, 0], tf.constant([4, 4])
    noise_seed = tf.unstack(tf.random.split(seed))[0]
    q = params.online["q"](observation, noise_seed, each_row=True)
    action, _, _ = algo.select_action(params, observation, (), seed, training=True)
    np.testing.assert_array_equal(action, np.argmax(q, axis=-1))


def test_the_noise_is_learnt() -> None:
    algo, params, batch = setting()
    grads = algo.compute_gradients(params, batch).grads["q"]
    named = zip(params.online["q"].trainable_variables, grads, strict=True)
    sigmas = [grad.numpy() for variable, grad in named if "sigma" in variable.name]
    assert len(sigmas) == 6  # weights and biases of two hidden layers and the head
    assert all(np.any(grad != 0) for grad in sigmas)


def test_the_three_evaluations_of_the_loss_have_different_noise() -> None:
    algo, params, batch = setting(double=True, grad_comp="mean_squared_error", gamma=0.9)
    seeds = tf.unstack(tf.random.split(batch.seed, 3))
    assert len({tuple(seed.numpy()) for seed in seeds}) == 3
    state, following = batch.steps.observation[:, 0], batch.steps.observation[:, 1]
    q_tm1 = params.online["q"](state, seeds[0]).numpy()
    q_t = params.target["q"](following, seeds[1]).numpy()
    selector = params.online["q"](following, seeds[2]).numpy()
    errors = []
    for b in range(B):
        best, action = np.argmax(selector[b]), int(batch.steps.action[b, 0])
        target = float(batch.steps.reward[b, 0]) + 0.9 * float(batch.steps.discount[b, 0]) * q_t[b, best]
        errors.append(target - q_tm1[b, action])
    loss = algo.loss(params, batch)
    np.testing.assert_allclose(loss.losses["q"], 0.5 * np.square(errors), rtol=1e-4, atol=1e-5)
    # Online and target networks are still equal: what differs is the noise.
    assert not np.allclose(q_t, selector)


def test_another_batch_seed_is_another_noise() -> None:
    algo, params, batch = setting()
    loss = algo.loss(params, batch).losses["q"]
    np.testing.assert_array_equal(loss, algo.loss(params, batch).losses["q"])
    assert not np.allclose(loss, algo.loss(params, batch._replace(seed=tf.constant([0, 6]))).losses["q"])
