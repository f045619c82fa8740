"""DDPG's losses and gradients against literal numpy and finite differences, and how it acts in bounded spaces."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.ddpg import DDPG
from agents.models.registry import MODELS
from pipeline.types import Batch, Params, UserError
from tests.agents.helpers import ACTION, OBSERVATION, random_steps

B, GAMMA = 16, 0.9
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32)
BOX = specs.BoundedArray((2,), np.float32, LOW, HIGH)
DISCRETE = specs.DiscreteArray(3, np.int32)
STATE = tf.constant([[0.1, -0.2, 0.3, 0.4]])


def setting(action_spec: Any, **settings: Any) -> tuple[DDPG, Params, Batch]:
    tf.keras.utils.set_random_seed(1)
    act_select = "uniform_random" if action_spec is DISCRETE else "ou_noise"
    algo = DDPG(**{"batch_size": B, "gamma": GAMMA, "act_select": act_select, **settings})
    params = networks(algo, OBSERVATION, action_spec)
    for model in params.target.values():
        for variable in model.variables:
            variable.assign_add(0.1 * tf.random.normal(variable.shape))
    rows = algo.data().window
    steps, rng = random_steps((B, rows)), np.random.default_rng(4)
    if action_spec is BOX:
        action = rng.uniform(LOW, HIGH, [B, rows, 2]).astype(np.float32)
    else:
        action = rng.integers(0, 3, [B, rows]).astype(np.int32)
    weight = tf.random.uniform([B], 0.1, 1.0)
    return algo, params, Batch(steps._replace(action=tf.constant(action)), weight, tf.constant([3, 4]))


def seen(action: np.ndarray) -> np.ndarray:
    """What a critic sees of an action: its place in the bounds, or a one-hot row."""
    if action.shape == (2,):
        return np.array([2 * (action[i] - LOW[i]) / (HIGH[i] - LOW[i]) - 1 for i in range(2)], np.float32)
    return np.eye(3, dtype=np.float32)[int(action)]


def q_of(params: Params, which: str, observation: tf.Tensor, action: np.ndarray) -> float:
    critic = getattr(params, which)["critic"]
    return float(critic(observation[None], tf.constant(action[None]))[0])


def mean_q(params: Params, which: str, observation: tf.Tensor) -> float:
    """The mean of Q over the softmax of the actor's logits."""
    logits = getattr(params, which)["actor"](observation[None]).numpy()[0]
    part = np.exp(logits) / np.exp(logits).sum()
    return sum(part[i] * q_of(params, which, observation, np.eye(3, dtype=np.float32)[i]) for i in range(3))


def numpy_errors(params: Params, batch: Batch, discrete: bool) -> np.ndarray:
    """r + ... + gamma^n Q'(s_n, pi'(s_n)) - Q(s, a), window by window."""
    steps, errors = batch.steps, []
    for b in range(B):
        total, factor, row = 0.0, 1.0, 0
        while row < steps.reward.shape[1] - 1 and not steps.last[b, row]:
            total += factor * float(steps.reward[b, row])
            factor *= GAMMA * float(steps.discount[b, row])
            row += 1
        following = steps.observation[b, row]
        outputs = params.target["actor"](following[None]).numpy()[0]
        bootstrap = mean_q(params, "target", following) if discrete else q_of(params, "target", following, outputs)
        target = total + factor * bootstrap
        q = q_of(params, "online", steps.observation[b, 0], seen(steps.action[b, 0].numpy()))
        errors.append(target - q)
    return np.array(errors)


def weights(batch: Batch) -> np.ndarray:
    return np.where(batch.steps.last[:, 0], 0.0, batch.weight)


