"""The test hosts: what joins them, what a cut does to it, and what is left of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.networks import Cable, two_hosts

PORT = 7000
PIPES: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
SERVER = f"""
import socket, sys, threading
def echo(connection):
    while data := connection.recv(100):
        connection.sendall(data)
with socket.create_server(("", {PORT})) as listener:
    print("ready", flush=True)
    while True:
        threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
# Answers each line that it is sent with what came of it.
CLIENT = """
import json, socket, sys, time
address = (sys.argv[1], int(sys.argv[2]))
connection = socket.create_connection(address, timeout=10)
for line in sys.stdin:
    act, timeout = json.loads(line)
    begin = time.monotonic()
    try:
        if act == "send":
            connection.sendall(b"x")
        elif act == "receive":
            connection.settimeout(timeout)
            assert connection.recv(1) == b"x"
        else:
            socket.create_connection(address, timeout=timeout).close()
        said = "done"
    except OSError as error:
        said = type(error).__name__
    print(json.dumps([said, time.monotonic() - begin]), flush=True)
"""


class Client:
    """A connection from one host to the other's server."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process: Any = process

    def do(self, act: str, timeout: float = 20.0) -> tuple[str, float]:
        """What came of it ('done', or the error's name), and how many seconds that took."""
        self._process.stdin.write(json.dumps([act, timeout]) + "\n")
        self._process.stdin.flush()
        return tuple(json.loads(self._process.stdout.readline()))


@pytest.fixture
def cable() -> Iterator[Cable]:
    with two_hosts() as cable:
        yield cable


@pytest.fixture
def client(cable: Cable) -> Iterator[Client]:
    with cable.right.running(sys.executable, "-c", SERVER, **PIPES) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        words = (sys.executable, "-c", CLIENT, cable.right.address, str(PORT))
        with cable.left.running(*words, **PIPES) as process:
            yield Client(process)


@pytest.mark.slow
def test_a_cut_drops_everything_in_silence_and_the_healed_connection_goes_on(cable: Cable, client: Client) -> None:
    for act in ("send", "receive", "connect"):
        assert client.do(act)[0] == "done"
    with cable.cut_off():
        # What is sent seems to be on its way, and nothing comes back: no refusal, no 'network is unreachable'.
        assert client.do("send")[0] == "done"
        for act in ("receive", "connect"):
            said, seconds = client.do(act, timeout=1.5)
            assert said == "TimeoutError"
            assert seconds >= 1.5
    # What was sent during the cut arrives, on the same connection.
    assert client.do("receive")[0] == "done"
    for act in ("send", "receive", "connect"):
        assert client.do(act)[0] == "done"


@pytest.mark.slow
def test_the_hosts_are_apart_from_this_machine(cable: Cable) -> None:
    networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in ("self", cable.left.pid, cable.right.pid)}
    assert len(networks) == 3
    for host in (cable.left, cable.right):
        routes = host.run("ip", "route").stdout.split("\n")
        assert [route.split()[0] for route in routes if route] == ["10.77.0.0/24"]


@pytest.mark.slow
def test_programs_are_processes_of_their_own_that_own_their_files(cable: Cable, tmp_path: Path) -> None:
    with cable.left.running("sh", "-c", f"echo > {tmp_path}/file; echo; read x", **PIPES) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink(f"/proc/{cable.left.pid}/ns/net")
        assert (tmp_path / "file").stat().st_uid == os.getuid()
    assert process.returncode == -9


@pytest.mark.slow
def test_hosts_do_not_outlive_the_process_that_made_them() -> None:
    make = (
        "import sys; from tests.faults.networks import two_hosts\n"
        "with two_hosts() as cable: print(cable.left.pid, cable.right.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", make], text=True, **PIPES) as process:
        assert process.stdout is not None
        holders = [int(pid) for pid in process.stdout.readline().split()]
        assert len(holders) == 2
        process.kill()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in holders):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
