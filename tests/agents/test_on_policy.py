"""VPG and PPO: what becomes of a rollout, and their losses, against literal numpy and finite differences."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.on_policy import OnPolicy
from agents.algos.ppo import PPO
from agents.algos.vpg import VPG
from agents.models.moments import Moments, measure
from pipeline.types import Batch, Params, Step, UserError
from tests.agents.helpers import ACTION, OBSERVATION, random_steps

B, T, GAMMA, LAMBDA = 4, 7, 0.9, 0.95
MULTI = specs.BoundedArray((2,), np.int32, 0, np.array([1, 3]))
BOX = specs.BoundedArray((2, 3), np.float32, -1.0, 1.0)


def networks_of(algo: OnPolicy, action_spec: Any = ACTION) -> Params:
    """Networks whose policy depends on the state, and moments as after some rollouts."""
    tf.keras.utils.set_random_seed(1)
    params = networks(algo, OBSERVATION, action_spec)
    for model in params.online.values():
        for variable in model.trainable_variables:
            variable.assign_add(0.2 * tf.random.normal(variable.shape))
    for moments in params.moments.values():
        moments.mean.assign(tf.random.normal(moments.mean.shape))
        moments.variance.assign(tf.random.uniform(moments.variance.shape, 0.5, 9.0))
    return params


def rollouts(seed: int = 0) -> Batch:
    """Windows of T + 1 rows with LAST rows in any place; the probabilities of acting are not those of the policy."""
    steps = random_steps((B, T + 1), seed)
    log_prob = np.random.default_rng(seed + 1).uniform(-1.2, -0.3, [B, T + 1]).astype(np.float32)
    steps = steps._replace(extras={**steps.extras, "log_prob": tf.constant(log_prob)})
    return Batch(steps, tf.ones([B]), tf.constant([0, 0]))


class Literal:
    """What `prepare` must find, element by element; arrays [B, T]."""

    def __init__(self, steps: Step, value: np.ndarray, gae_lambda: float, reward_unit: float = 1.0):
        last, discount, reward = steps.last.numpy(), steps.discount.numpy(), steps.reward.numpy() / reward_unit
        self.live = ~last[:, :-1]
        self.advantage = np.zeros([B, T])
        for b in range(B):
            for start in range(T):
                factor, t = 1.0, start
                while t < T and not last[b, t]:
                    delta = reward[b, t] + GAMMA * discount[b, t] * value[b, t + 1] - value[b, t]
                    self.advantage[b, start] += factor * delta
                    factor *= GAMMA * gae_lambda * discount[b, t]
                    t += 1
        self.target = self.advantage + value[:, :-1]
        self.value = value[:, :-1]

    def weight(self) -> np.ndarray:
        return np.where(self.live, self.live.size / np.count_nonzero(self.live), 0.0)

    def normalised(self) -> np.ndarray:
        of_live = self.advantage[self.live]
        return np.where(self.live, (self.advantage - of_live.mean()) / of_live.std(), 0.0)


def discounted_rewards(steps: Step) -> np.ndarray:
    """Up to the rollout's end, [B, T]."""
    return Literal(steps, np.zeros([B, T + 1]), 1.0).target


def values_of(params: Params, steps: Step) -> np.ndarray:
    """The value network's, one state at a time."""
    rows = [
        [float(params.online["value"](steps.observation[b, t][None])[0, 0]) for t in range(T + 1)] for b in range(B)
    ]
    return np.array(rows)


