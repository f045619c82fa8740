"""Real replay servers and actors of a benchmark, as programs of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from binaries.processes import Process, stop_all
from pipeline.types import RunError
from servers.ports import free_ports

if TYPE_CHECKING:
    import reverb

START_S = 120.0
POLL_S = 0.1


def settings(hparams: str, overrides: tuple[str, ...]) -> list[str]:
    """The words that every program of one fleet is given."""
    return [f"--hparams={hparams}", f"--hparam_override={';'.join(overrides)}"]


@contextlib.contextmanager
def replay_servers(words: list[str], count: int, folder: Path) -> Iterator[tuple[list[str], list[Process]]]:
    """The addresses and the processes of `count` replay servers that serve; they end with the `with`."""
    import reverb

    ports = free_ports(count)
    servers = [
        Process(
            "binaries.replay_server",
            [*words, f"--port={port}", f"--shards={count}", f"--checkpoint_dir={folder}/replay_{port}"],
            folder / f"replay_{port}.log",
        )
        for port in ports
    ]
    try:
        addresses = [f"localhost:{port}" for port in ports]
        for address, server in zip(addresses, servers, strict=True):
            _wait_for(reverb.Client(address), server)
        yield addresses, servers
    finally:
        stop_all(servers)


@contextlib.contextmanager
def actors(words: list[str], addresses: list[str], count: int, folder: Path) -> Iterator[list[Process]]:
    """`count` actor processes; they end with the `with`."""
    started = [
        Process(
            "binaries.actor",
            [*words, f"--replay={','.join(addresses)}", f"--actor_id={actor}", f"--num_actors={count}"],
            folder / f"actor_{actor}.log",
        )
        for actor in range(count)
    ]
    try:
        yield started
    finally:
        stop_all(started)


def inserted(client: reverb.Client) -> int:
    """Items that the server's experience table has taken, ever."""
    from servers import tables

    return client.server_info(timeout=5)[tables.TABLE].rate_limiter_info.insert_stats.completed


def _wait_for(client: reverb.Client, server: Process) -> None:
    import reverb

    from servers import identity

    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.code is not None:
            raise RunError(f"A replay server ended: {server.last_line()} (all of it: {server.output}).")
        with contextlib.suppress(reverb.ReverbError, RuntimeError):
            if client.server_info(timeout=5)[identity.TABLE].current_size:
                return
        time.sleep(POLL_S)
    raise RunError(f"A replay server did not serve within {START_S:.0f} s (what it said: {server.output}).")
