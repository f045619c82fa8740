"""Learning from rollouts: every example once an epoch, by the policy that acted, with moments that follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
import reverb
import tensorflow as tf
import tree

from agents.actor import Actor, Policy, make_rows
from agents.algos.algo import Algo, Loss
from agents.algos.dqn import DQN
from agents.algos.ppo import PPO
from agents.algos.vpg import VPG
from agents.learner import AGE, RUN_ID, WEIGHTS, Learner, LearnerError, make_strategy
from agents.models.basic import MLP
from pipeline.dataset import Draw, dataset
from pipeline.envs.block import InProcess
from pipeline.envs.lanes import Lanes
from pipeline.envs.scripted import Scripted
from pipeline.types import Batch, Data, Nest, Params
from pipeline.writer import RolloutWriter
from servers import tables
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.agents.helpers import feed, make_learner, random_draw
from tests.limits import LIMIT_S

E, T = 4, 6
"""lanes and steps of a rollout"""
EXAMPLES = E * T


class Recording(Algo):
    """Notes which examples each update learns from; their rewards are their numbers."""

    action_kinds = ("discrete",)

    def __init__(self, batch_size: int, epochs: int):
        self._data = Data("queue", T + 1, batch_size, 16, 0, T + 1, epochs)
        self.updates: list[list[int]] = []
        self.seeds: list[tuple[int, ...]] = []

    def data(self) -> Data:
        return self._data

    def models(self, observation_spec: Nest, action_spec: Nest) -> dict[str, tf.keras.Model]:
        return {"one": MLP(1, hidden_sizes=())}

    def optimizers(self) -> dict[str, tf.keras.optimizers.Optimizer]:
        return {"one": tf.keras.optimizers.SGD(0.1)}

    def select_action(
        self, params: Params, observation: Nest, core: Nest, seed: tf.Tensor, training: bool
    ) -> tuple[Nest, dict[str, Nest], Nest]:
        raise NotImplementedError

    def prepare(self, params: Params, batch: Batch) -> Batch:
        steps: Any = tree.map_structure(lambda leaf: tf.reshape(leaf[:, :-1], [-1, *leaf.shape[2:]]), batch.steps)
        return Batch(steps, steps.reward + 1.0, batch.seed)

    def loss(self, params: Params, batch: Batch) -> Loss:
        numbers = tf.numpy_function(self._note, [batch.steps.reward, batch.weight, batch.seed], tf.float32)
        loss = params.online["one"](batch.steps.observation)[:, 0] + 0.0 * tf.ensure_shape(numbers, batch.weight.shape)
        return Loss({"one": loss}, None, {"loss": tf.reduce_mean(loss)})

    def _note(self, numbers: np.ndarray, weight: np.ndarray, seed: np.ndarray) -> np.ndarray:
        # An example's rows stay together.
        np.testing.assert_array_equal(weight, numbers + 1)
        self.updates.append(numbers.astype(int).tolist())
        self.seeds.append(tuple(seed.tolist()))
        return numbers


def recorded(batch_size: int, epochs: int, calls: int = 1, **options: Any) -> tuple[Recording, Learner]:
    algo = Recording(batch_size, epochs)
    learner = make_learner(algo, Queue(), make_strategy("local"), xla=False, **options)
    draw = random_draw(1, E, T + 1)
    numbers = np.zeros([1, E, T + 1], np.float32)
    numbers[0, :, :-1] = np.arange(EXAMPLES).reshape(E, T)
    feed(learner, draw._replace(steps=draw.steps._replace(reward=tf.constant(numbers))))
    for _ in range(calls):
        learner.run(0)
    return algo, learner


@pytest.mark.parametrize(("batch_size", "epochs"), [(8, 3), (12, 1), (3, 2), (1, 1)])
def test_every_example_is_learnt_from_once_an_epoch(batch_size: int, epochs: int) -> None:
    algo, learner = recorded(batch_size, epochs, calls=2)
    a_call = epochs * EXAMPLES // batch_size
    assert learner.updates == len(algo.updates) == 2 * a_call
    assert all(len(update) == batch_size for update in algo.updates)
    order = np.reshape(np.concatenate(algo.updates), [2 * epochs, EXAMPLES])
    for epoch in order:
        assert sorted(epoch.tolist()) == list(range(EXAMPLES))
    # Every epoch of every rollout has an order of its own, and none is that of writing.
    assert len({tuple(epoch.tolist()) for epoch in [*order, np.arange(EXAMPLES)]}) == 2 * epochs + 1
    assert learner.rollouts == 2
    assert learner.trace_count() == 1


def test_a_rollout_is_learnt_from_at_the_rate_of_its_beginning_however_long_it_waited() -> None:
    class Annealed(Recording):
        def learning_rates(self, progress: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"one": 1.0 - progress}

    learner = make_learner(Annealed(8, 1), Queue(), make_strategy("local"), xla=False)
    draw = random_draw(1, E, T + 1)
    for began in (0, 250, 900):
        ages = tf.constant(np.full([1, E, T + 1], began) + E * np.arange(T + 1), tf.int32)
        feed(learner, draw._replace(steps=draw.steps._replace(extras={**draw.steps.extras, AGE: ages})))
        assert learner.run(1000)["learning_rate/one"] == pytest.approx(1 - began / 1000)


@pytest.mark.parametrize(("batch_size", "epochs"), [(0, 1), (0, 3), (EXAMPLES, 2)])
def test_a_batch_may_be_the_whole_rollout(batch_size: int, epochs: int) -> None:
    algo, learner = recorded(batch_size, epochs)
    assert [sorted(update) for update in algo.updates] == [list(range(EXAMPLES))] * epochs
    assert learner.updates == epochs


def test_every_update_has_a_seed_of_its_own() -> None:
    algo, _ = recorded(batch_size=8, epochs=3, calls=2)
    assert len(set(algo.seeds)) == len(algo.updates) == 18


def test_the_order_of_a_run_can_be_repeated() -> None:
    assert recorded(8, 2)[0].updates == recorded(8, 2)[0].updates


def rollout(seed: int = 0) -> Draw:
    """A draw of one rollout with the log probabilities of two equally likely actions."""
    draw = random_draw(1, E, T + 1, seed)
    log_prob = tf.fill([1, E, T + 1], float(np.log(0.5)))
    return draw._replace(steps=draw.steps._replace(extras={**draw.steps.extras, "log_prob": log_prob}))


NORMALISED = {"normalize_observations": True, "normalize_returns": True}


def ppo(**settings: Any) -> PPO:
    return PPO(**{"rollout_length": T, "batch_size": 8, "epochs": 2, "learning_rate": 0.01, **settings})


def trained(algo: Algo, xla: bool = False, calls: int = 3) -> tuple[Learner, list[dict[str, float]]]:
    """A learner of `calls` different rollouts, and more to come; its networks are small, which compiles faster."""
    gin.parse_config("MLP.hidden_sizes = (8,)")
    learner = make_learner(algo, Queue(), make_strategy("local"), xla=xla)
    draws = [rollout(seed) for seed in range(4)]
    stacked: Any = tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *draws)
    learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensor_slices(stacked).repeat())
    return learner, [learner.run(env_steps=100 * i) for i in range(calls)]


def numbers_of(learner: Learner) -> dict[str, np.ndarray]:
    """Parameters and moments by name."""
    parts = {**learner.params.online, **learner.params.moments}
    return {f"{name}/{i}": v.numpy() for name, part in parts.items() for i, v in enumerate(part.variables)}


def assert_same(one: Learner, other: Learner, rtol: float = 1e-3, atol: float = 1e-4) -> None:
    found, expected = numbers_of(one), numbers_of(other)
    assert set(found) == set(expected)
    for name, numbers in expected.items():
        np.testing.assert_allclose(found[name], numbers, rtol=rtol, atol=atol, err_msg=name)


def test_xla_gives_the_same_updates() -> None:
    # Of whole rollouts: XLA shuffles minibatches otherwise.
    algo = ppo(batch_size=EXAMPLES, lr_schedule="linear", **NORMALISED)
    (with_xla, metrics), (without, expected) = (trained(algo, xla) for xla in (True, False))
    assert_same(with_xla, without)
    for one, other in zip(metrics, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)
    assert with_xla.trace_count() == without.trace_count() == 1


def live_rows(field: str, rollouts: int) -> np.ndarray:
    steps = [rollout(seed).steps for seed in range(rollouts)]
    return np.concatenate([getattr(s, field).numpy()[:, :, :-1][~s.last.numpy()[:, :, :-1]] for s in steps])


def test_moments_are_those_of_all_rows_that_are_not_last_and_come_back_with_a_checkpoint(tmp_path: Path) -> None:
    learner, all_metrics = trained(ppo(**NORMALISED), calls=4)
    rows, moments = live_rows("observation", 4), learner.params.moments["observation"]
    assert 0 < len(rows) < 4 * EXAMPLES
    assert float(moments.count) == len(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moments.variance, rows.var(0), rtol=1e-3, atol=1e-4)
    assert float(learner.params.moments["return"].count) == len(rows)
    groups = {f"{name}/{group}" for name in ("gradient_norm", "learning_rate") for group in ("policy", "value")}
    assert set(all_metrics[0]) == {*PPO.metrics, *groups, "sample_age", "policy_lag"}

    learner.write(tmp_path / "state")
    other, _ = trained(ppo(**NORMALISED), calls=0)
    other.read(tmp_path / "state")
    assert (other.rollouts, other.updates) == (4, 4 * 2 * EXAMPLES // 8)
    assert_same(other, learner, rtol=0, atol=0)
    # The four draws begin anew after the fourth: both learn from the same, in the same order.
    assert other.run(0) == pytest.approx(learner.run(0), rel=1e-5)
    assert_same(other, learner, rtol=1e-5, atol=1e-6)


def test_moments_of_returns_are_in_the_environments_unit() -> None:
    # Without discounting and baseline a return is the next reward.
    learner, _ = trained(VPG(longest_episode=T, gamma=0.0, value_model="", normalize_returns=True))
    rows, moments = live_rows("reward", 3), learner.params.moments["return"]
    assert float(moments.mean) == pytest.approx(rows.mean(), rel=1e-3, abs=1e-4)
    assert float(moments.variance) == pytest.approx(rows.var(), rel=1e-3)


def test_a_call_is_due_for_every_rollout_that_was_written() -> None:
    _, learner = recorded(0, 1, calls=0)
    assert not learner.due(env_steps=10_000, items=0)
    assert learner.due(env_steps=0, items=1)
    learner.run(0)
    assert not learner.due(env_steps=10_000, items=1)
    assert learner.due(env_steps=10_000, items=3)
    learner.run(0)
    assert learner.due(env_steps=10_000, items=3)
    learner.run(0)
    assert not learner.due(env_steps=10_000, items=3)


def test_a_replay_is_due_by_its_ratio_whatever_the_items() -> None:
    algo = DQN(batch_size=8, min_replay_size=100)
    learner = make_learner(algo, Uniform(), make_strategy("local"), updates_per_call=4, updates_per_step=0.5)
    assert [learner.due(steps, items=1) for steps in (0, 100, 107, 108)] == [False, False, False, True]


def test_a_replay_is_not_due_before_it_holds_an_item() -> None:
    learner = make_learner(DQN(batch_size=8, min_replay_size=1), Uniform(), make_strategy("local"))
    assert not learner.due(10_000, items=0)
    assert learner.due(10_000, items=1)


def test_the_age_of_a_rollout_is_that_of_its_rows() -> None:
    _, learner = recorded(8, 1, calls=0)
    draw = rollout()
    written = tf.broadcast_to(tf.range(0, 10 * (T + 1), 10), [1, E, T + 1])
    feed(learner, draw._replace(steps=draw.steps._replace(extras={**draw.steps.extras, AGE: written})))
    # Rows 0 to 5 were written at steps 0, 10, ... 50.
    assert learner.run(env_steps=700)["sample_age"] == pytest.approx(675.0)


def test_rollouts_of_old_weights_and_of_other_lives_are_dropped_and_counted() -> None:
    _, learner = recorded(8, 1, calls=0, max_policy_lag=2)
    draw = rollout()

    def run(run_id: int, weights: int) -> dict[str, float]:
        leading = (1, E, T + 1)
        stamps = {RUN_ID: tf.fill(leading, run_id), WEIGHTS: tf.fill(leading, weights)}
        feed(learner, draw._replace(steps=draw.steps._replace(extras={**draw.steps.extras, **stamps})))
        return learner.run(0)

    learner.run_id = 5
    each = EXAMPLES // 8
    for call in range(4):
        assert run(run_id=5, weights=call * each)["policy_lag"] == pytest.approx((each - 1) / 2)
    weights = learner.params.online["one"].get_weights()
    assert run(run_id=5, weights=each) == {}
    assert run(run_id=4, weights=4 * each) == {}
    assert (learner.updates, learner.rollouts, learner.stale_rollouts) == (4 * each, 4, 2)
    for before, after in zip(weights, learner.params.online["one"].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert run(run_id=5, weights=2 * each)["policy_lag"] == pytest.approx(2 * each + (each - 1) / 2)


def test_a_queue_that_gives_nothing_is_a_stall() -> None:
    _, learner = recorded(8, 2, calls=0)
    learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensors(random_draw(1, E, T + 1)))
    learner.run(0)
    with pytest.raises(LearnerError, match="waits for the replay: after 6 updates"):
        learner.run(0)


@pytest.mark.parametrize(
    "algo",
    [
        ppo(epochs=1, batch_size=EXAMPLES, normalize_observations=True),
        VPG(longest_episode=T, normalize_observations=True),
    ],
    ids=["ppo", "vpg"],
)
def test_rollouts_are_learnt_from_by_the_policy_that_acted_in_them(
    serve: Callable[[reverb.Table], reverb.Server], algo: Any
) -> None:
    data, lanes = algo.data(), Lanes(InProcess([Scripted] * E), together=algo.data().whole_episodes)
    rows, memory = make_rows(algo, lanes.observation_spec, lanes.action_spec), Queue()
    signature = tables.signature(rows, data.window, E)
    address = f"localhost:{serve(memory.table(tables.TABLE, data, E, signature)).port}"
    specs = (lanes.observation_spec, lanes.action_spec)
    learner = Learner(algo, memory, make_strategy("local"), *specs, train_steps=1000, seed=0, xla=False)
    policy = Policy(algo, learner.params, lanes.observation_spec, E, seed=0, training=True)
    writer = RolloutWriter([reverb.Client(address)], tables.TABLE, rows, E, data.window)
    actor = Actor(policy, writer, lanes.action_spec, E, data)
    changes: list[float] = []

    def source(batches: int, replicas: int) -> tf.data.Dataset:
        options: dict[str, Any] = {"lanes": E, "signature": signature, "batches": batches, "replicas": replicas}
        return dataset([address], tables.TABLE, rows, data, memory, timeout_ms=int(1000 * LIMIT_S), **options)

    learner.connect(source)
    prepare = algo.prepare

    def spied(params: Params, batch: Batch) -> Batch:
        batch = prepare(params, batch)
        again, *_ = algo._policy_and_value(params, batch.steps)
        change = tf.where(batch.weight > 0, again - batch.steps.extras["log_prob"], 0.0)
        tf.numpy_function(changes.append, [tf.reduce_max(tf.abs(change))], [])
        return batch

    algo.prepare = spied
    state = lanes.reset(0)
    while learner.rollouts < 5:
        last_state, action = state, actor.act(state)
        state, reward, done = lanes.step(action)
        actor.observe(last_state, action, reward, done, state, 1.0)
        while learner.due(actor.env_steps, actor.items):
            learner.run(actor.env_steps)
    # Parameters and moments are other ones in each of them.
    np.testing.assert_allclose(changes, np.zeros(5), atol=1e-4)


@pytest.mark.parametrize("xla", [True, False])
def test_a_rollout_that_is_not_finite_is_dropped_and_its_moments_too(xla: bool) -> None:
    learner, _ = trained(ppo(**NORMALISED), xla=xla, calls=2)
    each, before = learner.updates // 2, [v.numpy() for v in learner.params.moments["observation"].variables]
    draw = rollout(7)
    lane = np.arange(E)[:, None] == 1
    poisoned = draw._replace(steps=draw.steps._replace(reward=tf.where(lane, float("nan"), draw.steps.reward)))
    said: list[str] = []
    learner.warn = said.append
    feed(learner, poisoned)
    assert learner.run(0) == {}
    assert (learner.updates, learner.rollouts) == (2 * each, 2)
    assert (learner.not_finite, learner.stale_rollouts, len(said)) == (1, 0, 1)
    for one, other in zip(learner.params.moments["observation"].variables, before, strict=True):
        np.testing.assert_array_equal(one, other)
    feed(learner, draw)
    assert np.isfinite(learner.run(0)["loss"])
    assert learner.updates == 3 * each
