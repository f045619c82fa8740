"""Which ports can be opened. Imports no TensorFlow."""

from __future__ import annotations

import socket

from pipeline.addresses import FAMILY, accept_both
from pipeline.types import UserError


def check_port(port: int) -> None:
    """Raises UserError where `port` is in use."""
    with socket.socket(FAMILY) as probe:
        accept_both(probe)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"Port {port} cannot be opened ({error.strerror}): choose another with --port.") from error


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    probes = [socket.socket(FAMILY) for _ in range(count)]
    try:
        for probe in probes:
            accept_both(probe)
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
