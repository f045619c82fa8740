"""Weights arrive as they were published, the newest ones, and nobody waits for a server that is gone."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import reverb
import tensorflow as tf

from servers import variables as module
from servers.variables import Limit, Publisher, Puller, Version, table
from tests.limits import LIMIT_S, wait_until

RUN = 2**31 - 7


def variables(value: float) -> list[tf.Variable]:
    """Of several shapes and types."""
    return [
        tf.Variable(tf.random.stateless_normal([17, 3], (int(value), 1))),
        tf.Variable(tf.constant(value)),
        tf.Variable(tf.constant(3 * int(value), tf.int64)),
        tf.Variable(tf.fill([5], value > 0)),
    ]


def serve() -> tuple[reverb.Server, reverb.Client]:
    server = reverb.Server([table(variables(0.0))])
    return server, reverb.Client(f"localhost:{server.port}")


def version(updates: int, run_id: int = RUN, finished: bool = False) -> Version:
    limits = tuple(Limit(actor, 7 * actor + 1, updates, 3 * updates) for actor in range(updates % 3))
    return Version(5, run_id, updates, updates // 2, 2 * updates, finished, updates + 0.5, limits)


def test_what_is_pulled_is_what_was_published_last() -> None:
    server, client = serve()
    theirs, ours = variables(1.0), variables(0.0)
    publisher, puller = Publisher([client], theirs), Puller([client], ours)
    assert not puller.pull()
    assert puller.version is None
    for updates in (10, 20):
        theirs[1].assign(float(updates))
        assert publisher.publish(version(updates), [0])
    assert puller.pull()
    assert puller.version == version(20)
    for source, copy in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(copy.numpy(), source.numpy())
    ours[1].assign(0.0)
    assert puller.pull()
    assert ours[1].numpy() == 0.0, "What is known already is not read again."
    server.stop()


def test_every_actor_may_pull_and_a_new_life_of_the_learner_is_told_apart() -> None:
    server, client = serve()
    Publisher([client], variables(1.0)).publish(version(100), [0])
    pullers = [Puller([client], variables(0.0)) for _ in range(3)]
    assert [puller.pull() for puller in pullers] == [True] * 3
    Publisher([client], variables(2.0)).publish(version(50, RUN + 1, finished=True), [0])
    assert [puller.pull() for puller in pullers] == [True] * 3
    assert {puller.version for puller in pullers} == {version(50, RUN + 1, finished=True)}
    server.stop()


def test_large_weights_arrive_whole() -> None:
    # 4 MB of weights, as of a convolutional network.
    big = [tf.Variable(tf.random.stateless_normal([1024, 1024], (1, 2)))]
    server = reverb.Server([table(big)])
    client = reverb.Client(f"localhost:{server.port}")
    copy = [tf.Variable(tf.zeros([1024, 1024]))]
    Publisher([client], big).publish(version(1), [0])
    assert Puller([client], copy).pull()
    np.testing.assert_array_equal(copy[0].numpy(), big[0].numpy())
    server.stop()


def test_with_several_servers_one_that_is_gone_is_passed_over() -> None:
    servers, clients = zip(*(serve() for _ in range(3)), strict=True)
    publisher, copy = Publisher(clients, variables(1.0)), variables(0.0)
    assert publisher.publish(version(1), [0, 1, 2])
    servers[1].stop()
    puller = Puller([*clients[1:], clients[0]], copy)
    assert puller.pull()
    assert puller.version == version(1)
    assert publisher.publish(version(2), [0, 2])
    assert puller.pull()
    assert puller.version == version(2)
    for server in (servers[0], servers[2]):
        server.stop()


def test_a_server_that_is_gone_is_told_in_time_and_written_to_again_when_it_is_back() -> None:
    server, client = serve()
    publisher, puller = Publisher([client], variables(1.0)), Puller([client], variables(0.0))
    assert publisher.publish(version(1), [0])
    server.stop()
    assert not puller.pull()
    assert not publisher.publish(version(2), [0])
    again = reverb.Server([table(variables(0.0))], port=server.port)
    wait_until(lambda: publisher.publish(version(3), [0]), "the server to be written to again")
    assert puller.pull()
    assert puller.version == version(3)
    again.stop()


def publish_to_servers_that_are_gone() -> None:
    """The life of a process: it goes on publishing to eight servers after their end."""
    servers, clients = zip(*(serve() for _ in range(8)), strict=True)
    publishers = [Publisher([client], variables(1.0)) for client in clients]
    assert all(publisher.publish(version(1), [0]) for publisher in publishers)
    for server in servers:
        server.stop()
    module.TIMEOUT_S = 1

    def publish(publisher: Publisher) -> None:
        for updates in range(2, 10):
            assert not publisher.publish(version(updates), [0])

    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(publish, publishers))
    os._exit(0)


def test_publishing_to_a_server_that_is_gone_does_no_harm() -> None:
    process = multiprocessing.get_context("spawn").Process(target=publish_to_servers_that_are_gone, daemon=True)
    process.start()
    process.join(LIMIT_S)
    assert process.exitcode == 0


def test_what_no_learner_publishes_is_not_taken_and_said_once() -> None:
    server, client = serve()
    theirs, ours, said = variables(1.0), variables(0.0), []
    publisher, puller = Publisher([client], theirs), Puller([client], ours, said.append)
    assert publisher.publish(version(4), [0])
    assert puller.pull()
    kept = ours[1].numpy()
    theirs[1].assign(float("nan"))
    wrong = [version(5), version(5)._replace(env_steps=-1), version(5)._replace(updates=10**18)]
    wrong += [version(5)._replace(max_priority=float("inf")), version(5)._replace(limits=(Limit(0, 1, -1, 5),))]
    for number, each in enumerate(wrong):
        theirs[1].assign(2.0 if number else float("nan"))
        assert publisher.publish(each, [0])
        assert puller.pull()
        assert (puller.version, ours[1].numpy()) == (version(4), kept)
    assert len(said) == 1
    assert "is not taken" in said[0]
    theirs[1].assign(3.0)
    assert publisher.publish(version(6), [0])
    assert puller.pull()
    assert (puller.version, ours[1].numpy()) == (version(6), 3.0)
    server.stop()
