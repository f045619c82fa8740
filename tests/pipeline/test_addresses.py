"""Addresses of servers, of either protocol."""

from __future__ import annotations

import socket

import pytest

from pipeline.addresses import FAMILY, accept_both, host_and_port
from pipeline.loopback import is_this_machine


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("replay-0.replay:8000", ("replay-0.replay", 8000)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:8000", ("::1", 8000)),
        ("[fe80::1%eth0]:8000", ("fe80::1%eth0", 8000)),
        ("[::ffff:10.0.0.1]:8000", ("::ffff:10.0.0.1", 8000)),
    ],
)
def test_host_and_port_are_told_apart(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize("address", ["", "here", ":8000", "here:", "here:http", "::1:8000", "[::1]", "[]:80", "a b:80"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        host_and_port(address)


def test_one_socket_listens_for_both() -> None:
    with socket.socket(FAMILY) as listener:
        accept_both(listener)
        listener.bind(("", 0))
        listener.listen()
        hosts = ["127.0.0.1", *(["::1"] if is_this_machine("::1") else [])]
        for host in hosts:
            socket.create_connection((host, listener.getsockname()[1]), timeout=60).close()
