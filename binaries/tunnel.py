"""Runs a program whose replay traffic goes to other machines through mutual TLS, by stunnel."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import string
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags as absl_flags

from binaries import flags, network
from binaries.processes import GRACE_S, die_with
from binaries.serving import POLL_S
from binaries.signals import Stop
from pipeline.addresses import BOTH, FAMILY, host_and_port
from pipeline.index import ROOT
from pipeline.types import RunError, UserError

TEMPLATES = ROOT / "launch" / "tls"
SOON_S = 5.0
"""after its start; a stunnel that ends so soon cannot do what it is asked to"""
LISTENING = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" -fd 0 3<&"$1"'
"""a shell's words that give a program a listening socket, as systemd does"""


class Stunnel:
    """One tunnel, which is started again when it dies."""

    def __init__(
        self, program: str, template: str, values: Mapping[str, object], listener: socket.socket | None = None
    ):
        """`template`: a file of TEMPLATES; `listener`: what it accepts from, where it does not open that itself."""
        self._configuration = string.Template((TEMPLATES / template).read_text()).substitute(values)
        self._program = program
        self._listener = listener
        self._process = self._start()

    def look(self) -> None:
        """Starts it again, if it died; raises RunError where it cannot work."""
        if self._process.poll() is None:
            return
        if time.monotonic() - self._started < SOON_S:
            raise RunError("stunnel cannot work; what it says stands above.")
        self._process = self._start()

    def end(self) -> None:
        """Ends it; its connections end with it."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self._started = time.monotonic()
        command, descriptors = [self._program, "-fd", "0"], ()
        if self._listener is not None:
            descriptors = (self._listener.fileno(),)
            command = ["sh", "-c", LISTENING, self._program, str(descriptors[0])]
        process = _start(command, stdin=subprocess.PIPE, pass_fds=descriptors)
        assert process.stdin is not None
        # Where it ended before it read this, `look` says so.
        with contextlib.suppress(BrokenPipeError), process.stdin as stream:
            stream.write(self._configuration.encode())
        return process


def _start(command: Sequence[str], stdin: int | None = None, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Starts a process that ends when this one does; a terminal's Ctrl-C is for this one alone."""
    parent = os.getpid()
    return subprocess.Popen(
        command, stdin=stdin, pass_fds=pass_fds, start_new_session=True, preexec_fn=lambda: die_with(parent)
    )


def _check_certificates(text: str | None) -> Path:
    """The folder of this machine's certificate; raises UserError."""
    if not text:
        raise UserError("No certificate was named: add --certificates=FOLDER, made by launch/tls/certificates.sh.")
    folder = Path(text).expanduser().absolute()
    for name in ("ca.pem", "own.pem"):
        if not (folder / name).is_file():
            raise UserError(f"--certificates={text} has no {name}: launch/tls/certificates.sh makes such folders.")
    return folder


def _server(program: str, folder: Path, port: int, accept: int, private: bool) -> Stunnel:
    """The tunnel in front of a replay server at `port`, which nothing else leads to if the network is `private`."""
    try:
        # Opened in the machine's network, and kept in one where there is nothing else.
        listener = socket.create_server(("", accept), family=FAMILY, dualstack_ipv6=BOTH)
    except OSError as error:
        raise UserError(f"--accept={accept} cannot be opened ({error.strerror}).") from error
    if private and not network.enter_private():
        raise UserError(
            "This machine does not let the replay server have a network of its own, so that its port would be open"
            f" beside the tunnel: let a firewall close port {port}, and add --private_network=False."
        )
    return Stunnel(program, "server.conf", {"certificates": folder, "port": port, "accept": accept}, listener)


def _client(program: str, folder: Path, port: int, address: str) -> Stunnel:
    """The tunnel to the replay server at `address`, which is then at localhost:`port`."""
    try:
        host, number = host_and_port(address)
    except ValueError as error:
        raise UserError(f"--connect: {error}") from error
    from servers.ports import check_port

    check_port(port)
    check = "checkIP" if _is_address(host) else "checkHost"
    values = {"certificates": folder, "port": port, "server": f"{host}:{number}", "check": check, "host": host}
    return Stunnel(program, "client.conf", values)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _watch(tunnels: Sequence[Stunnel], command: Sequence[str]) -> int:
    """Runs `command` to its end, with the tunnels up; returns its exit status."""
    stop = Stop()
    try:
        program = _start(command)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run ({error.strerror}).") from error
    try:
        while program.poll() is None and not stop():
            for tunnel in tunnels:
                tunnel.look()
            time.sleep(POLL_S)
    finally:
        # It saves what it has while the tunnels are still up.
        program.terminate()
        try:
            program.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
    if program.returncode < 0:
        raise RunError(f"{command[0]} was killed by {signal.Signals(-program.returncode).name}.")
    return program.returncode


def main(argv: list[str]) -> int:
    # Here, because other programs have flags of their own.
    absl_flags.DEFINE_string("certificates", None, "this machine's folder, made by launch/tls/certificates.sh")
    absl_flags.DEFINE_integer(
        "accept", None, "beside a replay server: where others connect", lower_bound=1, upper_bound=65535
    )
    absl_flags.DEFINE_string("connect", None, "elsewhere: the replay machines, HOST:PORT[,HOST:PORT...]")
    command = flags.take(argv, ("port", "private_network"), words_too=True)
    given = absl_flags.FLAGS
    if not command:
        raise UserError("No program was named: end with -- and its words, for example -- ./run actor --actor_id=0 ...")
    if (given.accept is None) == (given.connect is None):
        raise UserError("Choose --accept=PORT beside a replay server, or --connect=HOST:PORT to reach one.")
    if not given.port:
        raise UserError("No port was chosen: add --port=PORT, where the program serves the replay, or looks for it.")
    folder = _check_certificates(given.certificates)
    program = shutil.which("stunnel")
    if program is None:
        raise UserError("stunnel is not installed (Debian: apt-get install stunnel4).")
    tunnels: list[Stunnel] = []
    try:
        if given.accept is not None:
            tunnels.append(_server(program, folder, given.port, given.accept, given.private_network))
        else:
            for number, address in enumerate(given.connect.split(",")):
                tunnels.append(_client(program, folder, given.port + number, address))
        return _watch(tunnels, command)
    finally:
        for tunnel in tunnels:
            tunnel.end()


if __name__ == "__main__":
    flags.main(main)
