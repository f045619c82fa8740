"""A port that is taken is noticed before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import reverb

from pipeline.loopback import is_this_machine
from pipeline.types import UserError
from servers.ports import check_port

TAKEN = r"Port {} cannot be opened \(Address already in use\): choose another with --port\."


@pytest.mark.parametrize("address", ["", "127.0.0.1", "::1"], ids=["all interfaces", "this machine only", "by IPv6"])
def test_a_port_in_use_is_refused(address: str) -> None:
    if ":" in address and not is_this_machine(address):
        pytest.skip("This machine has no IPv6.")
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=TAKEN.format(port)):
            check_port(port)
    check_port(port)


def test_the_port_of_another_replay_server_is_refused(serve: Callable[[reverb.Table], reverb.Server]) -> None:
    server = serve(reverb.Table.queue("table", 10))
    with pytest.raises(UserError, match=TAKEN.format(server.port)):
        check_port(server.port)


def test_checking_does_not_take_the_port() -> None:
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
    check_port(port)
    check_port(port)
    socket.create_server(("", port)).close()
