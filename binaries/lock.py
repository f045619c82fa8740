"""Which process works in a folder: a second one is refused. Imports no TensorFlow."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path
from typing import IO

from pipeline.types import UserError


class Lock:
    """A file that one process holds until it ends, however it ends."""

    def __init__(self, folder: Path, flag: str, name: str = "lock"):
        """`flag`: whose value the folder is. Raises UserError where another process holds the file `name`."""
        self._path = folder / name
        self._said = f"{flag}={folder} is in use by process"
        self._held: IO[str] | None = None
        if self._path.exists():
            with self._path.open("a+") as stream:
                self._hold(stream)

    def take(self) -> None:
        """Makes the folder, which is this process' from now on."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._held = self._path.open("a+")
        self._hold(self._held)
        self._held.truncate(0)
        self._held.write(f"{os.getpid()} on {platform.node()}")
        self._held.flush()

    def _hold(self, stream: IO[str]) -> None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise UserError(f"{self._said} {stream.read()}: wait for it, or choose another folder.") from error