@pytest.mark.parametrize("action_spec", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("n", [1, 3])
def test_the_critics_loss_and_priorities_equal_literal_numpy(n: int, action_spec: Any) -> None:
    algo, params, batch = setting(action_spec, n_step=n)
    errors = numpy_errors(params, batch, action_spec is DISCRETE)
    loss = algo.loss(params, batch)
    np.testing.assert_allclose(loss.losses["critic"], weights(batch) * 0.5 * errors**2, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.priorities, np.abs(errors), rtol=1e-4, atol=1e-5)
    assert set(loss.metrics) == set(algo.metrics)
    assert float(loss.metrics["td_error"]) == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert float(loss.metrics["loss"]) == pytest.approx(np.mean(sum(loss.losses.values())), rel=1e-4)


def test_the_actors_loss_is_minus_the_weighted_value_of_its_actions() -> None:
    algo, params, batch = setting(BOX)
    observation = batch.steps.observation[:, 0]
    actions = params.online["actor"](observation).numpy()
    assert np.abs(actions).max() <= 1
    values = np.array([q_of(params, "online", observation[b], actions[b]) for b in range(B)])
    np.testing.assert_allclose(algo.loss(params, batch).losses["actor"], -weights(batch) * values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("action_spec", [BOX, DISCRETE], ids=["continuous", "discrete"])
def test_importance_weights_count_for_both_losses(action_spec: Any) -> None:
    algo, params, batch = setting(action_spec)
    factor = np.random.default_rng(0).uniform(0, 3, B).astype(np.float32)
    one, other = (algo.loss(params, b).losses for b in (batch, batch._replace(weight=batch.weight * factor)))
    for group in ("actor", "critic"):
        np.testing.assert_allclose(other[group], factor * one[group], rtol=1e-4, atol=1e-6)
        assert np.any(one[group] != 0)


@pytest.mark.parametrize("action_spec", [BOX, DISCRETE], ids=["continuous", "discrete"])
def test_windows_that_begin_with_a_last_row_give_no_gradient(action_spec: Any) -> None:
    algo, params, batch = setting(action_spec)
    batch = batch._replace(steps=batch.steps._replace(last=tf.ones_like(batch.steps.last)))
    grads = algo.compute_gradients(params, batch).grads
    assert set(grads) == {"actor", "critic"}
    assert all(np.all(grad.numpy() == 0) for group in grads.values() for grad in group)


@pytest.mark.parametrize("action_spec", [BOX, DISCRETE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("group", ["actor", "critic"])
def test_gradients_equal_finite_differences(group: str, action_spec: Any) -> None:
    # A group's gradient is that of its own loss alone: the actor's loss leaves the critic where it is.
    # Smooth networks, whose differences are exact enough in float32.
    MODELS.get("basic")
    gin.parse_config("MLP.activation = 'tanh'")
    algo, params, batch = setting(action_spec)
    variable = params.online[group].trainable_variables[-1]
    grads = algo.compute_gradients(params, batch).grads[group]
    for index in range(variable.shape[0]):
        means = []
        for sign in (1.0, -1.0):
            shift = sign * 1e-2 * tf.one_hot(index, variable.shape[0])
            variable.assign_add(shift)
            means.append(float(tf.reduce_mean(algo.loss(params, batch).losses[group])))
            variable.assign_sub(shift)
        difference = (means[0] - means[1]) / 2e-2
        np.testing.assert_allclose(grads[-1][index], difference, rtol=1e-2, atol=1e-4)
        assert abs(difference) > 1e-3


def test_a_step_along_the_actors_gradient_raises_the_value_of_its_actions() -> None:
    algo, params, batch = setting(BOX)
    before = float(tf.reduce_mean(algo.loss(params, batch).losses["actor"]))
    grads = algo.compute_gradients(params, batch).grads["actor"]
    for variable, grad in zip(params.online["actor"].trainable_variables, grads, strict=True):
        variable.assign_sub(1e-2 * grad)
    assert float(tf.reduce_mean(algo.loss(params, batch).losses["actor"])) < before


def test_discrete_actors_are_judged_by_the_mean_over_their_softmax_and_small_logits() -> None:
    algo, params, batch = setting(DISCRETE, logit_weight=0.1)
    observation = batch.steps.observation[:, 0]
    logits = params.online["actor"](observation).numpy()
    assert logits.shape == (B, 3)
    values = np.array([mean_q(params, "online", observation[b]) for b in range(B)])
    expected = weights(batch) * (-values + 0.1 * np.square(logits).sum(-1))
    np.testing.assert_allclose(algo.loss(params, batch).losses["actor"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_actions_are_scaled_to_the_bounds_and_back(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-3, 0, shape).astype(np.float32)
    high = low + rng.uniform(1, 5, shape).astype(np.float32)
    actor, size = MODELS.get("actor")(specs.BoundedArray(shape, np.float32, low, high)), int(np.prod(shape))
    for number, bound in [(-1.0, low), (0.0, (low + high) / 2), (1.0, high)]:
        np.testing.assert_allclose(actor.to_environment(tf.fill([5, size], number)), np.stack([bound] * 5), rtol=1e-5)
    inside = rng.uniform(-1, 1, [5, size]).astype(np.float32)
    outside = actor.to_environment(tf.constant(inside))
    assert outside.shape == (5, *shape)
    np.testing.assert_allclose(actor.from_environment(outside), inside, rtol=1e-4, atol=1e-5)


def test_bounds_may_be_one_number_for_all() -> None:
    actor = MODELS.get("actor")(specs.BoundedArray((2, 2), np.float32, -3.0, 1.0))
    np.testing.assert_allclose(actor.to_environment(tf.ones([1, 4])), np.ones([1, 2, 2]))
    np.testing.assert_allclose(actor.to_environment(-tf.ones([1, 4])), np.full([1, 2, 2], -3.0))


def act(
    algo: DDPG, params: Params, env_steps: int, training: bool = True, lanes: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Actions in one state, and the core."""
    params = params._replace(env_steps=tf.constant(env_steps))
    observation = tf.tile(STATE, [lanes, 1])
    core = algo.initial_core(params, np.zeros(lanes))
    action, extras, core = algo.select_action(params, observation, core, tf.constant([5, seed]), training)
    assert extras == {}
    return action.numpy(), np.asarray(core)


def test_acts_greedily_in_the_bounds_without_training() -> None:
    algo, params, _ = setting(BOX)
    action, core = act(algo, params, 0, training=False, lanes=3)
    outputs = params.online["actor"](STATE).numpy()[0]
    np.testing.assert_allclose(action, [LOW + (outputs + 1) / 2 * (HIGH - LOW)] * 3, rtol=1e-5)
    np.testing.assert_array_equal(core, np.zeros([3, 2]))
    algo, params, _ = setting(DISCRETE)
    action, _ = act(algo, params, 0, training=False, lanes=3)
    assert action.dtype == np.int32
    np.testing.assert_array_equal(action, [np.argmax(params.online["actor"](STATE))] * 3)


def test_actions_are_uniformly_random_for_the_first_steps() -> None:
    algo, params, _ = setting(BOX, random_steps=100)
    action, _ = act(algo, params, 99)
    place = (action - LOW) / (HIGH - LOW)
    # 2,000 uniform numbers: the mean's standard deviation is 0.0065, a tenth's frequency has 0.0067.
    for i in range(2):
        assert abs(place[:, i].mean() - 0.5) < 0.033
        frequencies = np.histogram(place[:, i], bins=10, range=(0, 1))[0] / 2000
        assert np.all(np.abs(frequencies - 0.1) < 0.034)
    later, core = act(algo, params, 100)
    greedy, _ = act(algo, params, 100, training=False)
    # Then the noise of the first step, of deviation 0.2 in half of the range, which the core remembers.
    expected = np.clip((greedy - LOW) / (HIGH - LOW) * 2 - 1 + core, -1, 1)
    np.testing.assert_allclose((later - LOW) / (HIGH - LOW) * 2 - 1, expected, rtol=1e-4, atol=1e-5)
    assert abs(core.std() - 0.2) < 0.02


def test_discrete_actions_are_uniformly_random_first_and_then_sampled_from_the_softmax() -> None:
    algo, params, _ = setting(DISCRETE, random_steps=100)
    params.online["actor"].trainable_variables[-1].assign([2.0, 0.0, -2.0])
    logits = params.online["actor"](STATE).numpy()[0]
    for env_steps, probabilities in [(0, np.full(3, 1 / 3)), (100, np.exp(logits) / np.exp(logits).sum())]:
        action, _ = act(algo, params, env_steps)
        frequencies = np.bincount(action, minlength=3) / 2000
        assert np.all(np.abs(frequencies - probabilities) < 5 * np.sqrt(probabilities * (1 - probabilities) / 2000))


def test_noise_never_leaves_the_bounds() -> None:
    algo, params, _ = setting(BOX, act_select="normal_noise", random_steps=0)
    params.online["actor"].trainable_variables[-1].assign([3.0, -3.0])
    action, _ = act(algo, params, 0)
    assert np.all(action <= HIGH)
    assert np.all(action >= LOW)
    assert action[:, 0].max() == HIGH[0]


def test_both_networks_have_targets_that_follow() -> None:
    targets = DDPG(target_update_rate=0.01, target_update_period=2).targets()
    assert {group: (t.period, t.rate) for group, t in targets.items()} == {"actor": (2, 0.01), "critic": (2, 0.01)}
    algo, _, _ = setting(BOX)
    params = networks(algo, OBSERVATION, BOX)
    for group in ("actor", "critic"):
        for online, target in zip(params.online[group].variables, params.target[group].variables, strict=True):
            np.testing.assert_array_equal(online, target)


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (-1.0, np.inf), (np.array([-1, -np.inf]), 1.0)])
def test_an_unbounded_box_is_refused_in_one_sentence(bounds: tuple[Any, Any]) -> None:
    with pytest.raises(UserError, match=r"^DDPG squashes its actions .* this space has none: .*ppo\.$"):
        DDPG().check(OBSERVATION, specs.BoundedArray((2,), np.float32, *bounds))


@pytest.mark.parametrize(
    ("low", "high"),
    [((-1.0, 0.0), (1.0, 0.0)), ((1e9, -2.0), (1e9, 2.0)), ((3.0, 7.0), (3.0, 7.0)), ((0.0, -1.0), (1e-42, 1.0))],
)
def test_a_dimension_with_one_value_is_a_constant(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    spec = specs.BoundedArray((2,), np.float32, low, high)
    algo, params, batch = setting(spec)
    algo.check(OBSERVATION, spec)
    actor, critic = params.online["actor"], params.online["critic"]
    flat = [high[i] - low[i] < 1e-40 for i in range(2)]
    action, _ = act(algo, params, 1_000_000)
    assert ((action >= spec.minimum) & (action <= spec.maximum)).all()
    np.testing.assert_array_equal(actor.from_environment(action).numpy()[:, flat], 0.0)
    rows = tf.constant(np.random.default_rng(0).uniform(low, high, [*batch.steps.reward.shape, 2]), tf.float32)
    batch = batch._replace(steps=batch.steps._replace(action=rows))
    states = batch.steps.observation[:, 0]
    np.testing.assert_array_equal(actor(states).numpy()[:, flat], 0.0)
    # A relu makes 0 of NaN, so that a critic which sees one gives the same finite value for every state.
    assert len(np.unique(critic(states, actor.from_environment(rows[:, 0])))) == B
    update = algo.compute_gradients(params, batch)
    for part in (update.priorities, *update.metrics.values(), *(g for grads in update.grads.values() for g in grads)):
        assert np.isfinite(part).all()
    assert all(np.abs(gradient).max() > 0 for gradient in update.grads["critic"])


def test_bounds_whose_distance_no_float_holds_are_none() -> None:
    with pytest.raises(UserError, match="this space has none"):
        DDPG().check(OBSERVATION, specs.BoundedArray((1,), np.float32, -3e38, 3e38))


def test_a_bounded_box_is_served_however_its_bounds_are_written() -> None:
    DDPG().check(OBSERVATION, BOX)
    DDPG().check(OBSERVATION, specs.BoundedArray((2,), np.float32, -1.0, HIGH))


@pytest.mark.parametrize(
    ("act_select", "action_spec", "fit"),
    [
        ("ou_noise", ACTION, "epsilon or epsilon_by_lane or max or non_uniform_random or random or uniform_random"),
        ("epsilon", BOX, "normal_noise or ou_noise"),
    ],
)
def test_an_action_function_of_the_wrong_kind_is_refused(act_select: str, action_spec: Any, fit: str) -> None:
    with pytest.raises(UserError, match=f"'{act_select}' takes .*: use {fit}"):
        DDPG(act_select=act_select).check(OBSERVATION, action_spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_step": 0}, r"DDPG\.n_step is 0"),
        ({"gamma": -0.1}, r"DDPG\.gamma is -0.1"),
        ({"actor_learning_rate": 0.0}, r"DDPG\.actor_learning_rate is 0.0"),
        ({"target_update_rate": 1.5}, r"DDPG\.target_update_rate is 1.5"),
        ({"critic_grad_comp": "ddpg"}, "use huber or mean_squared_error"),
        ({"actor_grad_comp": "huber"}, "use ddpg"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DDPG(**settings)
