"""How a tunnel surrounds its program, with a stand-in for stunnel; tests/faults/test_tls.py has the real one."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.binaries.programs import run, running
from tests.limits import LIMIT_S

# It tells how it was configured, then does as the real one: it goes on.
STAND_IN = '#!/bin/sh\necho started >>"{folder}/starts"\ncat >>"{folder}/configuration"\n{then}\n'


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with certificates in tls/, on a machine with a stunnel of ours."""
    (tmp_path / "tls").mkdir()
    for name in ("ca.pem", "own.pem"):
        (tmp_path / "tls" / name).touch()
    install(tmp_path, "exec sleep 600")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    return tmp_path


def install(machine: Path, then: str) -> None:
    stunnel = machine / "bin/stunnel"
    stunnel.parent.mkdir(exist_ok=True)
    stunnel.write_text(STAND_IN.format(folder=machine, then=then))
    stunnel.chmod(0o755)


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody has."""
    for first in range(20_000, 30_000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("All ports are taken.")


def words(machine: Path, *flags: str, program: str = "true") -> list[str]:
    return [f"--certificates={machine}/tls", f"--port={free_ports(2)}", *flags, "--", "sh", "-c", program]


CONNECT = "--connect=replay.example.org:8443"


def test_each_replay_machine_gets_a_port_of_this_one_and_must_prove_its_name(machine: Path) -> None:
    given = words(machine, f"{CONNECT},192.0.2.7:9443", program=f"until [ $(wc -l <{machine}/starts) = 2 ]; do :; done")
    assert run("binaries.tunnel", *given).code == 0
    lines = (machine / "configuration").read_text().splitlines()
    first = int(given[1].rpartition("=")[2])
    assert {"connect = replay.example.org:8443", "checkHost = replay.example.org"} < set(lines)
    assert {"connect = 192.0.2.7:9443", "checkIP = 192.0.2.7"} < set(lines)
    assert {f"accept = 127.0.0.1:{first}", f"accept = 127.0.0.1:{first + 1}"} < set(lines)
    assert lines.count(f"cert = {machine}/tls/own.pem") == 2


def test_the_programs_exit_status_is_the_tunnels(machine: Path) -> None:
    assert run("binaries.tunnel", *words(machine, CONNECT, program="exit 7")).code == 7


def test_a_stop_is_passed_on_and_waits_for_what_the_program_saves(machine: Path) -> None:
    program = f"trap 'touch {machine}/saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    with running("binaries.tunnel", *words(machine, CONNECT, program=program)) as tunnel:
        tunnel.read_until(lambda text: "ready" in text)
        tunnel.process.send_signal(signal.SIGTERM)
        assert tunnel.process.wait(LIMIT_S) == 0
    assert (machine / "saved").exists()


def test_a_tunnel_that_cannot_work_ends_the_program(machine: Path) -> None:
    install(machine, f"until [ -e {machine}/ready ]; do sleep 0.1; done; exit 1")
    program = f"trap 'touch {machine}/told; exit' TERM; touch {machine}/ready; while :; do sleep 0.1; done"
    ended = run("binaries.tunnel", *words(machine, CONNECT, program=program))
    assert (ended.code, ended.stderr) == (1, "tunnel: stunnel cannot work; what it says stands above.\n")
    assert (machine / "told").exists()


@pytest.mark.slow
def test_a_tunnel_that_dies_is_started_again(machine: Path) -> None:
    install(machine, "sleep 6")
    program = f"until [ $(wc -l <{machine}/starts) = 2 ]; do sleep 0.1; done"
    assert run("binaries.tunnel", *words(machine, CONNECT, program=program)).code == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "Choose --accept=PORT beside a replay server, or --connect=HOST:PORT to reach one."),
        (
            [CONNECT, "--accept=8443"],
            "Choose --accept=PORT beside a replay server, or --connect=HOST:PORT to reach one.",
        ),
        (["--connect=replay.example.org"], "--connect: 'replay.example.org' is not HOST:PORT."),
        (
            [CONNECT, "--port=0"],
            "No port was chosen: add --port=PORT, where the program serves the replay, or looks for",
        ),
        ([CONNECT, "--certificates="], "No certificate was named: add --certificates=FOLDER, made by launch/tls/cert"),
        (
            [CONNECT, "--certificates=/nowhere"],
            "--certificates=/nowhere has no ca.pem: launch/tls/certificates.sh makes",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(machine: Path, flags: list[str], sentence: str) -> None:
    ended = run("binaries.tunnel", *words(machine, *flags, program=f"touch {machine}/began"))
    assert ended.code == 2
    assert ended.stderr.startswith(f"tunnel: {sentence}")
    assert not (machine / "began").exists()
    assert not (machine / "starts").exists()


def test_a_tunnel_without_a_program_is_refused(machine: Path) -> None:
    ended = run("binaries.tunnel", CONNECT)
    assert (ended.code, ended.stderr.partition(":")[2][:25]) == (2, " No program was named: en")
