"""A checkout with launch/local.sh alone, whose programs are stand-ins that end when a test says so."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.launch.manifests import LAUNCH
from tests.limits import signals_heard, wait_until

PROGRAM = """#!/usr/bin/env bash
# What local.sh calls as ./run.
name=$1
for word in "$@"; do
  case "$word" in
    --actor_id=*) name=actor_${{word#*=}} ;;
    --checkpoint_dir=*) name=${{word##*/}} ;;
  esac
done
# In one piece, which a line's end would not be: others write there too.
printf '%s\\0' "$@" end >>"{folder}/calls"
[ "$name" != train ] || exit 0
asked() {{
  echo "$name" >>"{folder}/asked"
  [ -f "{folder}/$name.deaf" ] || exit "$(cat "{folder}/$name.asked" 2>/dev/null || echo 0)"
}}
trap asked TERM INT
echo $$ >"{folder}/$name.pid"
echo "$name has something to say."
while [ ! -f "{folder}/$name.end" ]; do sleep 0.02; done
exit "$(cat "{folder}/$name.end")"
"""


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Checkout:
    """The script, its stand-ins, and what they told."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.output = folder / "out put"
        (folder / "checkout/launch").mkdir(parents=True)
        self.script = folder / "checkout/launch/local.sh"
        shutil.copy(LAUNCH / "local.sh", self.script)
        run = folder / "checkout/run"
        run.write_text(PROGRAM.format(folder=folder))
        run.chmod(0o755)

    @contextlib.contextmanager
    def start(self, *arguments: str, actors: int = 2, shards: int = 2) -> Iterator[subprocess.Popen[str]]:
        """The script with its programs, once they all run; none of them outlives the `with`."""
        with signals_heard():
            process = subprocess.Popen(
                [self.script, "--hparams=dqn_cartpole", f"--output_dir={self.output}", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        names = [
            *(f"replay_{n}" for n in range(shards)),
            "learner",
            *(f"actor_{n}" for n in range(actors)),
            "evaluator",
        ]
        try:
            wait_until(lambda: all(self.pid(name) for name in names), f"{names} to start")
            yield process
        finally:
            for pid in (process.pid, *filter(None, map(self.pid, names))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()

    def pid(self, name: str) -> int:
        """Of a stand-in; 0 before it runs."""
        try:
            return int((self.folder / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return 0

    def pids(self) -> list[int]:
        return [self.pid(path.stem) for path in self.folder.glob("*.pid")]

    def end(self, name: str, code: int = 0) -> None:
        """Has a stand-in end by itself."""
        new = self.folder / f"{name}.new"
        new.write_text(str(code))
        new.rename(self.folder / f"{name}.end")

    def asked(self) -> list[str]:
        """Who was asked to stop, in order."""
        path = self.folder / "asked"
        return path.read_text().split() if path.exists() else []

    def calls(self) -> list[list[str]]:
        """The words after ./run of each call."""
        calls = (self.folder / "calls").read_text().split("\0end\0")
        return [call.split("\0") for call in calls if call]
