"""DQN's loss and gradients against literal numpy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.dqn import DQN
from agents.models.registry import MODELS
from pipeline.types import Batch, Params, UserError
from tests.agents.helpers import ACTION, OBSERVATION, random_steps

B, GAMMA = 16, 0.9


def setting(**settings: object) -> tuple[DQN, Params, Batch]:
    tf.keras.utils.set_random_seed(1)
    algo = DQN(batch_size=B, gamma=GAMMA, **settings)  # pyright: ignore[reportArgumentType]
    params = networks(algo, OBSERVATION, ACTION)
    for variable in params.target["q"].variables:
        variable.assign(variable + 0.1 * tf.random.normal(variable.shape))
    weight = tf.random.uniform([B], 0.1, 1.0)
    return algo, params, Batch(random_steps((B, algo.data().window)), weight, tf.constant([0, 0]))


def numpy_losses(params: Params, batch: Batch, double: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weighted Huber losses and absolute errors, window by window."""
    steps = batch.steps
    losses, sizes = [], []
    for b in range(B):
        total, factor, row = 0.0, 1.0, 0
        while row < steps.reward.shape[1] - 1 and not steps.last[b, row]:
            total += factor * float(steps.reward[b, row])
            factor *= GAMMA * float(steps.discount[b, row])
            row += 1
        state = steps.observation[b, row][None]
        target = params.target["q"](state).numpy()[0]
        selector = params.online["q"](state).numpy()[0] if double else target
        q = params.online["q"](steps.observation[b, 0][None]).numpy()[0, int(steps.action[b, 0])]
        error = total + factor * target[np.argmax(selector)] - q
        huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
        losses.append(0.0 if steps.last[b, 0] else float(batch.weight[b]) * huber)
        sizes.append(abs(error))
    return np.array(losses), np.array(sizes)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_loss_and_priorities_equal_literal_numpy(n: int, double: bool) -> None:
    algo, params, batch = setting(n_step=n, double=double)
    loss = algo.loss(params, batch)
    expected, sizes = numpy_losses(params, batch, double)
    np.testing.assert_allclose(loss.losses["q"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.priorities, sizes, rtol=1e-4, atol=1e-4)
    assert set(loss.metrics) == set(algo.metrics)


def test_gradients_equal_finite_differences() -> None:
    # The mean squared error and one layer are smooth, so that differences of 1e-2 are exact enough in float32.
    algo, params, batch = setting(model="basic", grad_comp="mean_squared_error")
    grads = algo.compute_gradients(params, batch).grads["q"]
    head = params.online["q"].trainable_variables[-1]  # the head's biases
    for index in range(2):
        shift = 1e-2 * tf.one_hot(index, 2)
        head.assign_add(shift)
        above = tf.reduce_sum(algo.loss(params, batch).losses["q"]) / B
        head.assign_sub(2 * shift)
        below = tf.reduce_sum(algo.loss(params, batch).losses["q"]) / B
        head.assign_add(shift)
        np.testing.assert_allclose(grads[-1][index], (above - below) / 2e-2, rtol=1e-3, atol=1e-4)


def test_windows_that_begin_with_a_last_row_give_no_gradient() -> None:
    algo, params, batch = setting()
    batch = batch._replace(steps=batch.steps._replace(last=tf.ones_like(batch.steps.last)))
    grads = algo.compute_gradients(params, batch).grads["q"]
    assert all(np.all(g.numpy() == 0) for g in grads)


def test_acts_greedily_without_training() -> None:
    algo, params, batch = setting()
    state = batch.steps.observation[:, 0]
    action, _, _ = algo.select_action(params, state, (), tf.constant([0, 0]), training=False)
    np.testing.assert_array_equal(action, np.argmax(params.online["q"](state), axis=-1))


def test_gradients_are_clipped_by_their_global_norm() -> None:
    adam = DQN(max_gradient_norm=0.5).optimizers()["q"]
    assert adam.global_clipnorm == 0.5


@pytest.mark.parametrize(
    "settings", [{"n_step": 0}, {"batch_size": -1}, {"gamma": 1.1}, {"target_update_rate": 2.0}, {"learning_rate": 0.0}]
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"DQN.{next(iter(settings))}"):
        DQN(**settings)  # pyright: ignore[reportArgumentType]


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UserError, match=r"MLP\.activation is .rlu."):
        MODELS.get("basic")(2, activation="rlu")
