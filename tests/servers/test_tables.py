"""From what an algorithm asks for to a server: signatures, the budget of memory, and a replay that comes back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import dm_env.specs as specs
import numpy as np
import psutil
import pytest
import reverb
import tensorflow as tf

from pipeline.rows import Rows
from pipeline.types import Data, UserError
from servers import tables
from servers.memory.memory import Memory
from servers.memory.prioritized import Prioritized
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.pipeline.helpers import SCRIPTS, Stream

ACTION = specs.DiscreteArray(2, np.int32)
SMALL = Rows(specs.Array((4,), np.float32), ACTION, {})  # 4 + action, reward, discount, first, last: 36 bytes
IMAGES = Rows(specs.Array((84, 84), np.uint8), ACTION, {})  # 7056 + 20 bytes


@pytest.mark.parametrize(("lanes", "leading"), [(None, [3]), (5, [3, 5])])
def test_a_signature_has_the_window_and_the_lanes_first(lanes: int | None, leading: list[int]) -> None:
    signature = tables.signature(IMAGES, 3, lanes)
    assert signature == {
        "packed": tf.TensorSpec([*leading, 5], tf.int32, "packed"),
        "observation": tf.TensorSpec([*leading, 84, 84], tf.uint8, "observation"),
    }


def data(size: int, window: int = 2, period: int = 1) -> Data:
    return Data("", window, batch_size=8, size=size, min_size=1, period=period)


@pytest.mark.parametrize(
    ("rows", "memory", "size", "period", "lanes", "megabytes"),
    [
        (SMALL, Prioritized(), 1_000_000, 1, 8, 1_000_000 * (2 * 36 * 1.5 + 1000) / 1e6),
        (SMALL, Uniform(), 1_000_000, 1, 8, 1_000_000 * (2 * 36 * 1.5 + 1000 / 8) / 1e6),
        (IMAGES, Uniform(), 1_000_000, 1, 8, 1_000_000 * (7076 * 1.5 + 1000 / 8) / 1e6),
        (IMAGES, Uniform(), 10_000, 20, 8, 10_000 * (20 * 7076 * 1.5 + 1000 / 8) / 1e6),
    ],
)
def test_the_budget_counts_every_item_and_the_shared_rows_of_large_windows_once(
    rows: Rows, memory: Memory, size: int, period: int, lanes: int, megabytes: float
) -> None:
    assert tables.budget(data(size, period=period), memory, rows, lanes) == pytest.approx(megabytes * 1e6)


def test_of_a_queue_beside_its_learner_a_rollout_a_replica_is_held_and_learnt_from() -> None:
    rollout = 3 * 8 * IMAGES.row_bytes()
    assert tables.budget(data(16, 3), Queue(), IMAGES, 8, replicas=2) == 2 * rollout * tables.ROLLOUT_COPIES
    assert tables.budget(data(16, 3), Queue(), IMAGES, 8) == 16 * (rollout * tables.OVERHEAD + tables.ITEM_BYTES)
    # A replay holds what it holds.
    assert tables.budget(data(16), Uniform(), IMAGES, 8, replicas=2) == tables.budget(data(16), Uniform(), IMAGES, 8)


def test_longer_windows_of_the_same_large_rows_take_no_more() -> None:
    assert tables.budget(data(1000, 2), Uniform(), IMAGES, 8) == tables.budget(data(1000, 6), Uniform(), IMAGES, 8)


def test_a_budget_above_what_is_free_is_refused_with_both_numbers_and_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * 2**30))
    tables.check_budget(3 * 2**30, "DQN.replay_size", 1000)
    with pytest.raises(UserError):
        tables.check_budget(3 * 2**30 + 1, "DQN.replay_size", 1000)
    sentence = (
        r"needs 10\.5 GiB and 3\.0 GiB of memory are free: make PPO\.rollout_length smaller, which is 7,000"
        r" \(at most 2,000 fit\)\."
    )
    with pytest.raises(UserError, match=sentence):
        tables.check_budget(21 * 2**29, "PPO.rollout_length", 7000)


def test_a_budget_above_what_this_machine_has_is_refused() -> None:
    tables.check_budget(2**20, "DQN.replay_size", 1000)
    with pytest.raises(UserError):
        tables.check_budget(2 * psutil.virtual_memory().total, "DQN.replay_size", 1000)


@pytest.mark.parametrize(("limit", "free"), [("6000\n", 2000), ("90000\n", 50_000), ("max\n", 50_000), (None, 50_000)])
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, free: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50_000))
    monkeypatch.setattr(tables, "CGROUP", tmp_path)
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("4000\n")
    assert tables.free_memory() == free


@pytest.mark.parametrize("memory", [Uniform, Prioritized])
def test_a_server_takes_over_the_contents_of_a_checkpoint(tmp_path: Path, memory: type[Memory]) -> None:
    def serve(table: reverb.Table) -> reverb.Server:
        return tables.serve([table], tmp_path / "first")

    stream = Stream(serve, memory(), n=2)
    stream.write(20, priorities=[float(1 + i % 5) for i in range(20)])
    before = {item.key: item for item in stream.contents()}
    saved = Path(stream.client.checkpoint())
    assert saved.is_relative_to(tmp_path / "first")
    contents = saved.rename(tmp_path / "replay")
    stream.server.stop()

    restored = Stream(lambda table: tables.serve([table], tmp_path / "second", contents), memory(), n=2)
    assert {item.key: item for item in restored.contents()} == before
    # It goes on: new windows beside the restored ones, and checkpoints in a folder of its own.
    restored.write(20)
    new = {item.key: item for item in restored.contents()}
    assert before.items() < new.items()
    assert Path(restored.client.checkpoint()).is_relative_to(tmp_path / "second")
    restored.server.stop()


def test_without_contents_a_server_begins_empty_whatever_its_folder_holds(tmp_path: Path) -> None:
    for _ in range(2):
        stream = Stream(lambda table: tables.serve([table], tmp_path / "scratch"), Uniform(), SCRIPTS)
        assert stream.table_size() == 0
        stream.write(5)
        stream.client.checkpoint()
        stream.server.stop()


def test_a_server_listens_where_it_is_told(tmp_path: Path) -> None:
    stream = Stream(lambda table: tables.serve([table], tmp_path / "first"), Uniform())
    port = stream.server.port
    stream.server.stop()
    again = Stream(lambda table: tables.serve([table], tmp_path / "second", port=port), Uniform())
    assert again.server.port == port
    again.server.stop()