def assert_examples(batch: Batch, **expected: np.ndarray) -> None:
    for name, numbers in expected.items():
        found = getattr(batch.steps.extras["examples"], name)
        np.testing.assert_allclose(found, numbers.reshape(B * T), rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("make", [PPO, VPG])
def test_prepare_equals_literal_numpy(make: Any) -> None:
    algo, windows = make(gamma=GAMMA), rollouts()
    params = networks_of(algo)
    batch = algo.prepare(params, windows)
    literal = Literal(windows.steps, values_of(params, windows.steps), LAMBDA if make is PPO else 1.0)
    assert_examples(
        batch,
        advantage=literal.normalised(),
        target=literal.target,
        value=literal.value,
        raw_return=discounted_rewards(windows.steps),
    )
    np.testing.assert_allclose(batch.weight, literal.weight().reshape(-1), rtol=1e-5)
    assert 0 < np.count_nonzero(~literal.live) < literal.live.size


def test_advantages_may_stay_as_they_are() -> None:
    algo, windows = PPO(gamma=GAMMA, normalize_advantages=False), rollouts()
    params = networks_of(algo)
    literal = Literal(windows.steps, values_of(params, windows.steps), LAMBDA)
    assert_examples(algo.prepare(params, windows), advantage=literal.advantage, target=literal.target)


def test_weights_of_last_rows_are_0_and_the_mean_is_1() -> None:
    windows = rollouts(seed=5)
    algo = PPO()
    params = networks_of(algo)
    batch = algo.prepare(params, windows)
    last = windows.steps.last[:, :-1].numpy().reshape(-1)
    assert np.all((batch.weight.numpy() == 0) == last)
    assert np.mean(batch.weight) == pytest.approx(1.0, rel=1e-5)
    advantage = batch.steps.extras["examples"].advantage.numpy()
    assert np.all(advantage[last] == 0)
    assert np.mean(advantage[~last]) == pytest.approx(0.0, abs=1e-5)
    assert np.std(advantage[~last]) == pytest.approx(1.0, rel=1e-4)


def test_transitions_keep_their_rows_lane_by_lane() -> None:
    windows = rollouts()
    algo = PPO()
    batch = algo.prepare(networks_of(algo), windows)
    for field in ("observation", "action", "reward", "discount", "last"):
        rows = getattr(windows.steps, field).numpy()
        np.testing.assert_array_equal(getattr(batch.steps, field), rows[:, :-1].reshape(B * T, *rows.shape[2:]))
    log_prob = windows.steps.extras["log_prob"].numpy()[:, :-1]
    np.testing.assert_array_equal(batch.steps.extras["log_prob"], log_prob.reshape(-1))


def test_rollouts_of_last_rows_alone_count_for_nothing() -> None:
    windows = rollouts()
    windows = windows._replace(steps=windows.steps._replace(last=tf.ones_like(windows.steps.last)))
    algo = PPO()
    params = networks_of(algo)
    batch = algo.prepare(params, windows)
    np.testing.assert_array_equal(batch.weight, np.zeros(B * T))
    grads = algo.compute_gradients(params, batch).grads
    assert all(np.all(grad.numpy() == 0) for group in grads.values() for grad in group)


@pytest.mark.parametrize("make", [PPO, VPG])
def test_with_normalised_returns_rewards_are_divided_by_the_deviation_of_returns(make: Any) -> None:
    algo, windows = make(gamma=GAMMA, normalize_returns=True), rollouts()
    params = networks_of(algo)
    deviation = float(params.moments["return"].variance) ** 0.5
    assert abs(deviation - 1) > 0.1
    value = values_of(params, windows.steps)
    literal = Literal(windows.steps, value, LAMBDA if make is PPO else 1.0, reward_unit=deviation)
    batch = algo.prepare(params, windows)
    # Whatever the value function says: else its values and the deviation would drive each other up.
    raw = discounted_rewards(windows.steps)
    assert_examples(batch, advantage=literal.normalised(), target=literal.target, raw_return=raw)
    measured = algo.measure(params, batch)
    assert set(measured) == {"return"}
    np.testing.assert_allclose(measured["return"], raw.reshape(-1), rtol=1e-3, atol=1e-4)
    # Rows keep the environment's own rewards.
    np.testing.assert_array_equal(batch.steps.reward, windows.steps.reward[:, :-1].numpy().reshape(-1))


def normalised(params: Params, observation: np.ndarray) -> np.ndarray:
    mean, variance = params.moments["observation"].mean.numpy(), params.moments["observation"].variance.numpy()
    return np.clip((observation - mean) / np.sqrt(variance + 1e-8), -10, 10)


def test_normalised_observations_are_what_both_networks_see() -> None:
    windows = rollouts()
    far = windows.steps.observation.numpy()
    far[0, 0] = [1e3, -1e3, 0.0, 5.0]
    windows = windows._replace(steps=windows.steps._replace(observation=tf.constant(far)))
    algo, plain = PPO(gamma=GAMMA, normalize_observations=True), PPO(gamma=GAMMA)
    params = networks_of(algo)
    seen = windows._replace(steps=windows.steps._replace(observation=tf.constant(normalised(params, far), tf.float32)))
    batch, expected = algo.prepare(params, windows), plain.prepare(params, seen)
    for found, wanted in zip(batch.steps.extras["examples"], expected.steps.extras["examples"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        algo.loss(params, batch).losses["policy"], plain.loss(params, expected).losses["policy"], rtol=1e-4, atol=1e-5
    )
    for training in (False, True):
        one, other = (
            a.select_action(params, w.steps.observation[0], (), tf.constant([1, 1]), training)
            for a, w in ((algo, windows), (plain, seen))
        )
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1]["log_prob"], other[1]["log_prob"], rtol=1e-4)
    # The moments grow by the observations as they are.
    np.testing.assert_array_equal(
        algo.measure(params, batch)["observation"], far[:, :-1].reshape(B * T, OBSERVATION.shape[0])
    )


