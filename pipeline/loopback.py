"""Keeps this machine's own addresses out of the proxies that the user's environment names. Imports no TensorFlow.

gRPC, and so Reverb and TensorFlow, sends every connection to the proxy of `grpc_proxy`, `https_proxy` or `http_proxy`,
those to the process beside it too. No proxy leads there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""the variables that gRPC takes a proxy from"""
EXEMPTIONS = ("no_grpc_proxy", "no_proxy")
"""those that it takes the exempt hosts from: the first one that is set, and no other"""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def exempt(hosts: Iterable[str] = ()) -> None:
    """Exempts loopback, and those of `hosts` that are this machine, from the proxies of this process and its children.

    To be called before the first connection: gRPC reads the variables whenever it opens a channel.
    """
    # Loopback always, for a proxy that is set later; looking other names up may take long.
    asked = any(os.environ.get(name) for name in PROXIES)
    own = [host for host in hosts if asked and is_this_machine(host)]
    os.environ[EXEMPTIONS[0]] = exemptions(os.environ, [*LOOPBACK, *own])


def exemptions(variables: Mapping[str, str], hosts: Iterable[str]) -> str:
    """The value of `no_grpc_proxy` that adds `hosts` to what the environment `variables` exempts already."""
    held = next((variables[name] for name in EXEMPTIONS if name in variables), "")
    entries = [entry for entry in held.split(",") if entry]
    return ",".join([*entries, *(host for host in dict.fromkeys(hosts) if host not in entries)])


def is_this_machine(host: str) -> bool:
    """Whether `host`, a name or an address, is an address of this machine; a name that is not known here is not."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    return bool(found) and all(_is_own(family, address) for family, _, _, _, address in found)


def _is_own(family: int, address: tuple) -> bool:
    """Whether a socket can be bound to `address`."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True
