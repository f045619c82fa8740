"""A replay server behind mutual TLS: with a certificate it is as if it were near, and nobody else gets a byte of it.

Two hosts, real stunnels, real Reverb. It needs stunnel and openssl (Debian: apt-get install stunnel4 openssl).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import environment
from tests.faults.networks import Host, listening_ports, two_hosts

REPLAY, DOOR = 8000, 8443
# Its own process id is 1, like that of many a container, and so is the client's: see server.conf.
ALONE = ("unshare", "--pid", "--fork", "--kill-child")
SERVER = f"""
import reverb
import tensorflow as tf
spec = {{"number": tf.TensorSpec([3], tf.float32)}}
server = reverb.Server([reverb.Table.queue("queue", 1000, signature=spec), reverb.Table.queue("plain", 10)], {REPLAY})
print("ready", flush=True)
server.wait()
"""
# Items of three rows through a stream, and one by itself; then all of them back, through a dataset and a client.
WORK = """
import os, sys
import numpy as np, reverb
address, items = sys.argv[1], int(sys.argv[2])
client = reverb.Client(address)
with client.trajectory_writer(num_keep_alive_refs=3) as writer:
    for row in range(items + 2):
        writer.append({"number": np.float32(row)})
        if row >= 2:
            writer.create_item("queue", 1.0, {"number": writer.history["number"][-3:]})
            writer.flush(block_until_num_items=5, timeout_ms=20_000)
    writer.flush(timeout_ms=20_000)
client.insert([7.0], {"plain": 1.0})
dataset = reverb.TrajectoryDataset.from_table_signature(address, "queue", 10, rate_limiter_timeout_ms=5_000)
numbers = np.stack([sample.data["number"].numpy() for sample in dataset.take(items)])
assert (numbers == np.arange(items)[:, None] + np.arange(3)).all()
assert next(iter(client.sample("plain", 1)))[0].data[0] == 7.0
client.mutate_priorities("plain", updates={})
print("worked as process", os.getpid())
"""
ASK = """
import reverb, sys
try:
    print(*reverb.Client(sys.argv[1]).server_info(timeout=10))
except Exception:
    print("nothing")
"""
ASK_WORDS = (sys.executable, "-c", ASK, f"localhost:{REPLAY}")
# The beginning of every gRPC connection. Whoever is let in is answered with the server's settings.
KNOCK = r"""
import socket, ssl, sys
address, port, authority, own = sys.argv[1:]
hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
answer = b""
try:
    connection = socket.create_connection((address, int(port)), timeout=10)
    if authority:
        context = ssl.create_default_context(cafile=authority)
        if own:
            context.load_cert_chain(own)
        connection = context.wrap_socket(connection, server_hostname=address)
    connection.sendall(hello)
    answer = connection.recv(100)
except OSError as error:
    print(error, file=sys.stderr)
print("let in" if answer[3:5] == b"\4\0" else f"got {len(answer)} bytes")
"""
# A server that asks nobody for a certificate, and says what its first client told it.
IMPOSTOR = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
with socket.create_server(("", int(sys.argv[2]))) as listener:
    print("ready", flush=True)
    try:
        connection = context.wrap_socket(listener.accept()[0], server_side=True)
        print("told all" if connection.recv(100).startswith(b"PRI") else "told nothing")
    except OSError:
        print("told nothing")
"""


def certificates(folder: Path, *arguments: str) -> Path:
    script = ROOT / "launch/tls/certificates.sh"
    subprocess.run([str(script), f"--to={folder}", *arguments], check=True, capture_output=True, timeout=60)
    return folder


