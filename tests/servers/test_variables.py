"""Weights arrive as they were published, the newest ones, and nobody waits for a server that is gone."""

from __future__ import annotations

import time

import numpy as np
import pytest
import reverb
import tensorflow as tf

from servers.variables import Publisher, Puller, VariablesError, Version, table

RUN = 2**62 + 7


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


def test_what_is_pulled_is_what_was_published_last() -> None:
    server, client = serve()
    theirs, ours = variables(1.0), variables(0.0)
    publisher, puller = Publisher(client, theirs, RUN), Puller(client, ours)
    assert not puller.pull()
    assert puller.version is None
    for updates in (10, 20):
        theirs[1].assign(float(updates))
        publisher.publish(updates, 2 * updates)
    assert puller.pull()
    assert puller.version == Version(RUN, 20, 40)
    for source, copy in zip(theirs, ours, strict=True):
        np.testing.assert_array_equal(copy.numpy(), source.numpy())
    assert not puller.pull()
    server.stop()


def test_every_actor_may_pull_and_a_new_life_of_the_learner_is_told_apart() -> None:
    server, client = serve()
    Publisher(client, variables(1.0), RUN).publish(100, 100)
    pullers = [Puller(client, variables(0.0)) for _ in range(3)]
    assert [puller.pull() for puller in pullers] == [True] * 3
    Publisher(client, variables(2.0), RUN + 1).publish(100, 100)
    assert [puller.pull() for puller in pullers] == [True] * 3
    assert {puller.version for puller in pullers} == {Version(RUN + 1, 100, 100)}
    server.stop()


def test_large_weights_travel_in_a_fraction_of_a_second() -> None:
    # 4 MB of weights, as of a convolutional network.
    big = [tf.Variable(tf.random.stateless_normal([1024, 1024], (1, 2)))]
    server = reverb.Server([table(big)])
    client = reverb.Client(f"localhost:{server.port}")
    copy = [tf.Variable(tf.zeros([1024, 1024]))]
    publisher, puller = Publisher(client, big, RUN), Puller(client, copy)
    begin = time.monotonic()
    for updates in range(5):
        publisher.publish(updates, 0)
        assert puller.pull()
    assert (time.monotonic() - begin) / 5 < 1.0
    np.testing.assert_array_equal(copy[0].numpy(), big[0].numpy())
    server.stop()


def test_a_server_that_is_gone_is_an_error_in_time() -> None:
    server, client = serve()
    publisher, puller = Publisher(client, variables(1.0), RUN), Puller(client, variables(0.0))
    publisher.publish(1, 1)
    assert puller.pull()
    server.stop()
    begin = time.monotonic()
    with pytest.raises(VariablesError, match="gave no weights in 2 s"):
        puller.pull(timeout_s=2.0)
    with pytest.raises(VariablesError, match="took no weights in 2 s"):
        publisher.publish(2, 2, timeout_s=2.0)
    assert time.monotonic() - begin < 20
