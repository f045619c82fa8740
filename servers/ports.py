"""Whether a port can be opened. Imports no TensorFlow."""

from __future__ import annotations

import socket

from pipeline.types import UserError


def check_port(port: int) -> None:
    """Raises UserError where `port` is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(f"Port {port} cannot be opened ({error.strerror}): choose another with --port.") from error
