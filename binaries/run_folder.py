"""What a run's folder holds, and whether a command may continue in it. Imports no TensorFlow."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from binaries.experiment import Experiment
from binaries.lock import Lock
from binaries.settings import Binding
from pipeline.envs.origin import origin
from pipeline.index import ROOT
from pipeline.types import UserError

RUN = "run.json"
OPERATIVE = "operative_config.gin"
NATIVE_LOG = "native.log"
RESULTS = "results.jsonl"
TRAINING_ID, RUN_ID = "training_id", "run_id"
"""where learner and evaluator are processes of their own, which training, and which life of its learner"""
PROGRESS = "progress.json"
"""how far the run is; written every second"""
WALL = "wall_seconds"
"""where progress.json has how long the run has taken, over all of its resumptions"""
FAULTS = "faults.jsonl"
"""one line for every process that died and was started again, and for what else held a run of several processes up"""

MAY_CHANGE = {
    f"Experiment.{name}"
    for name in (
        "train_steps",
        "eval_period",
        "eval_episodes",
        "eval_episode_steps",
        "test_episodes",
        "log_period",
        "distribution_period",
        "record_period",
        "video_codec",
        "crash_rate",
        "step_timeout",
        "checkpoint_period",
        "kept_checkpoints",
        "stop_when_unsaved",
        "threads",
        "publish_period",
        "pull_period",
        "replay_checkpoint_period",
        "startup_timeout",
        "stall_timeout",
    )
}
"""settings that a resumed run may change: they alter what is reported, or how long it goes on"""
VERSIONS = ("tensorflow", "dm-reverb", "gym", "gymnasium", "numpy", "gin-config")


class RunFolder:
    """The folder of one run: configuration, TensorBoard, checkpoints, logs, results."""

    def __init__(self, path: str, settings: Mapping[str, Binding], lock: str = "lock", writes: bool = True):
        """Checks that a run with `settings` can start or continue at `path`; writes nothing. Raises UserError.

        `lock`: each of the processes that work at one run holds a lock of its own. `writes`: whether it will be written
        to; else it may lie on a disk that can only be read.
        """
        if not path:
            raise UserError("No folder was chosen for the run: add --output_dir=FOLDER.")
        self.path = Path(path).expanduser().absolute()
        self._settings = as_text(settings)
        self._unwritten: dict[str, list[str]] = {RESULTS: [], FAULTS: []}
        """lines by file that there was no room for"""
        self._began: float | None = None
        """on the monotonic clock, the run's beginning if it had never been interrupted"""
        self._progress: Mapping[str, float | None] = {}
        if writes:
            self._check_writable()
            self._lock = Lock(self.path, "--output_dir", lock)
        self._check_same_experiment()

    @property
    def checkpoints(self) -> Path:
        """Where the units of state are."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Where the learner of the best evaluation is."""
        return self.path / "best"

    @property
    def videos(self) -> Path:
        """Where recorded episodes are."""
        return self.path / "videos"

    @property
    def training_id(self) -> int | None:
        """Of the training that was begun here last; None: of none that has one."""
        path = self.path / RUN
        return json.loads(path.read_text()).get(TRAINING_ID) if path.exists() else None

    def take(self) -> None:
        """Makes the folder, which belongs to this process until it ends."""
        self._lock.take()

    def write(
        self,
        flags: Mapping[str, Any],
        operative_config: str,
        held: Mapping[str, Binding],
        training_id: int | None = None,
    ) -> None:
        """Records what this run is: flags, settings, versions, git commit, environment, operative configuration.

        `held`: the settings that constructors were given; the others that were set count for a resumed run only.
        `training_id`: where it has replay servers that are to know it.
        """
        before = json.loads((self.path / RUN).read_text()) if (self.path / RUN).exists() else {"sessions": []}
        if "sessions" in before:
            self._began = time.monotonic() - (read_progress(self.path) or {}).get(WALL, 0.0)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {
            "settings": as_text(held),
            "given": self._settings,
            "flags": flags,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS}
            | {"python": platform.python_version()},
            "git_commit": _git_commit(),
            "environment": _environment(held),
            TRAINING_ID: training_id,
            # Of a run that an older version began, beginning and length are not known.
            "sessions": [*before.get("sessions", [{}]), {"started": started, "hardware": hardware()}],
        }
        _replace(self.path / OPERATIVE, operative_config)
        _replace(self.path / RUN, json.dumps(record, indent=1) + "\n")

    def write_progress(self, now: Mapping[str, float | None]) -> None:
        """Says how far the run is, for whoever watches it from outside; a full disk keeps what it said before."""
        self._progress = now
        if self._began is not None:
            now = {**now, WALL: round(time.monotonic() - self._began, 1)}
        with contextlib.suppress(OSError):
            _replace(self.path / PROGRESS, json.dumps(now))

    def append_result(self, **result: Any) -> None:
        """Adds one line to results.jsonl; where that raises OSError, the next call adds it too."""
        self._unwritten[RESULTS].append(json.dumps(result) + "\n")
        if self._progress:
            self.write_progress(self._progress)
        self._append(RESULTS)

    def note_fault(self, process: str, fault: str) -> None:
        """Adds one line to faults.jsonl, for the report; see `write_faults` where there is no room for it."""
        self._unwritten[FAULTS].append(json.dumps({"time": time.time(), "process": process, "fault": fault}) + "\n")
        self.write_faults()

    def write_faults(self) -> None:
        """Writes what there was no room for, if there is room now."""
        with contextlib.suppress(OSError):
            self._append(FAULTS)

    def _append(self, name: str) -> None:
        """Writes all of a file's unwritten lines, or none of them."""
        unwritten = self._unwritten[name]
        text = "".join(unwritten).encode()
        if not text:
            return
        with (self.path / name).open("ab", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            size = stream.seek(0, os.SEEK_END)
            try:
                if stream.write(text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                stream.truncate(size)
                raise
        unwritten.clear()

    def results(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl; one that a kill cut short is left out."""
        path = self.path / RESULTS
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def drop_results_after(self, env_steps: int, run_id: int | None = None) -> int:
        """Takes back what a run that was killed had reported after its last checkpoint; returns how many results.

        Those of weights of the learner's life `run_id` stay.
        """
        results = self.results()
        kept = [r for r in results if r["env_steps"] <= env_steps or (run_id is not None and r.get(RUN_ID) == run_id)]
        if (self.path / RESULTS).exists():
            _replace(self.path / RESULTS, "".join(json.dumps(result) + "\n" for result in kept))
        return len(results) - len(kept)

    def _check_writable(self) -> None:
        try:
            # A name that is too long, or holds what no name may, shows here.
            if os.path.lexists(self.path) and not self.path.is_dir():
                raise UserError(f"--output_dir={self.path} is a file: name a folder.")
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"--output_dir={self.path} is no name of a folder ({reason}).") from error
        parent = next(p for p in (self.path, *self.path.parents) if p.exists())
        try:
            # Asking is not enough: for root, or on a read-only disk, only trying tells.
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            raise UserError(f"--output_dir={self.path} cannot be written ({error.strerror}).") from error

    def _check_same_experiment(self) -> None:
        if not (self.path / RUN).exists():
            return
        try:
            record = json.loads((self.path / RUN).read_text())
            before = record.get("given", record["settings"])
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.path / RUN} cannot be read ({error}): choose another --output_dir.") from error
        said = f"{self.path} holds another experiment's run"
        check_same_settings(before, self._settings, said, "choose another --output_dir")


def as_text(settings: Mapping[str, Binding]) -> dict[str, str]:
    """Settings by name, as `check_same_settings` compares them."""
    return {name: repr(binding.value) for name, binding in settings.items()}


def check_same_settings(before: Mapping[str, str], now: Mapping[str, str], said: str, mend: str = "") -> None:
    """Raises UserError, which begins with `said` and ends with `mend`, where settings differ that may not change."""
    names = sorted(before.keys() | now.keys())
    different = [n for n in names if before.get(n) != now.get(n) and n not in MAY_CHANGE]
    if different:
        name = different[0]
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise UserError(
            f"{said}: {name} was {before.get(name, 'not set')} there and is {now.get(name, 'not set')} here{more}"
            f"{mend and '; '}{mend}."
        )


def command_line(flags: Mapping[str, Any]) -> list[str]:
    """The words that set `flags`."""
    given = {name: value if isinstance(value, list) else [value] for name, value in flags.items() if value is not None}
    return [f"--{name}={value}" for name, values in given.items() for value in values]


def read_progress(folder: Path) -> dict[str, Any] | None:
    """How far the run in `folder` is, as `Progress.now` has it; None where it has not said so yet."""
    try:
        return json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return None


def is_finished(folder: Path, experiment: Experiment) -> bool:
    """Whether the run in `folder` trained to the end of `experiment` and was tested there, in as many episodes."""
    try:
        last = json.loads((folder / RESULTS).read_text().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return False
    trained = last["env_steps"] + experiment.lanes > experiment.train_steps
    return last["kind"] == "test" and trained and last["episodes"] == experiment.test_episodes


def finished_line(folder: Path) -> str:
    """What a person is told who starts a run again that `is_finished`."""
    return (
        f"The run in {folder} is finished and tested: {folder / RESULTS}. A larger --train_steps trains on,"
        " --training=False tests again."
    )


def recorded_command(folder: Path) -> list[str]:
    """The flags of the run in `folder`, as a command line; raises UserError where there is no run."""
    try:
        flags: dict[str, Any] = json.loads((folder / RUN).read_text())["flags"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} holds no run ({folder / RUN}: {error}).") from error
    return command_line(flags)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    os.replace(temporary, path)


def hardware() -> dict[str, Any]:
    """What this process computes on: the processor's name, its cores, memory in GiB, the names of NVIDIA's GPUs."""
    names = re.findall(r"(?m)^model name\s*: (.*)$", _text(Path("/proc/cpuinfo")))
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpus = [name for path in found for name in re.findall(r"(?m)^Model:\s*(.*)$", _text(path))]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
    }


def _text(path: Path) -> str:
    """Of a file that a machine may not have."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _environment(held: Mapping[str, Binding]) -> dict[str, str] | None:
    """Who makes the run's environment; None where it has none."""
    named = held.get("Experiment.environment")
    return None if named is None else origin(str(named.value))._asdict()


def _git_commit() -> str:
    """The checkout's commit, with '+changes' where files differ from it; '' outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit + ("+changes" if changes else "")
