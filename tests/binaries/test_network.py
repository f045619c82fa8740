"""A process enters a network of its own and is otherwise as it was; or it cannot, and nothing changes at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from binaries import network
from tests.binaries.programs import environment
from tests.limits import LIMIT_S

# What a process sees of itself before and after, and whether it entered.
SCRIPT = """
import ctypes, json, os, socket, subprocess, sys
from pathlib import Path

def seen(name):
    (Path(sys.argv[1]) / name).touch()
    owner = (Path(sys.argv[1]) / name).stat()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    parent_death = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(parent_death))
    return {
        "pid": os.getpid(),
        "ids": [*os.getresuid(), *os.getresgid()],
        "files belong to": [owner.st_uid, owner.st_gid],
        "capabilities": status["CapEff"].strip(),
        "parent's death": parent_death.value,
        "network": os.readlink("/proc/self/ns/net"),
        "user namespace": os.readlink("/proc/self/ns/user"),
    }

def reached(host, port):
    try:
        socket.create_connection((host, port), timeout=60).close()
        return "reached"
    except OSError as error:
        return error.strerror

ctypes.CDLL(None).prctl(1, 15)
exec(sys.argv[2])
from binaries import network
before = seen("before")
entered = network.enter_private()
listener = socket.create_server(("", 0))
port = listener.getsockname()[1]
child = [sys.executable, "-c", f"import socket; socket.create_connection(('localhost', {port}), timeout=60)"]
print(json.dumps({
    "entered": entered,
    "before": before,
    "after": seen("after"),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "itself": reached("127.0.0.1", port),
    "child": subprocess.run(child).returncode,
    "elsewhere": reached("192.0.2.1", 9),
}))
"""
USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""a user without rights, whoever runs the test"""
ROOT = ("unshare", "--user", "--map-root-user")
NOT_ALLOWED = (*ROOT, "sh", "-c", 'echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"', "sh")
THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
NUMPY = "import numpy; numpy.ones((300, 300)) @ numpy.ones((300, 300))"


def told(folder: Path, inside: tuple[str, ...], first: str = "") -> dict[str, Any]:
    """What SCRIPT says where `inside` runs it and `first` was done before."""
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True, timeout=LIMIT_S)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"This machine lets nobody make namespaces: {error.stderr.decode().strip()}")
    command = [*inside, sys.executable, "-c", SCRIPT, str(folder), first]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("inside", [USER, ROOT], ids=["user", "root"])
def test_only_the_network_changes(tmp_path: Path, inside: tuple[str, ...]) -> None:
    said = told(tmp_path, inside)
    assert said["entered"]
    changed = {name for name, value in said["before"].items() if said["after"][name] != value}
    # Root keeps its user namespace: in another it would lose its rights to the files of others.
    assert changed == {"network"} | ({"user namespace"} if inside is USER else set())
    assert said["after"]["files belong to"] == ([1000, 1000] if inside is USER else [0, 0])
    assert said["after"]["parent's death"] == 15
    assert (tmp_path / "after").stat().st_uid == os.getuid()


@pytest.mark.parametrize("inside", [USER, ROOT], ids=["user", "root"])
def test_it_reaches_itself_and_its_children_and_nothing_else(tmp_path: Path, inside: tuple[str, ...]) -> None:
    said = told(tmp_path, inside)
    assert "lo" in said["interfaces"]
    assert not [name for name in said["interfaces"] if name.startswith(("eth", "en", "wl", "docker", "br"))]
    assert (said["itself"], said["child"], said["elsewhere"]) == ("reached", 0, "Network is unreachable")


def test_threads_of_numpy_are_no_hindrance(tmp_path: Path) -> None:
    assert told(tmp_path, USER, NUMPY)["entered"]


@pytest.mark.parametrize(
    ("inside", "first"), [(NOT_ALLOWED, ""), (USER, THREAD), (ROOT, THREAD)], ids=["refused", "thread", "root's thread"]
)
def test_where_it_cannot_nothing_changes(tmp_path: Path, inside: tuple[str, ...], first: str) -> None:
    said = told(tmp_path, inside, first)
    assert not said["entered"]
    assert said["after"] == said["before"]
    assert (said["itself"], said["child"]) == ("reached", 0)


@pytest.mark.parametrize(
    ("display", "needs"),
    [(None, False), ("", False), (":0", False), (":0.1", False), ("unix:0", False), ("localhost:10.0", True)],
)
def test_a_display_that_is_reached_through_the_network_needs_it(
    monkeypatch: pytest.MonkeyPatch, display: str | None, needs: bool
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    if display is not None:
        monkeypatch.setenv("DISPLAY", display)
    assert network.display_needs_network() == needs
