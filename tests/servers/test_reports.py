"""Actors' messages reach the learner once each, and nobody waits for them."""

from __future__ import annotations

import pytest
import reverb

import servers.reports
from servers import identity
from servers.reports import EPISODES, Report, Reporter, read


def report(actor: int, env_steps: int, episodes: int = 0) -> Report:
    finished = [(float(n) + 0.5, n) for n in range(episodes)]
    return Report(actor, 2**31 - 5, env_steps, episodes, 1, 10 * env_steps, finished)


def test_every_message_is_read_once_and_in_order() -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    assert read([client]) == []
    reporter = Reporter(client)
    sent = [report(3, steps, episodes=steps % 5) for steps in range(20)]
    assert all(reporter.send(each) for each in sent)
    assert read([client]) == sent
    assert read([client]) == []
    server.stop()


def test_of_too_many_episodes_the_newest_are_told() -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    many = report(0, 9, episodes=EPISODES + 7)
    assert Reporter(client).send(many)
    assert read([client]) == [many._replace(finished=many.finished[-EPISODES:])]
    server.stop()


def test_without_a_learner_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.reports, "KEPT", 5)
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    reporter = Reporter(client)
    assert all(reporter.send(report(0, steps)) for steps in range(12))
    assert [each.env_steps for each in read([client])] == [7, 8, 9, 10, 11]
    server.stop()


def test_a_server_that_is_gone_has_no_messages_and_takes_none() -> None:
    server = reverb.Server([servers.reports.table()])
    client = reverb.Client(f"localhost:{server.port}")
    reporter = Reporter(client)
    assert reporter.send(report(0, 1))
    server.stop()
    assert not reporter.send(report(0, 2))
    assert read([client]) == []


def test_a_server_says_which_experiment_it_serves() -> None:
    server = reverb.Server([identity.table()])
    client = reverb.Client(f"localhost:{server.port}")
    settings = {"DQN.gamma": "0.9", "Experiment.environment": "'CartPole-v1'"}
    identity.write(client, settings)
    assert identity.read(client) == identity.read(client) == settings
    server.stop()
