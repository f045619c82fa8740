"""Networks of pictures: what reaches them, their shapes, and that all of them is learnt."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import Algo, networks
from agents.algos.ddpg import DDPG
from agents.algos.dqn import DQN
from agents.algos.ppo import PPO
from agents.algos.vpg import VPG
from agents.models.basic import Conv, Impala, pixels
from agents.models.heads import Critic, Policy
from agents.models.registry import MODELS
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


def test_normalised_pictures_are_refused_by_the_network() -> None:
    with pytest.raises(UserError, match=r"states are float32 \[84, 84, 3\]: choose the model 'basic'"):
        Conv(2)(tf.zeros([1, 84, 84, 3]))


# Which states each network takes, told before it is built.


def array(dtype: Any, *shape: int) -> specs.Array:
    return specs.BoundedArray(shape, dtype, 0, 1 if dtype is bool else 255)


ATARI, SMALL, VECTOR = array(np.uint8, 210, 160, 3), array(np.uint8, 7, 7, 3), array(np.float32, 4)
STACK = Frames(array(np.uint8, 84, 84, 1), 4)
NESTED = {"agent pos": VECTOR, "rgb": array(np.uint8, 40, 40, 3)}
BOX = specs.BoundedArray((2,), np.float32, -1, 1)
CONV = {
    "dqn": (DQN, {"model": "conv"}, ACTION, "DQN.model"),
    "ppo": (PPO, {"value_model": "shared"}, ACTION, "Policy.torso"),
    "vpg": (VPG, {"value_model": "conv"}, BOX, "Policy.torso"),
    "ddpg": (DDPG, {}, BOX, "Actor.torso"),
}
# With the module: tf-agents, where another test imported it, has an Actor of its own.
BINDINGS = "".join(
    f"agents.models.heads.{name} = 'conv'\n" for name in ("Policy.torso", "Actor.torso", "Critic.encoder")
)


@pytest.mark.parametrize("name", CONV)
@pytest.mark.parametrize(
    ("states", "said"),
    [
        (SMALL, "pictures of at least 36 x 36 pixels, and states are uint8 [7, 7, 3]: choose {}='impala'"),
        (array(np.uint8, 200, 20, 3), "at least 36 x 36 pixels, and states are uint8 [200, 20, 3]"),
        (Frames(array(np.uint8, 20, 20, 1), 4), "at least 36 x 36 pixels, and states are uint8 [4, 20, 20, 1]"),
        (array(np.uint8, 3, 84, 84), "states are uint8 [3, 84, 84], channels first: move the channels to the end"),
        (array(np.uint8, 4, 84, 84), "states are uint8 [4, 84, 84], channels first"),
        (array(np.uint8, 3, 7, 7), "states are uint8 [3, 7, 7], channels first"),
        (array(np.uint8, 84, 84), "states are uint8 [84, 84]: give bytes, of the space Box(0, 255, (height, width, ch"),
        (array(np.float32, 40, 40, 3), "states are float32 [40, 40, 3]: give bytes, of the space Box(0, 255, "),
        (array(bool, 40, 40, 3), "states are bool [40, 40, 3]: give bytes, of the space Box(0, 255, "),
        (array(np.uint8, 128), "states are uint8 [128]: choose {}='basic'"),
        (specs.DiscreteArray(5, np.int32), "states are int32 []: choose {}='basic'"),
        (NESTED, "several arrays, 'agent pos' float32 [4], 'rgb' uint8 [40, 40, 3]: choose {}='basic'"),
        ((STACK, VECTOR), "'0' uint8 [4, 84, 84, 1], '1' float32 [4]: make them smaller, or keep one picture only"),
    ],
)
def test_what_is_no_picture_for_it_is_refused_in_a_sentence(name: str, states: Any, said: str) -> None:
    gin.parse_config(BINDINGS)
    algo, settings, action, setting = CONV[name]
    with pytest.raises(UserError) as error:
        algo(**settings).check(states, action)
    assert str(error.value).startswith(setting)
    assert said.format(setting) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CONV)
def test_pictures_are_taken_by_networks_for_them(name: str) -> None:
    gin.parse_config(BINDINGS)
    algo, settings, action, _ = CONV[name]
    for states in (ATARI, STACK, array(np.uint8, 36, 36, 12), array(np.uint8, 40, 300, 3)):
        algo(**settings).check(states, action)
    networks(algo(**settings), array(np.uint8, 36, 36, 3), action)


@pytest.mark.parametrize(
    ("algo", "action", "settings"),
    [
        (DQN(), ACTION, "DQN.model"),
        (DQN(model="noisy"), ACTION, "DQN.model"),
        (PPO(), ACTION, "Policy.torso and PPO.value_model"),
        (VPG(value_model=""), BOX, "Policy.torso"),
        (DDPG(), BOX, "Actor.torso and Critic.encoder"),
    ],
    ids=["dqn", "noisy", "ppo", "vpg", "ddpg"],
)
def test_large_pictures_are_not_flattened(algo: Algo, action: Any, settings: str) -> None:
    override = "; ".join(f"{setting}='conv'" for setting in settings.split(" and "))
    for states, shown, advice in (
        (ATARI, "uint8 [210, 160, 3], into 100,800 inputs", '--hparam_override="{over}"'),
        (STACK, "uint8 [4, 84, 84, 1], into 28,224 inputs", "choose a network for pictures"),
        (
            array(np.float32, 96, 96, 3),
            "float32 [96, 96, 3], into 27,648 inputs",
            "give bytes, of the space Box(0, 255",
        ),
        (array(np.uint8, 3, 210, 160), "uint8 [3, 210, 160], into 100,800 inputs", "give bytes, of the space Box(0, 2"),
        ({"rgb": ATARI, "pos": VECTOR}, "'rgb' uint8 [210, 160, 3], into 100,800", "make the pictures smaller"),
    ):
        with pytest.raises(UserError) as error:
            algo.check(states, action)
        assert str(error.value).startswith(f"{settings} would flatten states, ")
        assert shown in str(error.value)
        assert advice.format(over=override) in str(error.value)
    for states in (SMALL, VECTOR, NESTED, array(np.uint8, 128), array(np.uint8, 84, 84, 1), specs.Array((), np.int32)):
        algo.check(states, action)


def test_a_critics_torso_sees_numbers_whatever_states_are() -> None:
    gin.parse_config(f"{BINDINGS}\nCritic.torso = 'conv'")
    with pytest.raises(UserError, match=r"^Critic\.torso is a network for pictures"):
        DDPG().check(ATARI, BOX)


def test_a_network_of_ones_own_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    algo = DQN()
    monkeypatch.setattr(MODELS, "load", lambda name: tf.keras.Model)
    algo.check(ATARI, ACTION)
    algo.check(NESTED, ACTION)


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
