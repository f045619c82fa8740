"""tf-agents' agents as algorithms: the same trajectories and updates as by hand, whole checkpoints, recurrent cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest
import tensorflow as tf
import tf_agents.train  # noqa: F401 the module that has a Learner of its own
import tree
from tf_agents.agents import DqnAgent, TFAgent
from tf_agents.networks.q_rnn_network import QRnnNetwork
from tf_agents.trajectories import TimeStep, Trajectory
from tf_agents.utils import common

from agents.actor import Policy, make_rows
from agents.algos.algo import networks
from agents.algos.tf_agents_algo import GROUP, TFAgentAlgo, adam, agent_of, trajectory
from agents.algos.tf_agents_dqn import TFAgentsDQN
from agents.algos.tf_agents_ppo import TFAgentsPPO
from agents.algos.tf_agents_sac import TFAgentsSAC
from agents.algos.tf_agents_td3 import TFAgentsTD3
from agents.learner import STAMPS, Learner, make_strategy
from agents.losses.policies import is_continuous
from binaries import settings
from pipeline.dataset import Draw
from pipeline.types import Batch, Data, Params, Step, UserError
from servers.memory.prioritized import Prioritized
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.agents.helpers import feed

OBSERVATION = specs.Array((3,), np.float32)
DISCRETE = specs.DiscreteArray(2, np.int32)
CONTINUOUS = specs.BoundedArray((2,), np.float32, [-1.0, -2.0], [1.0, 2.0])
FIRST, MID, LAST = 0, 1, 2
K, B = 2, 8

REPLAY: dict[str, tuple[Callable[[], TFAgentAlgo], Any]] = {
    "dqn": (lambda: TFAgentsDQN(batch_size=B, target_update_period=3), DISCRETE),
    "sac": (lambda: TFAgentsSAC(batch_size=B, hidden_sizes=(16,)), CONTINUOUS),
    "td3": (lambda: TFAgentsTD3(batch_size=B, hidden_sizes=(16,)), CONTINUOUS),
}
EVERY = {**REPLAY, "ppo": (lambda: TFAgentsPPO(batch_size=B, rollout_length=4, epochs=1), DISCRETE)}


def stream(ends: str) -> Step:
    """One lane's rows [T + 1] as an `Actor` writes them: '.' goes on, 't' terminates, 'c' is cut, '|' is a LAST row."""
    last = np.array([end == "|" for end in ends])
    count = len(ends)
    step: Any = Step(
        observation=np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        action=np.where(last, 0, np.arange(count) % 2).astype(np.int32),
        reward=np.where(last, 0, 1.0 + np.arange(count)).astype(np.float32),
        discount=np.array([end != "t" for end in ends], np.float32),
        first=np.concatenate([[True], last[:-1]]),
        last=last,
        extras=dict.fromkeys(STAMPS, np.zeros(count, np.int32)),
    )
    return step


def windows(step: Step, length: int) -> Step:
    """Every window of `length` rows, [B, length, ...]."""
    count = len(step.reward) - length + 1
    stacked: Any = tree.map_structure(lambda leaf: tf.stack([leaf[i : i + length] for i in range(count)]), step)
    return stacked


def random_steps(leading: tuple[int, ...], algo: TFAgentAlgo, action_spec: Any, seed: int = 0) -> Step:
    """Rows [*leading, ...] of random numbers, some LAST, some terminated."""
    rng = np.random.default_rng(seed)
    extras = make_rows(algo, OBSERVATION, action_spec).spec.extras
    number: Any = lambda spec: rng.normal(size=[*leading, *spec.shape]).astype(spec.dtype)  # noqa: E731
    action = number(action_spec) if is_continuous(action_spec) else rng.integers(0, 2, leading).astype(np.int32)
    step: Any = Step(
        observation=number(OBSERVATION),
        action=np.clip(action, action_spec.minimum, action_spec.maximum),
        reward=rng.normal(size=leading).astype(np.float32),
        discount=(rng.random(leading) > 0.2).astype(np.float32),
        first=np.zeros(leading, bool),
        last=rng.random(leading) < 0.2,
        extras={**{n: number(s) for n, s in extras.items()}, **dict.fromkeys(STAMPS, np.zeros(leading, np.int32))},
    )
    made: Any = tree.map_structure(tf.constant, step)
    return made


