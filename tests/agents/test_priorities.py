"""Priorities travel back from the updates to exactly the items that were updated, in a real table."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reverb
import tensorflow as tf

from agents.actor import make_rows
from agents.algos.dqn import DQN
from agents.learner import make_strategy
from pipeline.dataset import dataset
from pipeline.rows import PACKED
from pipeline.types import Batch
from pipeline.writer import Writer
from servers import tables
from servers.memory.prioritized import Prioritized
from tests.agents.helpers import ACTION, OBSERVATION, feed, make_learner, random_draw

ITEMS, B = 40, 8


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a prioritized table with 40 items of priority 3."""
    algo, memory = DQN(batch_size=B), Prioritized()
    rows = make_rows(algo, OBSERVATION, ACTION)
    table = memory.table(tables.TABLE, algo.data(), 1, tables.signature(rows, 2, None))
    server = tables.serve([table], folder)
    writer = Writer([reverb.Client(f"localhost:{server.port}")], tables.TABLE, rows, 1, 2, 1, blocks=False)
    steps = random_draw(1, 1, ITEMS + 1).steps
    for i in range(ITEMS + 1):
        step = tf.nest.map_structure(lambda leaf, i=i: leaf[0, :, i].numpy(), steps)
        writer.append(step._replace(last=np.array([False])), priority=3.0)
    writer.flush()
    yield f"localhost:{server.port}"
    server.stop()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as address:
        yield address


def priorities(address: str) -> dict[int, float]:
    """Every item's priority, by key; 2,000 samples of 40 items miss one with a probability below 1e-9."""
    samples: Any = reverb.Client(address).sample(tables.TABLE, 2000)
    return {rows[0].info.key: rows[0].info.priority for rows in samples}


def test_exactly_the_updated_items_have_their_new_errors_as_priorities(address: str) -> None:
    before = priorities(address)
    assert set(before.values()) == {3.0}
    keys = sorted(before)[: 2 * B]
    algo = DQN(batch_size=B, learning_rate=1e-9)
    learner = make_learner(algo, Prioritized(exponent=0.1), make_strategy("local"), updates_per_call=2)
    draw = random_draw(2, B, 2)._replace(keys=tf.constant(keys, tf.uint64))
    # As a prioritized memory has it, no window begins with a LAST row.
    draw = draw._replace(steps=draw.steps._replace(last=draw.steps.last & [False, True]))
    learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensors(draw).repeat(), [address], tables.TABLE)
    metrics = learner.run(env_steps=0)

    expected = {}
    for k in range(2):
        steps = tf.nest.map_structure(lambda leaf, k=k: leaf[k], draw.steps)
        loss = algo.loss(learner.params, Batch(steps, tf.ones([B]), tf.constant([0, 0])))
        expected |= dict(zip(keys[k * B : (k + 1) * B], loss.priorities.numpy().tolist(), strict=True))
    after = priorities(address)
    assert {k: after[k] for k in keys} == pytest.approx(expected, rel=1e-4)
    assert {after[k] for k in after if k not in expected} == {3.0}
    assert metrics["priority_max"] == pytest.approx(max(expected.values()), rel=1e-4)
    assert learner.max_priority == max(1.0, metrics["priority_max"])


def test_of_several_servers_each_gets_the_priorities_of_its_own_items(address: str, tmp_path: Path) -> None:
    with served(tmp_path / "other") as other:
        addresses = [address, other]
        keys = [sorted(priorities(each)) for each in addresses]
        learner = make_learner(DQN(batch_size=B), Prioritized(exponent=0.1), make_strategy("local"), updates_per_call=1)
        shard = [0, 1, 1, 0, 1, 1, 1, 0]
        drawn = [keys[server].pop() for server in shard]
        draw = random_draw(1, B, 2)
        draw = draw._replace(keys=tf.constant(drawn, tf.uint64), shard=tf.constant(shard))
        learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensors(draw).repeat(), addresses, tables.TABLE)
        learner.run(env_steps=0)
        for server, each in enumerate(addresses):
            after = priorities(each)
            changed = {key for key, priority in after.items() if priority != 3.0}
            assert changed == {key for key, own in zip(drawn, shard, strict=True) if own == server}


def test_importance_weights_are_normalised_by_the_largest_of_the_batch() -> None:
    algo, memory = DQN(batch_size=B), Prioritized(beta=0.5)
    memory.prioritized = False
    learner = make_learner(algo, memory, make_strategy("local"), updates_per_call=1)
    draw = random_draw(1, B, 2)
    draw = draw._replace(steps=draw.steps._replace(last=tf.zeros_like(draw.steps.last)))
    feed(learner, draw)
    # Half of the 1,000 training steps are done: beta is 0.75.
    weight = draw.correction[0].numpy() ** 0.75
    assert learner.run(env_steps=500)["weight"] == pytest.approx(float(np.mean(weight / weight.max())), rel=1e-4)


def insert_poison(address: str, items: int, priority: float) -> None:
    """What another client does: copies an item of the table, with NaN in place of its floats."""
    client: Any = reverb.Client(address)
    (sample,) = client.sample(tables.TABLE, 1, emit_timesteps=False)
    (copied,) = sample.data
    floats = np.full_like(copied, np.array(np.nan, np.float32).view(np.int32))
    writer = client.trajectory_writer(num_keep_alive_refs=1)
    for _ in range(items):
        writer.append({PACKED: floats})
        writer.create_item(tables.TABLE, priority, {PACKED: writer.history[PACKED][-1]})
    writer.flush(timeout_ms=10_000)


def test_a_poisoned_replay_is_learnt_from_without_its_poison_now_and_after_a_restart(
    address: str, tmp_path: Path
) -> None:
    insert_poison(address, 8, 3.0)
    algo, memory = DQN(batch_size=B), Prioritized()
    saved = Path(reverb.Client(address).checkpoint())
    rows = make_rows(algo, OBSERVATION, ACTION)
    signature = tables.signature(rows, 2, None)
    table = memory.table(tables.TABLE, algo.data(), 1, signature)
    again = tables.serve([table], tmp_path / "again", saved)
    for place in (address, f"localhost:{again.port}"):
        learner = make_learner(algo, memory, make_strategy("local"), updates_per_call=8)
        read = partial(dataset, [place], tables.TABLE, rows, algo.data(), memory, lanes=1, signature=signature)
        connect = lambda batches, replicas, read=read: read(batches=batches, replicas=replicas, timeout_ms=10_000)  # noqa: E731
        learner.connect(connect, [place], tables.TABLE)
        said: list[str] = []
        learner.warn = said.append
        for _ in range(6):
            metrics = learner.run(0)
            assert np.isfinite(list(metrics.values())).all()
        # 8 of 48 items at first; then their priority is 0.
        assert 0 < learner.not_finite < 6 * 8 * B / 4
        assert len(said) == 1
        assert sorted(priorities(place).values())[:8] != [3.0] * 8
        before = learner.not_finite
        learner.run(0)
        assert learner.not_finite == before
    again.stop()
