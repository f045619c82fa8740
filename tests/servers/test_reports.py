"""Actors' messages reach the learner once each, and nobody waits for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reverb

import servers.reports
from servers import identity
from servers.limits import MOST_ACTORS
from servers.reports import EPISODES, TABLE, Report, Reporter
from tests.limits import LIMIT_S

TRAINING = 2**31 - 3


def report(actor: int, env_steps: int, episodes: int = 0) -> Report:
    finished = [(float(n) + 0.5, n + 1) for n in range(episodes)]
    return Report(TRAINING, actor, 2**31 - 5, env_steps, episodes, 1, 10 * env_steps, finished)


def read(client: reverb.Client) -> list[Report]:
    """Of a training of a thousand steps; none of them is refused."""
    found, refused = servers.reports.read([client], TRAINING, 1_000)
    assert not refused
    return found


def test_every_message_is_read_once_and_in_order() -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    assert read(client) == []
    reporter = Reporter(client)
    sent = [report(3, steps, episodes=min(steps, steps % 5)) for steps in range(20)]
    assert all(reporter.send(each) for each in sent)
    assert read(client) == sent
    assert read(client) == []
    server.stop()


def test_of_too_many_episodes_the_newest_are_told() -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    many = report(0, 99, episodes=EPISODES + 7)
    assert Reporter(client).send(many)
    assert read(client) == [many._replace(finished=many.finished[-EPISODES:])]
    server.stop()


def test_without_a_learner_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.reports, "KEPT", 5)
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    reporter = Reporter(client)
    assert all(reporter.send(report(0, steps)) for steps in range(12))
    assert [each.env_steps for each in read(client)] == [7, 8, 9, 10, 11]
    server.stop()


def test_a_server_that_is_gone_has_no_messages_and_takes_none() -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    reporter = Reporter(client)
    assert reporter.send(report(0, 1))
    server.stop()
    assert not reporter.send(report(0, 2))
    assert read(client) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"training_id": TRAINING - 1}, "another training"),
        ({"env_steps": -5}, "negative"),
        ({"actor": -1}, "negative"),
        ({"actor": MOST_ACTORS}, "no actor has this number"),
        ({"life": 0}, "no actor has this number"),
        ({"life": 2**31}, "no actor has this number"),
        ({"env_steps": 2**62}, "more steps"),
        ({"env_steps": 9, "episodes": 10}, "more episodes"),
        ({"finished": [(float("nan"), 3)]}, "no number"),
        ({"finished": [(1.0, float("inf"))]}, "no number"),
        ({"finished": [(1.0, 0)]}, "no number"),
    ],
)
def test_what_no_actor_can_have_sent_is_refused_and_those_beside_it_are_read(
    changed: dict[str, Any], reason: str
) -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    reporter = Reporter(client)
    assert all(map(reporter.send, [report(1, 10), report(2, 10)._replace(**changed), report(3, 20)]))
    found, ((actor, said),) = servers.reports.read([client], TRAINING, 1_000)
    assert [each.actor for each in found] == [1, 3]
    assert actor == changed.get("actor", 2)
    assert reason in said
    server.stop()


@pytest.mark.parametrize("ended", [-9, EPISODES + 1, 2**40])
def test_episodes_are_counted_right_or_the_report_is_refused(ended: int) -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    writer: Any = client.trajectory_writer(num_keep_alive_refs=1)
    counts = np.array([*report(1, 900, 800)[:-1], ended], np.int64)
    writer.append({"counts": counts, "episodes": np.ones([EPISODES, 2], np.float32)})
    writer.create_item(TABLE, 1.0, {name: column[-1] for name, column in writer.history.items()})
    writer.flush(timeout_ms=int(1000 * LIMIT_S))
    found, refused = servers.reports.read([client], TRAINING, 1_000)
    assert (found, len(refused)) == ([], 1)
    server.stop()


def test_a_server_says_which_experiment_it_serves() -> None:
    server = reverb.Server(identity.tables())
    client = reverb.Client(f"localhost:{server.port}")
    settings = {"DQN.gamma": "0.9", "Experiment.environment": "'CartPole-v1'"}
    identity.write(client, settings)
    assert identity.read(client) == identity.read(client) == settings
    server.stop()


@pytest.mark.parametrize("garbage", [b"not json{{{", b"[1, 2]", b'{"DQN.gamma": 1}', b"\xff"])
def test_settings_that_are_none_are_told_apart(garbage: bytes) -> None:
    server = reverb.Server(identity.tables())
    client = reverb.Client(f"localhost:{server.port}")
    writer: Any = client.trajectory_writer(num_keep_alive_refs=1)
    writer.append({"settings": np.frombuffer(garbage, np.uint8)})
    writer.create_item(identity.TABLE, 1.0, {"settings": writer.history["settings"][-1:]})
    writer.flush(timeout_ms=int(1000 * LIMIT_S))
    with pytest.raises(ValueError):  # noqa: PT011 of any kind
        identity.read(client)
    server.stop()
