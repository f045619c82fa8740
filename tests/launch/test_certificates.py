"""launch/tls/certificates.sh: whom its certificates admit and as what, who can read their keys, what it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.index import ROOT
from tests.binaries.programs import contents
from tests.limits import LIMIT_S

REPLAY = "replay.example.org"
NAMES = f"--server={REPLAY},192.0.2.7"


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "launch/tls/certificates.sh")
    return subprocess.run([script, f"--to={folder}", *arguments], capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates") / "tls"
    ended = make(folder, NAMES, "--client=actor-0", "--client=learner")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [f"{folder}/{name}" for name in (REPLAY, "actor-0", "learner")]
    return folder


def is_valid(made: Path, name: str, *conditions: str) -> bool:
    """Whether a machine's certificate is one of the authority's, under openssl's conditions."""
    command = ["openssl", "verify", "-CAfile", str(made / "ca/ca.pem"), *conditions, str(made / name / "own.pem")]
    return subprocess.run(command, capture_output=True, timeout=LIMIT_S).returncode == 0


@pytest.mark.parametrize(("name", "purpose"), [(REPLAY, "sslserver"), ("actor-0", "sslclient")])
def test_a_certificate_serves_one_purpose(made: Path, name: str, purpose: str) -> None:
    other = {"sslserver": "sslclient", "sslclient": "sslserver"}[purpose]
    assert is_valid(made, name, "-purpose", purpose)
    assert not is_valid(made, name, "-purpose", other)


def test_a_server_is_known_by_each_of_its_names_and_no_other(made: Path) -> None:
    assert is_valid(made, REPLAY, "-verify_hostname", REPLAY)
    assert is_valid(made, REPLAY, "-verify_ip", "192.0.2.7")
    assert not is_valid(made, REPLAY, "-verify_hostname", "other.example.org")
    assert not is_valid(made, REPLAY, "-verify_ip", "192.0.2.8")


def test_keys_are_for_their_owner_and_the_authoritys_key_is_in_no_machines_folder(made: Path) -> None:
    files = {path for path in made.rglob("*") if path.is_file()}
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    (authority,) = (path for path in files if path.name == "ca.key")
    assert authority.parent == made / "ca"
    assert {path.name for path in files if path.parent != made / "ca"} == {"ca.pem", "own.pem"}
    assert all((made / name / "own.pem").read_text().count("PRIVATE KEY") == 2 for name in (REPLAY, "learner"))


def test_more_names_are_added_and_what_is_there_stays(made: Path) -> None:
    before = contents(made)
    ended = make(made, NAMES, "--client=late")
    assert ended.stdout.splitlines() == [f"{made}/{REPLAY} is there already.", f"{made}/late"]
    after = contents(made)
    assert {name: after[name] for name in before} == before
    assert is_valid(made, "late", "-purpose", "sslclient")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--client=../actor", "'../actor' cannot be the name of a machine."),
        ("--client=a/b", "'a/b' cannot be the name of a machine."),
        ("--client=ca", "'ca' cannot be the name of a machine."),
        ("--client=two words", "'two words' cannot be the name of a machine."),
        ("--client=*", "'*' cannot be the name of a machine."),
        ("--server=good,-bad", "'good,-bad' cannot be the name of a machine."),
        ("--client=one,two", "--client=one,two: give each client a --client of its own."),
        ("--days=soon", "--days=soon: it must be a number of days."),
        ("--user=me", "unknown argument '--user=me'; --help lists them."),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path: Path, argument: str, sentence: str) -> None:
    ended = make(tmp_path / "tls", "--client=actor", argument)
    assert (ended.returncode, ended.stderr) == (2, f"certificates.sh: {sentence}\n")
    assert not (tmp_path / "tls").exists()
