"""What the learner may draw follows the servers' own counts, through their loss and their return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reverb
import tensorflow as tf

import servers.shards
from servers import identity, tables, variables
from servers.memory.memory import Memory, Ratio
from servers.shards import Shards
from tests.limits import LIMIT_S
from tests.servers.test_variables import variables as weights

RATIO = Ratio(samples_per_insert=4.0, min_items=20, slack=40.0)
SIGNATURE = {"x": tf.TensorSpec([1], tf.float32, "x")}


class Replay(Memory):
    """Tables of a hundred items."""

    def items(self, data: object, lanes: int) -> int:
        return 100


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.shards, "RETRY_S", 0.0)
    monkeypatch.setattr(servers.shards, "TIMEOUT_S", int(LIMIT_S))


def lose(shards: Shards, left: list[int]) -> None:
    """Polls until the servers `left` alone answer."""
    with pytest.MonkeyPatch.context() as impatient:
        impatient.setattr(servers.shards, "TIMEOUT_S", 1)
        while shards.alive != left:
            shards.poll()


def serve(folder: Path, ratio: Ratio, port: int | None = None, contents: Path | None = None) -> reverb.Server:
    table = Replay().table(tables.TABLE, None, 1, SIGNATURE, ratio)  # pyright: ignore[reportArgumentType]
    return tables.serve([table, variables.table(weights(0.0)), *identity.tables()], folder, contents, port)


def insert(client: reverb.Client, count: int, timeout_ms: int = int(1000 * LIMIT_S)) -> int:
    """Returns how many of `count` items the server took in time."""
    writer: Any = client.trajectory_writer(num_keep_alive_refs=1)
    for i in range(count):
        writer.append({"x": np.float32(i)})
        writer.create_item(tables.TABLE, 1.0, {"x": writer.history["x"][-1:]})
        try:
            writer.flush(timeout_ms=timeout_ms)
        except reverb.DeadlineExceededError:
            return i
    return count


def sample(client: reverb.Client, count: int) -> None:
    list(client.sample(tables.TABLE, count))


def test_credit_is_what_the_limiter_allows_beyond_the_first_items(tmp_path: Path) -> None:
    server = serve(tmp_path, RATIO)
    client = reverb.Client(f"localhost:{server.port}")
    shards = Shards([client], RATIO)
    shards.poll()
    assert shards.changed
    shards.begin()
    assert shards.credit == -80.0
    insert(client, 25)
    shards.poll()
    assert (shards.credit, shards.inserted, shards.items) == (20.0, 25, [25])
    shards.draw(12)
    sample(client, 12)
    shards.poll()
    assert (shards.credit, shards.sampled) == (8.0, 12)
    # A learner that comes later finds the same in the servers' counts.
    later = Shards([client], RATIO)
    later.poll()
    later.begin()
    assert later.credit == 8.0
    server.stop()


def test_actors_wait_where_they_are_further_ahead_than_the_slack(tmp_path: Path) -> None:
    server = serve(tmp_path, RATIO)
    client = reverb.Client(f"localhost:{server.port}")
    # 4 samples for each of 20 + 40 / 4 items.
    assert insert(client, 30) == 30
    assert insert(client, 1, timeout_ms=500) == 0
    shards = Shards([client], RATIO)
    shards.poll()
    shards.begin()
    assert shards.credit == RATIO.slack
    server.stop()


def test_a_server_that_comes_back_with_older_contents_counts_from_there(tmp_path: Path) -> None:
    server = serve(tmp_path / "one", RATIO)
    client = reverb.Client(f"localhost:{server.port}")
    shards = Shards([client], RATIO)
    shards.poll()
    shards.begin()
    insert(client, 22)
    contents = Path(client.checkpoint())
    insert(client, 5)
    shards.poll()
    assert shards.credit == 28.0
    port = server.port
    server.stop()
    del server
    lose(shards, left=[])
    assert shards.changed
    assert shards.items == [0]
    assert shards.seconds_since_insert >= 0
    shards.changed = False
    again = serve(tmp_path / "two", RATIO, port, contents)
    while not shards.alive:
        shards.poll()
    assert shards.changed
    shards.begin()
    assert (shards.credit, shards.inserted) == (8.0, 22)
    again.stop()


def test_the_others_go_on_where_one_server_is_lost(tmp_path: Path) -> None:
    half = RATIO._replace(min_items=10)
    made = [serve(tmp_path / str(i), half) for i in range(2)]
    clients = [reverb.Client(f"localhost:{server.port}") for server in made]
    shards = Shards(clients, RATIO)
    for client in clients:
        insert(client, 12)
    shards.poll()
    shards.begin()
    assert (shards.credit, shards.contents(queue=False)) == (16.0, [12.0, 12.0])
    made[0].stop()
    lose(shards, left=[1])
    shards.begin()
    # The first items of the other alone: it may be drawn from at once.
    assert (shards.credit, shards.contents(queue=False)) == (8.0, [0.0, 12.0])
    made[1].stop()


def test_who_has_no_weights_is_known(tmp_path: Path) -> None:
    server = serve(tmp_path, RATIO)
    client = reverb.Client(f"localhost:{server.port}")
    shards = Shards([client], RATIO)
    shards.poll()
    assert shards.unpublished() == [0]
    version = variables.Version(1, 1, 1, 0, 1, finished=False, max_priority=1.0)
    variables.Publisher([client], weights(1.0)).publish(version, [0])
    shards.poll()
    assert shards.unpublished() == []
    server.stop()
