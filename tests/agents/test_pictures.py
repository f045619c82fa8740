"""Networks of pictures: what reaches them, their shapes, and that all of them is learnt."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.ppo import PPO
from agents.models.basic import Conv, Impala, pixels
from agents.models.heads import Critic, Policy
from pipeline.frames import Frames
from pipeline.types import Batch, Params, Step, UserError

FRAME = specs.BoundedArray((24, 20, 1), np.uint8, 0, 255)
ACTION = specs.DiscreteArray(5, np.int32)


def test_a_pixel_of_255_arrives_as_1() -> None:
    for shape in ([2, 8, 8, 3], [2, 4, 8, 8, 1]):
        white, black = pixels(tf.constant(255, tf.uint8, shape)), pixels(tf.zeros(shape, tf.uint8))
        assert white.dtype == tf.float32
        assert np.unique(white) == [1.0]
        assert np.unique(black) == [0.0]


def test_a_pixel_of_255_arrives_as_1_from_an_environment() -> None:
    """From the rows that an actor packs, as bytes and not as signed ones."""
    from pipeline.rows import Rows, restack

    spec = Frames(specs.BoundedArray((18, 18, 1), np.uint8, 0, 255), 2)
    rows = Rows(spec, ACTION, {})
    white = np.full((1, 2, 18, 18, 1), 255, np.uint8)
    zero, no = np.zeros(1, np.float32), np.zeros(1, bool)
    columns = rows.pack(Step(white, np.zeros(1, np.int32), zero, zero, no, no, {}))
    windows = {name: tf.stack([column, column, column], axis=1) for name, column in columns.items()}
    steps = restack(rows.unpack(windows), spec)
    assert np.unique(pixels(steps.observation[:, 0])) == [1.0]


def test_frames_become_channels_in_their_order() -> None:
    stack = np.stack([np.full((6, 5, 2), 10 * frame, np.uint8) + np.array([0, 1], np.uint8) for frame in range(3)])
    seen = pixels(tf.constant(stack[None]))
    assert seen.shape == [1, 6, 5, 6]
    np.testing.assert_allclose(seen[0, 2, 2] * 255, [0, 1, 10, 11, 20, 21], rtol=1e-5)


@pytest.mark.parametrize("model", [Conv, Impala])
def test_all_of_a_network_is_learnt(model: Any) -> None:
    network = model(7)
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84, 1)), tf.uint8)
    with tf.GradientTape() as tape:
        outputs = network(frames)
        loss = tf.reduce_sum(tf.square(outputs))
    assert outputs.shape == [3, 7]
    for gradient in tape.gradient(loss, network.trainable_variables):
        assert tf.reduce_sum(tf.abs(gradient)) > 0


def test_the_networks_have_their_papers_sizes() -> None:
    sizes = {}
    models: list[tuple[Any, list[int]]] = [(Conv(6), [1, 4, 84, 84, 1]), (Impala(15), [1, 64, 64, 3])]
    for model, shape in models:
        model(tf.zeros(shape, tf.uint8))
        sizes[type(model)] = sum(int(tf.size(v)) for v in model.trainable_variables)
    # Mnih et al. 2015: 8x8x4x32, 4x4x32x64, 3x3x64x64 and 3136x512, with biases, and 6 actions.
    assert sizes[Conv] == 8224 + 32832 + 36928 + 1606144 + 3078
    # Espeholt et al. 2018: 15 convolutions of 3x3, 2048x256 and 15 actions.
    blocks = sum(9 * i * o + o + 4 * (9 * o * o + o) for i, o in ((3, 16), (16, 32), (32, 32)))
    assert sizes[Impala] == blocks + 2048 * 256 + 256 + 257 * 15


def test_states_that_are_no_pictures_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"states are float32 \[4\]: choose the model 'basic'"):
        Conv(2)(tf.zeros([1, 4]))


def test_a_critic_sees_pictures_through_its_encoder() -> None:
    critic: Any = Critic(encoder="impala", features=8)
    frames = tf.constant(np.random.default_rng(0).integers(0, 256, (3, 24, 20, 1)), tf.uint8)
    action = tf.one_hot([0, 1, 2], 5)
    value = critic(frames, action)
    assert value.shape == [3]
    np.testing.assert_allclose(value, critic.value(critic.encode(frames), action), rtol=1e-6)
    assert critic.encode(frames).shape == [3, 8]


# Policy and value function as one network.


@pytest.mark.parametrize("spec", [ACTION, specs.BoundedArray((2,), np.float32, -1, 1)], ids=["discrete", "box"])
def test_a_shared_network_gives_the_policy_and_the_value(spec: Any) -> None:
    shared, alone = Policy(spec, values=True), Policy(spec)
    state = tf.constant(np.random.default_rng(0).normal(size=(6, 3)), tf.float32)
    policy, value = shared.distribution_and_value(state)
    alone(state)
    assert value.shape == [6]
    assert policy.sample(seed=[0, 1]).shape == alone.distribution(state).sample(seed=[0, 1]).shape
    np.testing.assert_allclose(shared(state)[:, -1], value)


def batch_of(algo: PPO, params: Params) -> Batch:
    generator = np.random.default_rng(0)
    state = tf.constant(generator.normal(size=(2, 9, 3)), tf.float32)
    none = tf.zeros([2, 9], tf.bool)
    action = tf.constant(generator.integers(0, 5, (2, 9)), tf.int32)
    reward = tf.constant(generator.normal(size=(2, 9)), tf.float32)
    steps = Step(state, action, reward, tf.ones([2, 9]), none, none, {"log_prob": tf.fill([2, 9], -1.6)})
    return algo.prepare(params, Batch(steps, tf.ones([2]), tf.constant([0, 1])))


def test_the_shared_loss_is_the_sum_of_both() -> None:
    gin.parse_config("Policy.head_gain = 1.0")
    algo = PPO(value_model="shared", value_weight=0.25)
    params = networks(algo, specs.Array((3,), np.float32), ACTION)
    assert list(params.online) == list(algo.optimizers()) == ["policy"]
    batch = batch_of(algo, params)
    loss = algo.loss(params, batch)
    means = {name: float(value) for name, value in loss.metrics.items()}
    wanted = means["policy_loss"] - 0.01 * means["entropy"] + 0.25 * means["value_loss"]
    assert float(tf.reduce_mean(loss.losses["policy"])) == pytest.approx(wanted, rel=1e-5)
    assert means["value_loss"] > 0
    grads = algo.compute_gradients(params, batch).grads["policy"]
    assert all(float(tf.reduce_sum(tf.abs(gradient))) > 0 for gradient in grads)