def batch_of(steps: Step) -> Batch:
    return Batch(steps, tf.ones(steps.reward.shape[0]), tf.constant([0, 0]))


def parameters(params: Params) -> list[np.ndarray]:
    return params.online[GROUP].get_weights()


def new(algo: TFAgentAlgo, action_spec: Any) -> Params:
    tf.keras.utils.set_random_seed(0)
    return networks(algo, OBSERVATION, action_spec)


def learner_of(name: str, xla: bool = True) -> Learner:
    """A learner that has a draw to learn from, the same for every learner of `name`."""
    make, action_spec = EVERY[name]
    algo = make()
    tf.keras.utils.set_random_seed(0)
    memory, strategy = Queue() if name == "ppo" else Uniform(), make_strategy("local")
    learner = Learner(algo, memory, strategy, OBSERVATION, action_spec, 1000, 0, updates_per_call=K, xla=xla)
    batches, window = learner.batches, algo.data().window
    steps = random_steps((batches, B, window), algo, action_spec)
    feed(
        learner,
        Draw(steps, tf.ones([batches, B]), tf.zeros([batches * B], tf.uint64), tf.zeros([batches * B], tf.int32)),
    )
    return learner


# Rows become trajectories.


@pytest.mark.parametrize(("end", "discount"), [("t", 0.0), ("c", 1.0)], ids=["terminated episode", "truncated episode"])
def test_an_episode_becomes_the_trajectory_that_tf_agents_would_write(end: str, discount: float) -> None:
    step: Any = tree.map_structure(lambda leaf: tf.constant(leaf)[None], stream(f"..{end}|.."))
    made: Any = tree.map_structure(lambda leaf: leaf.numpy()[0].tolist(), trajectory(step, ()))
    assert made.step_type == [FIRST, MID, MID, LAST, FIRST, MID]
    assert made.next_step_type == [MID, MID, LAST, FIRST, MID, MID]
    assert made.reward == [1.0, 2.0, 3.0, 0.0, 5.0, 6.0]
    assert made.discount == [1.0, 1.0, discount, 1.0, 1.0, 1.0]
    assert made.action == [0, 1, 0, 0, 0, 1]
    assert made.observation[3] == [9.0, 10.0, 11.0]
    assert made.policy_info == ()


def test_windows_of_two_rows_are_transitions() -> None:
    pairs: Any = trajectory(windows(stream(".t|.c|"), 2), ())
    assert pairs.step_type.numpy().tolist() == [[FIRST, MID], [MID, LAST], [LAST, FIRST], [FIRST, MID], [MID, LAST]]
    assert pairs.next_step_type[:, 0].numpy().tolist() == [MID, LAST, FIRST, MID, LAST]
    assert pairs.discount[:, 0].numpy().tolist() == [1.0, 0.0, 1.0, 1.0, 1.0]
    assert pairs.reward[:, 0].numpy().tolist() == [1.0, 2.0, 0.0, 4.0, 5.0]


def test_an_entry_after_a_window_that_ends_with_a_last_row_is_a_first_one() -> None:
    pair: Any = trajectory(windows(stream("c|"), 2), ())
    assert pair.next_step_type.numpy().tolist() == [[LAST, FIRST]]


def test_the_policys_info_travels_in_the_extras() -> None:
    algo = TFAgentsPPO()
    params = new(algo, DISCRETE)
    assert [s.shape for s in algo.extras_spec(OBSERVATION, DISCRETE).values()] == [(2,), ()]
    policy = Policy(algo, params, OBSERVATION, lanes=4, seed=0, training=True)
    _, extras = policy(np.ones([4, 3], np.float32), np.ones(4, bool), env_steps=0)
    step = windows(stream("...."), 4)
    step = step._replace(extras={name: tf.constant(value)[None] for name, value in extras.items()})
    info: Any = trajectory(step, agent_of(params).collect_policy.info_spec).policy_info
    agent: Any = agent_of(params)
    expected, _ = agent._actor_net(tf.ones([4, 3]), step_type=tf.ones([4], tf.int32), network_state=())
    np.testing.assert_allclose(info["dist_params"]["logits"][0], expected.logits, rtol=1e-5)


