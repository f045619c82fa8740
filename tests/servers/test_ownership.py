"""A replay server is one training's, and of its learners one's at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import reverb

from pipeline.types import RunError, UserError
from servers import identity, ownership, reports, tables, variables
from servers.memory.memory import Ratio
from servers.ownership import Ownership
from servers.reports import Report, Reporter
from servers.shards import Shards
from tests.limits import wait_until
from tests.servers.test_shards import SIGNATURE, Replay, insert
from tests.servers.test_variables import variables as weights

A, B = 11, 22
RATIO = Ratio(samples_per_insert=4.0, min_items=0, slack=40.0)


def serve(folder: Path, contents: Path | None = None) -> tuple[reverb.Server, reverb.Client]:
    table = Replay().table(tables.TABLE, None, 1, SIGNATURE, RATIO)  # pyright: ignore[reportArgumentType]
    served = [table, variables.table(weights(0.0)), reports.table(), *identity.tables()]
    server = tables.serve(served, folder, contents)
    return server, reverb.Client(f"localhost:{server.port}")


def learner(
    training_id: int, run_id: int, *dropped: int, drop: bool = False, said: list[str] | None = None
) -> Ownership:
    return Ownership(training_id, run_id, dropped, drop, (said if said is not None else []).append)


def test_another_trainings_learner_is_refused_or_takes_it_empty(tmp_path: Path) -> None:
    server, client = serve(tmp_path / "new")
    mine = learner(A, 1)
    mine.take(client, "here")
    mine.take(client, "here")
    assert insert(client, 7) == 7
    assert Reporter(client).send(Report(A, 0, 1, 900, 3, 0, 0, []))
    with pytest.raises(UserError, match=r"here belongs to another training.*--drop_replay"):
        learner(B, 2).take(client, "here")
    said: list[str] = []
    theirs = learner(B, 2, drop=True, said=said)
    theirs.take(client, "here")
    assert said == ["The replay server at here held 7 items of another training: they are dropped."]
    info = client.server_info(timeout=5)
    assert [info[name].current_size for name in (tables.TABLE, reports.TABLE, variables.TABLE)] == [0, 0, 0]
    with pytest.raises(RunError, match="learner of another training has taken over"):
        mine.take(client, "here")
    theirs.take(client, "here")
    server.stop()


def test_what_is_drawn_after_that_is_counted_from_nothing(tmp_path: Path) -> None:
    server, client = serve(tmp_path / "new")
    learner(A, 1).take(client, "here")
    insert(client, 9)
    learner(B, 2, A).take(client, "here")
    shards = Shards([client], RATIO)
    shards.poll()
    shards.begin()
    assert (shards.inserted, shards.credit) == (0, 0.0)
    insert(client, 2)
    wait_until(lambda: shards.poll() or shards.credit == 8.0, "two items' credit")
    server.stop()


def test_a_later_life_takes_over_and_the_earlier_one_is_told(tmp_path: Path) -> None:
    server, client = serve(tmp_path / "new")
    first = learner(A, 1)
    first.take(client, "here")
    insert(client, 3)
    second = learner(A, 2)
    second.take(client, "here")
    assert client.server_info(timeout=5)[tables.TABLE].current_size == 3
    with pytest.raises(RunError, match="Another learner of this training"):
        first.take(client, "here")
    second.take(client, "here")
    server.stop()


def test_a_later_life_is_told_whatever_the_clocks_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = serve(tmp_path / "new")
    first = learner(A, 1)
    first.take(client, "here")
    with monkeypatch.context() as slow:
        slow.setattr(ownership.time, "time", lambda: 1_000.0)
        second = learner(A, 2)
    second.take(client, "here")
    with pytest.raises(RunError):
        first.take(client, "here")
    server.stop()


@pytest.mark.parametrize("ours", [1, 2])
def test_of_two_that_begin_together_one_remains(tmp_path: Path, ours: int) -> None:
    server, client = serve(tmp_path / "new")
    both = [learner(A, 1), learner(A, 2)]
    if ours == 1:
        both.reverse()
    for each in both:
        each.take(client, "here")
    ended = 0
    for each in both:
        try:
            each.take(client, "here")
        except RunError:
            ended += 1
    assert ended == 1
    server.stop()


@pytest.mark.parametrize(("before", "left"), [(A, 4), (B, 0)], ids=["an earlier life of mine", "what was dropped"])
def test_a_server_that_goes_back_to_how_it_was_before_is_mine_again(tmp_path: Path, before: int, left: int) -> None:
    server, client = serve(tmp_path / "new")
    learner(before, 1).take(client, "here")
    insert(client, 4)
    contents = Path(client.checkpoint()).rename(tmp_path / "kept")
    mine = learner(A, 2, B)
    mine.take(client, "here")
    server.stop()
    server, client = serve(tmp_path / "again", contents)
    mine.take(client, "here")
    assert client.server_info(timeout=5)[tables.TABLE].current_size == left
    owner, _ = identity.read_owner(client)
    assert owner is not None
    assert (owner.training_id, owner.run_id) == (A, 2)
    server.stop()


def test_what_a_server_says_shows_that_somebody_else_took_it(tmp_path: Path) -> None:
    server, client = serve(tmp_path / "new")
    shards = Shards([client], RATIO)
    mine = learner(A, 1)
    taken = mine.take(client, "here")
    shards.poll()
    assert shards.claims(0) == taken == mine.take(client, "here")
    learner(A, 2).take(client, "here")
    shards.poll()
    assert shards.claims(0) != taken
    server.stop()
    shards.lose(0)
    assert (shards.alive, shards.claims(0), shards.changed) == ([], None, True)
