"""Logs that do not fill the disk, whatever a program or its environment prints. Imports no TensorFlow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MOST_BYTES = 8 * 2**20
"""of a log; as many of those before them are kept beside it"""


class Log:
    """A file that programs append to, which is begun anew where it has grown too large."""

    def __init__(self, path: Path):
        self.path = path
        self._is_told = False

    def limit(self) -> str | None:
        """Begins the file anew where it is too large; returns a sentence about that, the first time."""
        try:
            if self.path.stat().st_size <= MOST_BYTES:
                return None
            earlier = self.path.with_name(f"{self.path.name}.1")
            shutil.copyfile(self.path, earlier)
            # Who appends goes on at its beginning; what was written between these two lines is lost.
            os.truncate(self.path, 0)
        except OSError:
            # A full disk, or a folder that somebody removed: it is tried again.
            return None
        is_told, self._is_told = self._is_told, True
        if is_told:
            return None
        return (
            f"{self.path} has grown to {MOST_BYTES / 2**20:g} MiB and begins anew, now and whenever it has:"
            f" {earlier.name} keeps what came before."
        )
