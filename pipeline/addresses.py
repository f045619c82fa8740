"""Addresses of servers as text, and the sockets that listen for all of a machine's. Imports no TensorFlow."""

from __future__ import annotations

import re
import socket

BOTH = socket.has_dualstack_ipv6()
"""whether one socket can listen for IPv6 and IPv4"""
FAMILY = socket.AF_INET6 if BOTH else socket.AF_INET
"""of a socket that listens for all addresses of this machine"""


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of 'host:8000', '10.0.0.1:8000' or '[::1]:8000'; raises ValueError for anything else."""
    found = re.fullmatch(r"(?:\[([\da-fA-F:.]+(?:%\w+)?)\]|([^:\s\[\]]+)):(\d{1,5})", address)
    if found is None:
        raise ValueError(f"'{address}' is not HOST:PORT.")
    return found[1] or found[2], int(found[3])


def accept_both(listener: socket.socket) -> None:
    """Lets a socket of `FAMILY` listen for IPv4 too; to be called before it is bound."""
    if BOTH:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
