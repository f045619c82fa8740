"""Logs stay small, whatever a program or its environment prints, and it is said once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from binaries import logs
from binaries.logs import Log
from pipeline.index import ROOT
from tests.limits import LIMIT_S, wait_until

LINES = """
import os, time
while True:
    os.write(2, b"0123456789" * 100 + b"\\n")
    time.sleep(0.001)
"""
CAUGHT = """
import os, sys, time
from pathlib import Path
from binaries import console, logs
console.MOST_BYTES = logs.MOST_BYTES = 20_000
console.LIMIT_SECONDS = 0.05
log = console.NativeLog()
if len(sys.argv) > 1:
    log.keep(Path(sys.argv[1]))
for _ in range(300):
    os.write(2, b"0123456789" * 100 + b"\\n")
    time.sleep(0.005)
print(os.fstat(2).st_size < 250_000, os.fstat(2).st_blocks * 512 < 250_000)
"""


def test_a_log_that_a_program_goes_on_writing_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 50_000)
    path = tmp_path / "one.log"
    with path.open("ab") as stream:
        program = subprocess.Popen([sys.executable, "-c", LINES], stderr=stream)
    log, said = Log(path), []
    try:
        for _ in range(3):
            wait_until(lambda: path.stat().st_size > 60_000, "a large log")
            said.append(log.limit())
            assert path.stat().st_size < 50_000
        wait_until(lambda: path.stat().st_size, "more of it")
    finally:
        program.kill()
        program.wait(LIMIT_S)
    assert said[0] is not None
    assert f"{path} has grown to" in said[0]
    assert said[1:] == [None, None]
    # It goes on at the beginning, not behind a hole.
    assert path.read_bytes().startswith(b"0123")
    assert (tmp_path / "one.log.1").stat().st_size > 50_000
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.log", "one.log.1"]


def test_a_small_log_stays_and_one_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    assert Log(path).limit() is None
    path.write_text("few words")
    assert Log(path).limit() is None
    assert path.read_text() == "few words"


@pytest.mark.parametrize("kept", [True, False], ids=["in a file", "nowhere"])
def test_what_native_libraries_write_is_limited(tmp_path: Path, kept: bool) -> None:
    arguments = [str(tmp_path / "native.log")] if kept else []
    ended = subprocess.run(
        [sys.executable, "-c", CAUGHT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    *said, small = ended.stdout.splitlines()
    assert (ended.returncode, small) == (0, "True True"), ended.stderr
    assert len(said) == kept
    if kept:
        assert "native.log has grown to" in said[0]
        assert sorted(file.name for file in tmp_path.iterdir()) == ["native.log", "native.log.1"]