# An update is the agent's own.


def test_dqns_first_update_is_that_of_the_agent_alone() -> None:
    algo = TFAgentsDQN(batch_size=5, learning_rate=0.1)
    params, alone = new(algo, DISCRETE), agent_of(new(algo, DISCRETE))
    step = stream(".t|.c|")
    update = algo.train(params, batch_of(windows(step, 2)))
    # By hand: what tf-agents' own driver would have written; its boundary entry lies in the third pair.
    pair = lambda leaf: tf.stack([leaf[i : i + 2] for i in range(5)])  # noqa: E731
    by_hand = Trajectory(
        step_type=pair(tf.constant([FIRST, MID, LAST, FIRST, MID, LAST])),
        observation=pair(step.observation),
        action=pair(step.action),
        policy_info=(),
        next_step_type=pair(tf.constant([MID, LAST, FIRST, MID, LAST, FIRST])),
        reward=pair(tf.constant([1.0, 2.0, 0.0, 4.0, 5.0, 0.0])),
        discount=pair(tf.constant([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])),
    )
    loss = alone.train(by_hand)
    assert float(update.metrics["loss"]) == pytest.approx(float(loss.loss))
    np.testing.assert_allclose(update.priorities, np.abs(loss.extra.td_error) + 1e-6, rtol=1e-6)
    assert update.grads == {}
    for one, other in zip(agent_of(params).variables, alone.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_ppos_first_update_is_that_of_the_agent_alone() -> None:
    algo = TFAgentsPPO(rollout_length=5, learning_rate=0.1)
    params, step = new(algo, DISCRETE), stream(".t|.c|")
    alone: Any = agent_of(new(algo, DISCRETE))
    logits, stale = np.random.default_rng(0).normal(size=[6, 2]).astype(np.float32), np.full(6, 99.0, np.float32)
    step = step._replace(extras={**step.extras, "policy_info_0": logits, "policy_info_1": stale})
    prepared = algo.prepare(params, batch_of(windows(step, 6)))
    assert prepared.weight.numpy().tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]
    update = algo.train(params, prepared)
    value, _ = alone._value_net(step.observation[None], tf.zeros([1, 6], tf.int32), network_state=())
    by_hand = Trajectory(
        step_type=tf.constant([[FIRST, MID, LAST, FIRST, MID, LAST]]),
        observation=tf.constant(step.observation[None]),
        action=tf.constant(step.action[None]),
        policy_info={"dist_params": {"logits": tf.constant(logits[None])}, "value_prediction": value},
        next_step_type=tf.constant([[MID, LAST, FIRST, MID, LAST, FIRST]]),
        reward=tf.constant([[1.0, 2.0, 0.0, 4.0, 5.0, 0.0]]),
        discount=tf.constant([[1.0, 0.0, 1.0, 1.0, 1.0, 1.0]]),
    )
    entries: Any = tf.nest.map_structure(lambda leaf: leaf[0, :-1, None], alone.preprocess_sequence(by_hand))
    loss = alone.train(entries)
    assert float(update.metrics["loss"]) == pytest.approx(float(loss.loss))
    for one, other in zip(agent_of(params).variables, alone.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_dqns_n_step_returns_end_where_an_episode_was_truncated() -> None:
    algo = TFAgentsDQN(gamma=0.5, n_step=3)
    params = new(algo, DISCRETE)
    agent: Any = agent_of(params)
    made: Any = algo.experience(agent, batch_of(windows(stream("..c|..t|"), 4)))[0]
    after = made.next_time_step
    # Rows 0 to 4 begin a window; the rewards are 1, 2, 3, 0, 5, 6, 7.
    assert after.reward.numpy().tolist() == [1 + 2 / 2 + 3 / 4, 2 + 3 / 2, 3, 0, 5 + 6 / 2 + 7 / 4]
    assert after.discount.numpy().tolist() == [1 / 4, 1 / 2, 1, 2, 0]
    assert after.observation[:, 0].numpy().tolist() == [9, 9, 9, 9, 21]
    assert made.time_step.is_last().numpy().tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("name", REPLAY)
def test_a_window_that_begins_with_a_last_row_teaches_nothing(name: str) -> None:
    make, action_spec = REPLAY[name]
    after = []
    for noise in (0.0, 100.0):
        algo = make()
        params = new(algo, action_spec)
        steps = random_steps((B, 2), algo, action_spec)
        boundary = tf.constant([[True] + [False] * (B - 1)])[0][:, None]
        steps = steps._replace(
            last=tf.concat([boundary, tf.zeros([B, 1], tf.bool)], axis=1),
            observation=steps.observation + noise * tf.cast(boundary[:, :, None], tf.float32),
            reward=steps.reward + noise * tf.cast(boundary, tf.float32),
        )
        # The same noise for both.
        tf.keras.utils.set_random_seed(1)
        algo.train(params, batch_of(steps))
        after.append(parameters(params))
    for one, other in zip(*after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_weights_scale_the_losses() -> None:
    algo = TFAgentsDQN(batch_size=B)
    batch = batch_of(random_steps((B, 2), algo, DISCRETE))
    full = algo.train(new(algo, DISCRETE), batch).metrics["loss"]
    half = algo.train(new(algo, DISCRETE), batch._replace(weight=batch.weight / 2)).metrics["loss"]
    assert float(half) == pytest.approx(float(full) / 2)


def test_td_errors_become_priorities() -> None:
    learner = Learner(
        TFAgentsDQN(batch_size=B, memory="prioritized"),
        Prioritized(),
        make_strategy("local"),
        OBSERVATION,
        DISCRETE,
        train_steps=1000,
        seed=0,
        updates_per_call=K,
    )
    steps = random_steps((K, B, 2), TFAgentsDQN(), DISCRETE)
    feed(learner, Draw(steps, tf.ones([K, B]), tf.zeros([K * B], tf.uint64), tf.zeros([K * B], tf.int32)))
    metrics = learner.run(0)
    assert 0 < metrics["priority_mean"] < metrics["priority_max"]
    assert metrics["priority_mean"] == pytest.approx(metrics["td_error"], rel=1e-4)


@pytest.mark.parametrize("xla", [True, False], ids=["xla", "without xla"])
def test_the_learners_loop_is_as_many_updates_of_the_agent(xla: bool) -> None:
    learner = learner_of("dqn", xla)
    draw = learner.next_draw()
    algo = EVERY["dqn"][0]()
    params = new(algo, DISCRETE)
    for _ in range(2):
        learner.run(0)
        for k in range(K):
            steps: Any = tree.map_structure(lambda leaf, k=k: leaf[k], draw.steps)
            algo.train(params, batch_of(steps))
    assert learner.updates == int(agent_of(learner.params).train_step_counter.numpy()) == 2 * K
    assert learner.trace_count() == 1
    for one, other in zip(parameters(learner.params), parameters(params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


# All of the agent's state is the learner's.


@pytest.mark.parametrize("name", EVERY)
def test_a_checkpoint_holds_all_of_the_agent(name: str, tmp_path: Path) -> None:
    learner, other = learner_of(name), learner_of(name)
    learner.run(0)
    learner.write(tmp_path / "learner")
    other.read(tmp_path / "learner")
    assert other.updates == learner.updates > 0
    for one, same in zip(parameters(learner.params), parameters(other.params), strict=True):
        np.testing.assert_array_equal(one, same)
    if name in ("dqn", "ppo"):  # the others' noise goes on, and is not in the checkpoint
        learner.run(0)
        other.run(0)
        for one, same in zip(parameters(learner.params), parameters(other.params), strict=True):
            np.testing.assert_allclose(one, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_after_a_restore_the_agents_learning_rates_are_those_of_the_settings(name: str, tmp_path: Path) -> None:
    learner, other = learner_of(name), learner_of(name)
    rates = optimizer_rates(learner)
    assert rates
    for rate in rates:
        rate.assign(2 * rate)
    learner.write(tmp_path / "learner")
    other.read(tmp_path / "learner")
    assert [2 * float(rate) for rate in optimizer_rates(other)] == [float(rate) for rate in rates]


def optimizer_rates(learner: Learner) -> list[Any]:
    """The variables of all optimizers of the learner's agent."""
    parts: list[Any] = list(vars(agent_of(learner.params)).values())
    kinds: Any = (tf.keras.optimizers.Optimizer, tf.keras.optimizers.legacy.Optimizer)
    return [part.learning_rate for part in parts if isinstance(part, kinds)]


# Acting.


@pytest.mark.parametrize("name", EVERY)
def test_without_training_it_acts_greedily(name: str) -> None:
    make, action_spec = EVERY[name]
    algo = make()
    params = new(algo, action_spec)
    policy = Policy(algo, params, OBSERVATION, lanes=50, seed=0, training=False)
    states = np.ones([50, 3], np.float32)
    action, extras = policy(states, np.ones(50, bool), env_steps=0)
    assert extras == {}
    np.testing.assert_array_equal(action, np.broadcast_to(action[0], action.shape))


def test_dqn_takes_the_action_of_largest_value() -> None:
    algo = TFAgentsDQN(epsilon=0.0)
    params = new(algo, DISCRETE)
    states = np.random.default_rng(0).normal(size=[50, 3]).astype(np.float32)
    agent: Any = agent_of(params)
    values, _ = agent._q_network(states, step_type=tf.ones([50], tf.int32), network_state=())
    assert 0 < np.argmax(values, -1).mean() < 1
    for training in (True, False):
        policy = Policy(algo, params, OBSERVATION, lanes=50, seed=0, training=training)
        action, _ = policy(states, np.zeros(50, bool), env_steps=0)
        np.testing.assert_array_equal(action, np.argmax(values, -1))


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_the_first_actions_are_random_between_the_bounds(name: str) -> None:
    algo = {"sac": TFAgentsSAC, "td3": TFAgentsTD3}[name](random_steps=100)
    policy = Policy(algo, new(algo, CONTINUOUS), OBSERVATION, lanes=1000, seed=0, training=True)
    states, first = np.ones([1000, 3], np.float32), np.ones(1000, bool)
    action, _ = policy(states, first, env_steps=99)
    np.testing.assert_allclose(action.min(0), [-1, -2], atol=0.02)
    np.testing.assert_allclose(action.max(0), [1, 2], atol=0.02)
    np.testing.assert_allclose(action.mean(0), [0, 0], atol=0.15)
    own, _ = policy(states, first, env_steps=100)
    assert not np.allclose(np.histogram(action[:, 0], 4)[0], np.histogram(own[:, 0], 4)[0], rtol=0.3)


class Recurrent(TFAgentAlgo):
    """A DQN with memory, from windows of four rows."""

    action_kinds = ("discrete",)
    metrics = ("loss",)

    def __init__(self) -> None:
        super().__init__(Data("uniform", 4, B, 100, 0))

    def build(self, time_step_spec: TimeStep, action_spec: Any) -> TFAgent:
        network = QRnnNetwork(time_step_spec.observation, action_spec, lstm_size=(8,))
        optimizer, step = adam(1e-2), common.create_variable("train_step")
        agent = DqnAgent(time_step_spec, action_spec, network, optimizer, epsilon_greedy=0.0, train_step_counter=step)
        optimizer.build(network.trainable_variables)
        return agent


def test_a_recurrent_agent_keeps_its_state_as_core() -> None:
    algo = Recurrent()
    params = new(algo, DISCRETE)
    core = algo.initial_core(params, np.zeros(2))
    act = tf.function(lambda core: algo.select_action(params, tf.ones([2, 3]), core, tf.constant([0, 0]), True)[2])
    after = act(core)
    tree.assert_same_structure(core, after)
    assert not after["begins"].numpy().any()
    assert not np.allclose(after["state"][0], core["state"][0])
    policy = Policy(algo, params, OBSERVATION, lanes=2, seed=0, training=True)
    states = np.ones([2, 3], np.float32)
    policy(states, np.ones(2, bool), 0)
    once: Any = tree.map_structure(lambda t: t.numpy(), policy._core)
    policy(states, np.array([True, False]), 0)
    twice: Any = tree.map_structure(lambda t: t.numpy(), policy._core)
    # The first lane began again, the second did not.
    np.testing.assert_allclose(twice["state"][0][0], once["state"][0][0], rtol=1e-5)
    assert not np.allclose(twice["state"][0][1], once["state"][0][1], rtol=1e-3)


def test_a_recurrent_agent_learns_from_longer_windows() -> None:
    algo = Recurrent()
    params = new(algo, DISCRETE)
    before = parameters(params)
    update = algo.train(params, batch_of(random_steps((B, 4), algo, DISCRETE)))
    assert np.isfinite(update.metrics["loss"])
    assert any(not np.array_equal(a, b) for a, b in zip(before, parameters(params), strict=True))


# What surrounds it.


@pytest.mark.parametrize("make", [TFAgentsSAC, TFAgentsTD3, lambda **k: TFAgentsPPO(rollout_length=4, **k)])
def test_a_dimension_with_one_value_gives_no_nan(make: Any) -> None:
    spec = specs.BoundedArray((2,), np.float32, [-1.0, 1e9], [1.0, 1e9])
    algo = make(batch_size=B, hidden_sizes=(16,))
    algo.check(OBSERVATION, spec)
    params = new(algo, spec)
    states = tf.constant(np.random.default_rng(0).normal(size=(B, 3)), tf.float32)
    window = algo.data().window
    for _ in range(3):
        for training in (False, True):
            now = params._replace(env_steps=tf.constant(1_000_000))
            action, extras, _ = algo.select_action(now, states, (), tf.constant([0, 1]), training)
            assert all(np.isfinite(leaf).all() for leaf in tree.flatten((action, extras)))
        acted: Any = tree.map_structure(lambda leaf: tf.repeat(leaf[:, None], window, 1), (action, extras))
        steps = random_steps((B, window), algo, spec)
        steps = steps._replace(action=acted[0], extras={**steps.extras, **acted[1]})
        update = algo.train(params, algo.prepare(params, batch_of(steps)))
        assert all(np.isfinite(value).all() for value in (*update.metrics.values(), *parameters(params)))


def test_unbounded_actions_are_refused() -> None:
    with pytest.raises(UserError, match="no"):
        TFAgentsSAC().check(OBSERVATION, specs.BoundedArray((1,), np.float32, -np.inf, np.inf))


@pytest.mark.parametrize(
    "states", [{"a": OBSERVATION, "b": OBSERVATION}, specs.BoundedArray((210, 160, 3), np.uint8, 0, 255)]
)
def test_states_that_their_networks_do_not_take_are_refused(states: Any) -> None:
    with pytest.raises(UserError, match=r"states are .*(\[3\]|uint8 \[210, 160, 3\]): choose dqn, ppo or ddpg"):
        TFAgentsDQN().check(states, DISCRETE)


def test_td3_refuses_several_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: SimpleNamespace(num_replicas_in_sync=2))
    with pytest.raises(UserError, match="one device only"):
        new(TFAgentsTD3(), CONTINUOUS)


def test_settings_of_our_learner_are_not_taken_for_theirs() -> None:
    settings.apply(settings.read("dqn_cartpole", ["Learner.updates_per_call=3"], {}))
    learner = gin.get_configurable(Learner)(
        TFAgentsDQN(), Uniform(), make_strategy("local"), OBSERVATION, DISCRETE, train_steps=1, seed=0
    )
    assert learner.batches == 3
    assert "Learner.updates_per_call = 3" in settings.operative().splitlines()
