"""A run's state on disk: whole units, each a folder that counts only once its manifest is in place."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.types import UserError

MANIFEST = "manifest.json"


class Unit(NamedTuple):
    """One whole checkpoint."""

    path: Path
    """its folder, which holds what `save`'s writer wrote"""
    step: int
    """environment steps"""
    state: dict[str, Any]
    """counters and the like, as given to `save`"""


class Checkpoints:
    """The newest few units in a folder.

    A unit's files come first and its manifest, with their sizes and checksums, is renamed into place last. So a
    process that is killed at any moment leaves whole units behind, and a damaged one is found and passed over.
    """

    def __init__(self, folder: Path, kept: int | None, warn: Callable[[str], None]):
        """`kept`: how many of the newest stay; None: all. `warn` is given a sentence about each damaged unit."""
        self._folder = folder
        self._kept = kept
        self._warn = warn

    def save(self, step: int, write: Callable[[Path], None], state: dict[str, Any]) -> Unit:
        """Lets `write(folder)` write the files and makes the unit of `step` whole, then removes what is not kept.

        Raises what `write` raises; the units before stand.
        """
        name = f"step-{step:012d}"
        # A unit of this step stands until the new one, which sorts after it, is whole.
        before = [path for path in self._folders() if path.name.startswith(name)]
        number = int(before[-1].suffix.lstrip(".") or 0) + 1 if before else 0
        path = self._folder / (f"{name}.{number:06d}" if number else name)
        self._remove(path)
        path.mkdir(parents=True)
        try:
            write(path)
            files = {str(f.relative_to(path)): _fingerprint(f) for f in sorted(path.rglob("*")) if f.is_file()}
            manifest = {"step": step, "state": state, "files": files}
            manifest["checksum"] = _checksum(manifest)
            temporary = path / f"{MANIFEST}.new"
            with temporary.open("w") as stream:
                json.dump(manifest, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.rename(path / MANIFEST)
            _sync_folder(path)
        except BaseException:
            self._remove(path)
            raise
        if self._kept is not None:
            self._prune(path, self._kept)
        return Unit(path, step, state)

    def latest(self) -> Unit | None:
        """The newest whole unit, with a warning for each damaged one that is newer."""
        for path in reversed(self._folders()):
            unit, damage = _read(path)
            if unit is not None:
                return unit
            self._warn(f"Checkpoint {path} is damaged ({damage}): falling back to the one before.")
        return None

    def to_resume(self, begin_anew: bool) -> Unit | None:
        """The newest whole unit; None where there is none to go on from and the run begins at step 0.

        Raises UserError where every unit is damaged; with `begin_anew` they are removed.
        """
        unit, damaged = self.latest(), self._folders()
        if unit is None and damaged:
            if not begin_anew:
                raise UserError(
                    f"All checkpoints in {self._folder} are damaged, so that the run cannot go on: restore one, choose"
                    " another --output_dir, or begin at step 0 again, without the results so far, with"
                    " --restart_damaged."
                )
            for path in damaged:
                self._remove(path)
        return unit

    def steps(self) -> list[int]:
        """Of the units that have their manifest, in order."""
        return [_step(path) for path in self._folders()]

    def keep_between(self, first: int, last: int) -> None:
        """Removes the units after step `last`, and those before the newest one of at most step `first`."""
        folders = self._folders()
        early = [path for path in folders if _step(path) <= first]
        for path in folders:
            if _step(path) > last or path in early[:-1]:
                self._remove(path)

    def newest(self) -> Path | None:
        """The folder of the newest unit that has its manifest, unread: whether there is another one than before."""
        folders = self._folders()
        return folders[-1] if folders else None

    def _folders(self) -> list[Path]:
        """Folders whose manifest is in place, oldest first."""
        return sorted(path.parent for path in self._folder.glob(f"step-*/{MANIFEST}"))

    def _prune(self, newest: Path, kept: int) -> None:
        # The newest may be of fewer steps than others: what was saved before a run went back to an older unit.
        others = [path for path in self._folders() if path != newest]
        keep = {newest, *others[max(0, len(others) + 1 - kept) :]}
        for path in self._folder.glob("step-*"):
            if path not in keep:
                self._remove(path)

    @staticmethod
    def _remove(path: Path) -> None:
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[str]:
    """Another name of the file at `path`, or of those whose names begin with it, without *, ? and [.

    TensorFlow takes these for patterns where it reads a checkpoint, though not where it writes one.
    """
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _step(path: Path) -> int:
    """Of the unit at `path`."""
    return int(path.name.removeprefix("step-").partition(".")[0])


def _read(path: Path) -> tuple[Unit | None, str]:
    """The unit at `path`, or None and what is wrong with it."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest.pop("checksum") != _checksum(manifest):
            return None, "its manifest is not what was written"
        unit = Unit(path, manifest["step"], manifest["state"])
        files: dict[str, list[int]] = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"its manifest cannot be read: {error}"
    for name, fingerprint in files.items():
        try:
            if _fingerprint(path / name, sync=False) != fingerprint:
                return None, f"{name} is not what was written"
        except OSError as error:
            return None, f"{name}: {error.strerror}"
    return unit, ""


def _checksum(manifest: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest).encode())


def _fingerprint(path: Path, sync: bool = True) -> list[int]:
    """Size and CRC-32; with `sync` the file is on the disk first."""
    size, checksum = 0, 0
    with path.open("rb") as stream:
        if sync:
            os.fsync(stream.fileno())
        while block := stream.read(1 << 20):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
