"""What another machine reaches: nothing of a run on one machine, and all of a replay whose door is open."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.binaries.endless import endless
from tests.binaries.programs import environment
from tests.faults.networks import Cable, Host, listening_ports, two_hosts

PORT = 8000
SERVER = f"""
import reverb
server = reverb.Server([reverb.Table.queue("experience", 10)], port={PORT})
print("ready", flush=True)
server.wait()
"""
# What its tables hold, then an item of the stranger's own.
STRANGER = """
import reverb, sys
client = reverb.Client(sys.argv[1])
print(*client.server_info(timeout=20))
if "insert" in sys.argv:
    client.insert([1.0], {"experience": 1.0})
    print(client.server_info(timeout=20)["experience"].current_size)
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    with two_hosts() as cable:
        yield cable


def stranger(host: Host, address: str, *acts: str) -> list[str]:
    """What a Reverb client on the host is told."""
    ended = host.run(sys.executable, "-c", STRANGER, address, *acts, env=environment(), timeout=60)
    return ended.stdout.split()


@pytest.mark.slow
def test_the_processes_of_a_run_share_a_network_that_no_other_machine_reaches(cable: Cable, tmp_path: Path) -> None:
    machine, other = cable.left, cable.right
    with endless(tmp_path / "run", "--num_workers=2", inside=machine.inside) as train:
        (replay,) = listening_ports(train.process.pid)
        assert listening_ports(machine.pid) == []
        assert other.connect(machine.address, replay) == "Connection refused"
        train.process.send_signal(signal.SIGTERM)
        assert train.process.wait(120) == 0


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--private_network=False", f"--port={PORT}"])
def test_a_run_in_the_machines_network_is_open(cable: Cable, tmp_path: Path, flag: str) -> None:
    machine, other = cable.left, cable.right
    with endless(tmp_path / "run", flag, inside=machine.inside):
        (replay,) = listening_ports(machine.pid)
        assert other.connect(machine.address, replay) == "reached"
        assert "experience" in stranger(other, f"{machine.address}:{replay}")


@pytest.mark.slow
def test_a_server_of_its_own_is_open_to_whoever_reaches_its_machine(cable: Cable) -> None:
    machine, other = cable.left, cable.right
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with machine.running(sys.executable, "-c", SERVER, env=environment(), **pipes) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        assert stranger(other, f"{machine.address}:{PORT}", "insert") == ["experience", "1"]