def test_moments_of_chunks_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal([5.0, -2.0, 0.0], [3.0, 0.1, 1.0], [1000, 3]).astype(np.float32)
    moments = Moments((3,))
    np.testing.assert_allclose(moments.deviation(), np.ones(3))
    done = 0
    for size in (1, 0, 9, 300, 0, 690):
        chunk = rows[done : done + size]
        moments.merge(measure(tf.constant(chunk), tf.ones([size], tf.bool)))
        done += size
        np.testing.assert_allclose(moments.mean, rows[:done].mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(moments.variance, rows[:done].var(0), rtol=1e-3, atol=1e-4)
        assert float(moments.count) == done
    np.testing.assert_allclose(
        moments.normalize(tf.constant(rows)), (rows - rows.mean(0)) / rows.std(0), rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize(("mean", "deviation"), [(1e3, 1.0), (1e3, 0.1), (-1e4, 1.0), (3.0, 1e-3), (0.0, 5.0)])
def test_variance_keeps_its_digits_far_from_zero(mean: float, deviation: float) -> None:
    rows = np.random.default_rng(0).normal(mean, deviation, [32, 512, 2]).astype(np.float32)
    moments = Moments((2,))
    for chunk in rows:
        moments.merge(measure(tf.constant(chunk), tf.ones([512], tf.bool)))
    exact = rows.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(moments.variance, exact.var(0), rtol=1e-3)
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-6, atol=1e-3 * deviation)


def test_nothing_measured_leaves_the_moments_as_they_were() -> None:
    moments = Moments((2,))
    moments.merge(measure(tf.constant([[7.0, float("nan")]]), tf.constant([False])))
    np.testing.assert_array_equal(moments.mean, [0, 0])
    np.testing.assert_array_equal(moments.variance, [1, 1])
    np.testing.assert_array_equal(moments.normalize(tf.constant([[100.0, -0.5]])), [[10.0, -0.5]])


def test_observations_of_several_arrays_cannot_be_normalised() -> None:
    nested = {"one": OBSERVATION, "two": OBSERVATION}
    PPO().check(nested, ACTION)
    with pytest.raises(UserError, match=r"PPO\.normalize_observations needs observations of one array"):
        PPO(normalize_observations=True).check(nested, ACTION)


def acted(algo: OnPolicy, params: Params, action_spec: Any) -> Batch:
    """Rollouts whose actions the policy itself chose."""
    observation = random_steps((B, T + 1)).observation
    actions, log_probs = [], []
    for t in range(T + 1):
        action, extras, core = algo.select_action(params, observation[:, t], (), tf.constant([9, t]), training=True)
        assert action.dtype == tf.as_dtype(action_spec.dtype)
        assert core == ()
        actions.append(action)
        log_probs.append(extras["log_prob"])
    steps = random_steps((B, T + 1))
    steps = steps._replace(
        action=tf.stack(actions, axis=1), extras={**steps.extras, "log_prob": tf.stack(log_probs, axis=1)}
    )
    return Batch(steps, tf.ones([B]), tf.constant([0, 0]))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("action_spec", [ACTION, MULTI, BOX], ids=["discrete", "multi-discrete", "continuous"])
def test_before_the_first_update_every_ratio_is_1(action_spec: Any, normalize: bool) -> None:
    algo = PPO(normalize_observations=normalize)
    params = networks_of(algo, action_spec)
    batch = algo.prepare(params, acted(algo, params, action_spec))
    observation = batch.steps.observation
    seen = normalised(params, observation.numpy()) if normalize else observation
    again = params.online["policy"].distribution(seen).log_prob(batch.steps.action)
    np.testing.assert_allclose(batch.steps.extras["log_prob"], again, rtol=1e-5, atol=1e-5)
    loss = algo.loss(params, batch)
    assert float(loss.metrics["kl"]) == pytest.approx(0.0, abs=1e-6)
    assert float(loss.metrics["clipped"]) == 0.0
    advantage = batch.steps.extras["examples"].advantage
    assert float(loss.metrics["policy_loss"]) == pytest.approx(-np.mean(batch.weight * advantage), abs=1e-5)


def test_acts_by_the_mode_without_training() -> None:
    algo = PPO()
    params = networks_of(algo)
    observation = random_steps((50, 1)).observation[:, 0]
    logits = params.online["policy"](observation).numpy()
    actions = [algo.select_action(params, observation, (), tf.constant([1, i]), training=False)[0] for i in (0, 1)]
    for action in actions:
        np.testing.assert_array_equal(action, np.argmax(logits, axis=-1))


def log_probs_and_entropies(params: Params, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    logits = params.online["policy"](batch.steps.observation).numpy().astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_prob = log_softmax[np.arange(len(logits)), batch.steps.action.numpy()]
    return log_prob, -np.sum(np.exp(log_softmax) * log_softmax, axis=-1)


@pytest.mark.parametrize("value_clip", [None, 0.1])
def test_the_loss_of_ppo_equals_literal_numpy(value_clip: float | None) -> None:
    algo = PPO(gamma=GAMMA, entropy_weight=0.3, value_clip=value_clip)
    params = networks_of(algo)
    batch = algo.prepare(params, rollouts())
    for variable in params.online["value"].trainable_variables:
        variable.assign_add(0.1 * tf.random.normal(variable.shape))
    log_prob, entropy = log_probs_and_entropies(params, batch)
    examples, weight = batch.steps.extras["examples"], batch.weight.numpy()
    old_log_prob = batch.steps.extras["log_prob"].numpy()
    value = params.online["value"](batch.steps.observation).numpy()[:, 0]
    policy_losses, value_losses, value_moves, ratios = [], [], [], np.exp(log_prob - old_log_prob)
    for i, ratio in enumerate(ratios):
        advantage, old, target = (float(column[i]) for column in (examples.advantage, examples.value, examples.target))
        surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
        policy_losses.append(weight[i] * (-surrogate - 0.3 * entropy[i]))
        error = 0.5 * (target - value[i]) ** 2
        if value_clip is not None:
            moved = old + min(max(value[i] - old, -value_clip), value_clip)
            error = max(error, 0.5 * (target - moved) ** 2)
        value_moves.append(abs(value[i] - old))
        value_losses.append(weight[i] * error)
    # Ratios and values lie on either side of the clipping.
    assert min(ratios) < 0.8
    assert max(ratios) > 1.2
    assert min(value_moves) < 0.1 < max(value_moves)

    loss = algo.loss(params, batch)
    np.testing.assert_allclose(loss.losses["policy"], policy_losses, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.losses["value"], value_losses, rtol=1e-4, atol=1e-5)
    assert loss.priorities is None
    assert set(loss.metrics) == set(algo.metrics)
    live, target, old = weight > 0, examples.target.numpy(), examples.value.numpy()
    expected = {
        "loss": np.mean(policy_losses) + np.mean(value_losses),
        "entropy": entropy[live].mean(),
        "kl": (ratios - 1 - np.log(ratios))[live].mean(),
        "clipped": np.mean(np.abs(ratios - 1)[live] > 0.2),
        "explained_variance": 1 - np.var((target - old)[live]) / np.var(target[live]),
    }
    for name, number in expected.items():
        assert float(loss.metrics[name]) == pytest.approx(number, rel=1e-3, abs=1e-5), name


def test_the_share_of_clipped_ratios_is_that_of_the_clip() -> None:
    gin.parse_config("ClippedSurrogate.clip = 0.5")
    algo = PPO(gamma=GAMMA)
    params = networks_of(algo)
    batch = algo.prepare(params, rollouts())
    log_prob, _ = log_probs_and_entropies(params, batch)
    ratios = np.exp(log_prob - batch.steps.extras["log_prob"].numpy())[batch.weight.numpy() > 0]
    assert float(algo.loss(params, batch).metrics["clipped"]) == pytest.approx(np.mean(np.abs(ratios - 1) > 0.5))


def test_the_loss_of_vpg_equals_literal_numpy() -> None:
    algo = VPG(gamma=GAMMA, entropy_weight=0.3)
    params = networks_of(algo)
    batch = algo.prepare(params, rollouts())
    log_prob, entropy = log_probs_and_entropies(params, batch)
    examples, weight = batch.steps.extras["examples"], batch.weight.numpy()
    value = params.online["value"](batch.steps.observation).numpy()[:, 0]
    loss = algo.loss(params, batch)
    np.testing.assert_allclose(
        loss.losses["policy"], weight * (-log_prob * examples.advantage - 0.3 * entropy), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        loss.losses["value"], weight * 0.5 * np.square(examples.target - value), rtol=1e-4, atol=1e-5
    )
    assert set(loss.metrics) == set(algo.metrics)
    live = weight > 0
    assert float(loss.metrics["return"]) == pytest.approx(np.mean(examples.raw_return.numpy()[live]), rel=1e-4)


@pytest.mark.parametrize("group", ["policy", "value"])
@pytest.mark.parametrize("make", [PPO, VPG])
def test_gradients_equal_finite_differences(make: Any, group: str) -> None:
    algo = make(gamma=GAMMA, entropy_weight=0.3)
    params = networks_of(algo)
    batch = algo.prepare(params, rollouts())
    biases = params.online[group].trainable_variables[-1]
    grads = algo.compute_gradients(params, batch).grads[group]

    def mean_loss(shift: tf.Tensor) -> float:
        biases.assign_add(shift)
        loss = float(tf.reduce_mean(algo.loss(params, batch).losses[group]))
        biases.assign_sub(shift)
        return loss

    for index in range(biases.shape[0]):
        shift = 3e-3 * tf.one_hot(index, biases.shape[0])
        difference = (mean_loss(shift) - mean_loss(-shift)) / 6e-3
        np.testing.assert_allclose(grads[-1][index], difference, rtol=1e-2, atol=3e-4)
        assert abs(difference) > 1e-3


def test_ppo_without_a_value_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"PPO\.value_model is ''"):
        PPO(value_model="")


def test_without_a_value_model_no_baseline_is_trained() -> None:
    algo, windows = VPG(gamma=GAMMA, value_model="", normalize_advantages=False), rollouts()
    params = networks_of(algo)
    assert set(params.online) == set(algo.optimizers()) == set(algo.learning_rates(tf.constant(0.0))) == {"policy"}
    batch = algo.prepare(params, windows)
    literal = Literal(windows.steps, np.zeros([B, T + 1]), 1.0)
    assert_examples(batch, advantage=literal.advantage, target=literal.advantage, value=np.zeros([B, T]))
    update = algo.compute_gradients(params, batch)
    assert set(update.grads) == {"policy"}
    assert float(update.metrics["value_loss"]) == 0.0


def test_without_a_baseline_the_advantage_is_the_return_to_go() -> None:
    algo = VPG(gamma=0.5, value_model="", normalize_advantages=False)
    params = networks_of(algo)
    steps = random_steps((1, 5))._replace(
        reward=tf.constant([[1.0, 2.0, 4.0, 0.0, 0.0]]),
        discount=tf.constant([[1.0, 1.0, 0.0, 1.0, 1.0]]),
        last=tf.constant([[False, False, False, True, True]]),
    )
    batch = algo.prepare(params, Batch(steps, tf.ones([1]), tf.constant([0, 0])))
    np.testing.assert_allclose(batch.steps.extras["examples"].advantage, [3.0, 4.0, 4.0, 0.0])
    np.testing.assert_allclose(batch.weight, [4 / 3, 4 / 3, 4 / 3, 0.0], rtol=1e-6)


def test_learning_rates_follow_the_schedule() -> None:
    half = tf.constant(0.5)
    ppo = PPO(learning_rate=0.02, lr_schedule="linear").learning_rates(half)
    vpg = VPG(policy_learning_rate=0.02, value_learning_rate=0.06, lr_schedule="linear").learning_rates(half)
    assert {group: float(rate) for group, rate in ppo.items()} == pytest.approx({"policy": 0.01, "value": 0.01})
    assert {group: float(rate) for group, rate in vpg.items()} == pytest.approx({"policy": 0.01, "value": 0.03})


def test_each_network_has_its_own_clipped_optimizer() -> None:
    made = PPO(max_gradient_norm=0.7, adam_epsilon=1e-3).optimizers()
    assert [(adam.global_clipnorm, adam.epsilon) for adam in made.values()] == [(0.7, 1e-3)] * 2
    assert set(made) == {"policy", "value"}


def test_rollouts_of_ppo_have_a_length_and_those_of_vpg_whole_episodes() -> None:
    ppo, vpg = PPO(rollout_length=32, batch_size=64, epochs=3).data(), VPG(longest_episode=100).data()
    assert (ppo.memory, ppo.window, ppo.batch_size, ppo.epochs, ppo.whole_episodes) == ("queue", 33, 64, 3, False)
    assert (vpg.memory, vpg.window, vpg.batch_size, vpg.epochs, vpg.whole_episodes) == ("queue", 101, 0, 1, True)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (PPO, {"rollout_length": 0}, r"PPO\.rollout_length is 0"),
        (PPO, {"epochs": 0}, r"PPO\.epochs is 0"),
        (PPO, {"batch_size": -1}, r"PPO\.batch_size is -1"),
        (PPO, {"gamma": 1.1}, r"PPO\.gamma is 1.1"),
        (PPO, {"learning_rate": 0.0}, r"learning_rate is 0.0"),
        (
            PPO,
            {"grad_comp": "huber"},
            "'huber' takes errors, and advantages are what there is: use policy_gradient or ppo",
        ),
        (PPO, {"advantage": "gea"}, "did you mean gae"),
        (VPG, {"longest_episode": 0}, r"VPG\.longest_episode is 0"),
        (VPG, {"value_learning_rate": -1.0}, r"VPG\.value_learning_rate is -1.0"),
    ],
)
def test_impossible_settings_are_refused(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**settings)
