"""Reverb servers for the tests of the data path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import reverb

from servers import tables


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[reverb.Table], reverb.Server]]:
    """Starts servers that stop when the test ends."""
    servers: list[reverb.Server] = []

    def start(table: reverb.Table) -> reverb.Server:
        servers.append(tables.serve([table], tmp_path / f"server{len(servers)}"))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