class Site(NamedTuple):
    """A replay machine with a server behind its door, and another machine."""

    replay: Host
    other: Host
    ours: Path
    """certificates of the authority that the server trusts"""
    theirs: Path
    """the same of another authority"""

    def tunnel(self, own: Path, *command: str, server: str = f":{DOOR}") -> subprocess.CompletedProcess[str]:
        """What a program on the other machine does, with the tunnel that has the certificate in the folder."""
        connect = f"--connect={self.replay.address}{server}"
        words = ("-m", "binaries.tunnel", f"--certificates={own}", connect, f"--port={REPLAY}", "--")
        return self.other.run(
            *(sys.executable, *words, *ALONE, *command), check=False, env=environment(), cwd=ROOT, timeout=90
        )

    def knock(self, authority: Path | str, own: Path | str, port: int = DOOR) -> str:
        """What the server sends to the first words of a client with this certificate."""
        words = (self.replay.address, str(port), str(authority), str(own))
        return self.other.run(sys.executable, "-c", KNOCK, *words).stdout.strip()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert shutil.which("stunnel"), "These tests need stunnel: apt-get install stunnel4"
    folder = tmp_path_factory.mktemp("tls")
    with two_hosts() as cable:
        replay, other = cable.right, cable.left
        names = f"--server={replay.address},replay.test"
        ours = certificates(folder / "ours", names, "--server=elsewhere.test", "--client=actor")
        theirs = certificates(folder / "theirs", names, "--client=actor")
        words = ("-m", "binaries.tunnel", f"--certificates={ours / replay.address}", f"--accept={DOOR}")
        command = (*words, f"--port={REPLAY}", "--", *ALONE, sys.executable, "-c", SERVER)
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with replay.running(sys.executable, *command, env=environment(), cwd=ROOT, **pipes) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield Site(replay, other, ours, theirs)


@pytest.mark.slow
def test_a_client_with_a_certificate_writes_streams_and_samples(site: Site) -> None:
    ended = site.tunnel(site.ours / "actor", sys.executable, "-c", WORK, f"localhost:{REPLAY}", "200")
    assert (ended.returncode, ended.stdout) == (0, "worked as process 1\n"), ended.stderr


@pytest.mark.slow
def test_the_door_is_all_that_is_open(site: Site) -> None:
    assert listening_ports(site.replay.pid) == [DOOR]
    assert site.other.connect(site.replay.address, REPLAY) == "Connection refused"
    assert site.other.connect(site.replay.address, DOOR) == "reached"


@pytest.mark.slow
def test_who_has_a_certificate_is_let_in(site: Site) -> None:
    assert site.knock(site.ours / "ca/ca.pem", site.ours / "actor/own.pem") == "let in"


@pytest.mark.slow
@pytest.mark.parametrize("own", ["none", "other_authority", "server"])
def test_who_has_none_of_ours_for_a_client_gets_nothing(site: Site, own: str) -> None:
    chosen = {
        "none": "",
        "other_authority": site.theirs / "actor/own.pem",
        "server": site.ours / "elsewhere.test/own.pem",
    }[own]
    assert site.knock(site.ours / "ca/ca.pem", chosen) == "got 0 bytes"


@pytest.mark.slow
def test_who_speaks_in_plain_text_gets_nothing(site: Site) -> None:
    assert site.knock("", "") == "got 0 bytes"
    ended = site.other.run(
        sys.executable, "-c", ASK, f"{site.replay.address}:{DOOR}", env=environment(), cwd=ROOT, timeout=60
    )
    assert ended.stdout == "nothing\n"


@pytest.mark.slow
def test_a_reverb_client_behind_a_tunnel_of_another_authority_gets_nothing(site: Site) -> None:
    ended = site.tunnel(site.theirs / "actor", *ASK_WORDS)
    assert ended.stdout == "nothing\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "told"),
    [
        ("ours/10.77.0.2", "told all"),
        ("theirs/10.77.0.2", "told nothing"),
        ("ours/elsewhere.test", "told nothing"),
        ("ours/actor", "told nothing"),
    ],
    ids=["the server", "of another authority", "another server", "a client"],
)
def test_a_tunnel_tells_only_the_server_that_it_asked_for(site: Site, own: str, told: str) -> None:
    port = DOOR + 1
    words = (sys.executable, "-c", IMPOSTOR, str(site.ours.parent / own / "own.pem"), str(port))
    with site.replay.running(*words, stdout=subprocess.PIPE) as impostor:
        assert impostor.stdout is not None
        assert impostor.stdout.readline() == "ready\n"
        ended = site.tunnel(site.ours / "actor", *ASK_WORDS, server=f":{port}")
        assert ended.stdout == "nothing\n"
        assert impostor.communicate(timeout=30)[0] == f"{told}\n"
