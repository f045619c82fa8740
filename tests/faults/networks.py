"""Two hosts joined by a cable that can be cut: network namespaces on this machine, without root.

They have no names, and nothing has to be removed: they exist while a process is in them, and the processes that hold
them end with their standard input, even where the test itself is killed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

TIMEOUT_S = 30
DEVICE = "cable"
ENTER = ("nsenter", "--preserve-credentials", "--user", "--net")
HOLD = ("sh", "-c", "echo ready; exec cat")
NOBODY = "02:00:00:00:00:ff"
"""the hardware address of no host: frames for it arrive and are dropped without a word"""
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10).close()
    print("reached")
except OSError as error:
    print(error.strerror or error)
"""
LISTENS = "0A"
"""in /proc/net/tcp"""


class Host:
    """One end of the cable; its programs see root's user id, the files of the user who runs the test, and no others."""

    def __init__(self, holder: subprocess.Popen[str], number: int):
        self._holder = holder
        self.address = f"10.77.0.{number}"
        self.hardware = f"02:00:00:00:00:0{number}"

    @property
    def pid(self) -> int:
        """A process in its network: /proc/PID/net tells of it."""
        return self._holder.pid

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that make it a process of this host; its process id stays the same."""
        return (*ENTER, f"--target={self.pid}", "--")

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; a failure of it is an error unless `check=False`."""
        chosen = {"check": True, "capture_output": True, "text": True, "timeout": TIMEOUT_S} | options
        return subprocess.run([*self.inside, *command], **chosen)

    def connect(self, address: str, port: int) -> str:
        """What comes of a TCP connection from here: 'reached', or the error."""
        return self.run(sys.executable, "-c", CONNECT, address, str(port)).stdout.strip()

    @contextlib.contextmanager
    def running(self, *command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """A command while it runs; neither it nor what it started outlives the `with`."""
        process = subprocess.Popen([*self.inside, *command], text=True, **options)
        try:
            yield process
        finally:
            # What it started is asked to end where it is killed, but `unshare`, for one, does not listen.
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


class Cable:
    """What joins two hosts."""

    def __init__(self, left: Host, right: Host):
        self.left, self.right = left, right
        left.run(
            *f"ip link add {DEVICE} address {left.hardware} type veth".split(),
            *f"peer name {DEVICE} address {right.hardware} netns {right.pid}".split(),
        )
        for host in (left, right):
            host.run(*f"ip address add {host.address}/24 dev {DEVICE}".split())
            # No IPv6: it would find a way round `cut`, which knows one address a host.
            host.run(*f"ip link set {DEVICE} addrgenmode none".split())
            host.run("ip", "link", "set", "lo", "up")
            host.run(*f"ip link set {DEVICE} up".split())
        self.heal()

    def cut(self) -> None:
        """Drops everything between the hosts, as a lost route does: nobody is told, connections stay open and wait.

        An interface that is set down would be no such thing, because its host then knows at once.
        """
        self._send_to(NOBODY, NOBODY)

    def heal(self) -> None:
        """Undoes `cut`."""
        self._send_to(self.right.hardware, self.left.hardware)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """`cut` for as long as the `with` lasts."""
        self.cut()
        try:
            yield
        finally:
            self.heal()

    def _send_to(self, from_left: str, from_right: str) -> None:
        """Where each host's frames for the other go."""
        for host, other, hardware in ((self.left, self.right, from_left), (self.right, self.left, from_right)):
            host.run(*f"ip neigh replace {other.address} lladdr {hardware} dev {DEVICE} nud permanent".split())


@contextlib.contextmanager
def two_hosts() -> Iterator[Cable]:
    """Two hosts with a cable between them; raises RuntimeError where this machine lets nobody make them.

    Nothing but the cable leads out of them: neither reaches the machine that the test runs on, or is reached from it.
    """
    with contextlib.ExitStack() as stack:
        left = Host(stack.enter_context(_holder("unshare", "--user", "--map-root-user", "--net")), 1)
        # In the user namespace of the first, which may then join the two.
        right = Host(stack.enter_context(_holder(*left.inside, "unshare", "--net")), 2)
        yield Cable(left, right)


@contextlib.contextmanager
def _holder(*making: str) -> Iterator[subprocess.Popen[str]]:
    """A process in a namespace that the words before its command make; both end with the `with`."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*making, *HOLD], **pipes) as process:
        try:
            if process.stdout is None or not process.stdout.readline():
                said = process.communicate(timeout=TIMEOUT_S)[1]
                raise RuntimeError(f"This machine lets nobody make network namespaces: {said.strip()}")
            yield process
        finally:
            process.kill()


def listening_ports(pid: int) -> list[int]:
    """Those that anyone listens on in the network that the process is in."""
    tables = (Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6"))
    sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [int(words[1].rpartition(":")[2], 16) for words in sockets if words[3] == LISTENS]
