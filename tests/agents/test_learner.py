"""The compiled loop: one trace, the same numbers with and without XLA, targets, priorities, where data come from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, call

import numpy as np
import pytest
import tensorflow as tf
import tree

import agents.learner
from agents.algos.dqn import DQN
from agents.learner import Learner, LearnerError, make_strategy, only_weighted
from pipeline.dataset import Draw
from pipeline.types import Batch
from servers.memory.prioritized import Prioritized
from servers.memory.uniform import Uniform
from tests.agents.helpers import feed, make_learner, random_draw, random_steps
from tests.limits import LIMIT_S

K, B = 4, 16


def parameters(learner: Learner) -> list[np.ndarray]:
    return [v.numpy() for v in learner.params.online["q"].variables]


class Weighted(Prioritized):
    """Importance weights without a table to write priorities to."""

    prioritized = False


def trained(xla: bool, calls: int = 3, **settings: Any) -> tuple[Learner, list[dict[str, float]]]:
    algo = DQN(batch_size=B, **settings)
    learner = make_learner(algo, Weighted(), make_strategy("local"), updates_per_call=K, xla=xla)
    feed(learner, random_draw(K, B, 2))
    metrics = [learner.run(env_steps=100 * i) for i in range(calls)]
    return learner, metrics


def test_the_loop_is_traced_once() -> None:
    learner, _ = trained(xla=True)
    assert learner.trace_count() == 1
    assert learner.updates == 3 * K


def test_xla_gives_the_same_updates() -> None:
    with_xla, metrics = trained(xla=True)
    without, expected = trained(xla=False)
    for one, other in zip(parameters(with_xla), parameters(without), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(metrics, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_k_fused_updates_equal_k_single_ones() -> None:
    fused, _ = trained(xla=True, calls=1)
    draw = random_draw(K, B, 2)
    single = make_learner(DQN(batch_size=B), Weighted(), make_strategy("local"), updates_per_call=1)
    batches = tf.data.Dataset.from_tensor_slices((draw.steps, draw.correction)).batch(1)
    batches = batches.map(
        lambda steps, correction: Draw(steps, correction, tf.zeros([B], tf.uint64), tf.zeros([B], tf.int32))
    )
    single.connect(lambda b, r: batches)
    for _ in range(K):
        single.run(env_steps=0)
    for one, other in zip(parameters(fused), parameters(single), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_targets_are_copied_by_period() -> None:
    learner, _ = trained(xla=True, calls=1, target_update_period=K + 2)
    online, target = learner.params.online["q"], learner.params.target["q"]
    assert not np.allclose(online.variables[0], target.variables[0])
    before = target.variables[0].numpy()
    learner.run(0)
    assert not np.allclose(before, target.variables[0])


def test_targets_are_averaged_by_rate() -> None:
    learner, _ = trained(xla=True, calls=0, target_update_period=K, target_update_rate=0.25)
    initial = learner.params.target["q"].variables[0].numpy()
    learner.run(0)
    online = learner.params.online["q"].variables[0].numpy()
    np.testing.assert_allclose(
        learner.params.target["q"].variables[0], initial + 0.25 * (online - initial), rtol=1e-5, atol=1e-6
    )


def test_a_loss_that_is_not_finite_stops_with_the_update_and_the_step() -> None:
    learner, _ = trained(xla=True, calls=0, learning_rate=1e38)
    with pytest.raises(
        LearnerError, match=rf"loss is (nan|inf) at update {K} \(environment step 700\), though all that"
    ):
        learner.run(env_steps=700)


def test_parameters_that_are_not_finite_stop_it_before_they_are_saved() -> None:
    learner = make_learner(DQN(batch_size=B, learning_rate=1e38), Uniform(), make_strategy("local"), updates_per_call=1)
    draw = random_draw(1, B, 2)
    feed(learner, draw._replace(steps=draw.steps._replace(reward=1e3 * draw.steps.reward)))
    variables = learner.params.online["q"].variables
    variables[0].assign(tf.fill(variables[0].shape, 3e38))
    variables[-1].assign(tf.fill(variables[-1].shape, 3e38))
    with pytest.raises(LearnerError, match=r"(loss is|parameters are not finite after).* update 1 .*learning rate"):
        learner.run(0)


def test_parameters_that_were_restored_so_are_not_blamed_on_the_learning_rate(tmp_path: Path) -> None:
    learner, _ = trained(xla=True, calls=1)
    learner.params.online["q"].variables[0].assign(learner.params.online["q"].variables[0] * float("nan"))
    learner.write(tmp_path / "state")
    learner.read(tmp_path / "state")
    with pytest.raises(LearnerError, match=f"of update {K}, are not finite: they were restored so") as error:
        learner.run(0)
    assert "learning rate" not in str(error.value)


POISON = {
    "observation": lambda steps, bad: steps._replace(observation=bad(steps.observation)),
    "reward": lambda steps, bad: steps._replace(reward=bad(steps.reward)),
    "discount": lambda steps, bad: steps._replace(discount=bad(steps.discount)),
}


@pytest.mark.parametrize("leaf", POISON)
@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_windows_that_are_not_finite_are_counted_said_once_and_not_learnt_from(leaf: str, number: float) -> None:
    draw = random_draw(K, B, 2)
    poisoned = np.zeros([K, B, 2], bool)
    poisoned[0, :3, 1] = poisoned[2, 5, 0] = True

    def bad(values: tf.Tensor) -> tf.Tensor:
        return tf.where(poisoned.reshape(*poisoned.shape, *[1] * (values.shape.rank - 3)), number, values)

    parts, said = [], []
    skipped = draw.steps._replace(last=draw.steps.last | poisoned.any(axis=2, keepdims=True))
    for steps in (POISON[leaf](draw.steps, bad), skipped):
        learner = make_learner(DQN(batch_size=B), Uniform(), make_strategy("local"), updates_per_call=K)
        learner.warn = said.append
        feed(learner, draw._replace(steps=steps))
        for _ in range(2):
            learner.run(0)
        parts.append((parameters(learner), learner.not_finite))
    (one, dropped), (other, none) = parts
    assert (dropped, none) == (2 * 4, 0)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    (line,) = said
    assert line.startswith("WARNING: 4 windows that the replay gave hold numbers that are not finite")


def test_a_weight_that_is_not_finite_drops_its_window() -> None:
    learner, _ = trained(xla=True, calls=0)
    draw = random_draw(K, B, 2)
    feed(learner, draw._replace(correction=tf.where(np.arange(B) == 1, float("inf"), draw.correction)))
    assert np.isfinite(learner.run(0)["loss"])
    assert learner.not_finite == K


def test_draws_that_are_poison_altogether_leave_the_parameters_alone() -> None:
    learner, _ = trained(xla=True, calls=0)
    before = parameters(learner)
    draw = random_draw(K, B, 2)
    feed(learner, draw._replace(correction=draw.correction * float("nan")))
    assert learner.run(0)["loss"] == 0
    assert learner.not_finite == K * B
    for one, other in zip(parameters(learner), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("xla", [True, False])
def test_a_dataset_that_ends_is_a_stall_in_which_nothing_is_counted(xla: bool) -> None:
    learner = make_learner(DQN(batch_size=B), Uniform(), make_strategy("local"), updates_per_call=K, xla=xla)
    learner.connect(lambda b, r: tf.data.Dataset.from_tensors(random_draw(K, B, 2)))
    learner.run(0)
    with pytest.raises(LearnerError, match=f"waits for the replay: after {K} updates"):
        learner.run(0)


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    learner, _ = trained(xla=True)
    learner.write(tmp_path / "state")
    expected = learner.run(0)
    other, _ = trained(xla=True, calls=0)
    other.read(tmp_path / "state")
    assert other.updates == 3 * K
    assert other.run(0) == pytest.approx(expected, rel=1e-6)


class Unscheduled(DQN):
    """Leaves the learning rate to its optimizer."""

    def learning_rates(self, progress: tf.Tensor) -> dict[str, tf.Tensor]:
        return {}


@pytest.mark.parametrize("algo", [DQN, Unscheduled])
def test_after_a_restore_the_learning_rate_is_that_of_the_settings(algo: type[DQN], tmp_path: Path) -> None:
    def learner(rate: float) -> Learner:
        made = make_learner(
            algo(batch_size=B, learning_rate=rate), Weighted(), make_strategy("local"), updates_per_call=K, xla=False
        )
        feed(made, random_draw(K, B, 2))
        return made

    before = learner(0.5)
    before.run(0)
    before.write(tmp_path / "state")
    after = learner(1e-30)
    after.read(tmp_path / "state")
    restored = parameters(after)
    assert after.run(0)["learning_rate/q"] == pytest.approx(1e-30)
    for one, same in zip(restored, parameters(after), strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_google_cloud_machine_learns_on_its_own_tpu_if_it_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents.learner, "TPU_DEVICE", tmp_path / "accel0")
    assert make_strategy("gcp") is tf.distribute.get_strategy()
    (tmp_path / "accel0").touch()
    tpu = MagicMock()
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", tpu.resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", tpu.connect)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", tpu.initialize)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", tpu.strategy)
    for kind, name, of in (("gcp", "", "local"), ("tpu", "encore", "encore")):
        tpu.reset_mock()
        assert make_strategy(kind, name) is tpu.strategy.return_value
        at = tpu.resolver.return_value
        assert tpu.mock_calls == [call.resolver(of), call.connect(at), call.initialize(at), call.strategy(at)]


def test_a_tpu_that_is_not_there_is_a_sentence() -> None:
    program = "from agents.learner import make_strategy; make_strategy('tpu', 'local')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S)
    assert "UserError: --sys=tpu: the TPU 'local' cannot be reached from here: TPUs not found" in ended.stderr


def test_what_has_no_weight_does_not_reach_the_loss() -> None:
    steps = random_steps((4, 2))
    planted: Any = tree.map_structure(
        lambda leaf: (
            tf.where(np.arange(4).reshape(-1, *[1] * (leaf.shape.rank - 1)) % 2 == 0, leaf, float("nan"))
            if leaf.dtype.is_floating
            else leaf
        ),
        steps,
    )
    weight = tf.constant([0.5, 0.0, 2.0, 0.0])
    batch = only_weighted(Batch(planted, weight, tf.constant([0, 0])))
    np.testing.assert_array_equal(batch.weight, weight)
    for leaf, own in zip(tree.flatten(batch.steps), tree.flatten(steps), strict=True):
        np.testing.assert_array_equal(leaf.numpy()[[0, 2]], own.numpy()[[0, 2]])
        np.testing.assert_array_equal(leaf.numpy()[[1, 3]], own.numpy()[[0, 0]])
