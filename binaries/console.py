"""What a person sees: native libraries' noise goes to a file, progress stays on one line."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

LINE_SECONDS = 60.0
"""seconds between two progress lines where they cannot overwrite each other"""


class NativeLog:
    """Catches what C++ libraries write to the process's stderr; Python's own `sys.stderr` stays on the screen."""

    def __init__(self) -> None:
        sys.stderr.flush()
        self._screen = os.fdopen(os.dup(2), "w", buffering=1)
        self._caught: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process
        os.dup2(self._caught.fileno(), 2)
        sys.stderr = self._screen

    def keep(self, path: Path) -> None:
        """Appends what was caught, and all that follows, to the file at `path`."""
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
            self._caught.seek(0)
            log.write(self._caught.read())


class Progress:
    """One line that shows how far the training is; nothing where it is to be `quiet`."""

    def __init__(self, train_steps: int, env_steps: int, updates: int, quiet: bool = False):
        self._train_steps = train_steps
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._width = 0
        self._mark = (time.monotonic(), env_steps, updates)
        self.rates = (0.0, 0.0)
        """environment steps and updates a second, between the latest two lines"""

    def due(self) -> bool:
        """Whether it is time for the next line."""
        return not self._quiet and time.monotonic() - self._mark[0] >= (1.0 if self._terminal else LINE_SECONDS)

    def show(self, env_steps: int, updates: int, episode_return: float | None) -> None:
        """Shows the state of things now."""
        now = time.monotonic()
        seconds = max(now - self._mark[0], 1e-9)
        self.rates = ((env_steps - self._mark[1]) / seconds, (updates - self._mark[2]) / seconds)
        self._mark = (now, env_steps, updates)
        left = (self._train_steps - env_steps) / self.rates[0] if self.rates[0] > 0 else float("inf")
        line = (
            f"{env_steps:,} of {self._train_steps:,} steps | {updates:,} updates"
            f" | return {'-' if episode_return is None else f'{episode_return:.1f}'}"
            f" | {self.rates[0]:,.0f} steps/s | {self.rates[1]:,.0f} updates/s | {_duration(left)} left"
        )
        if self._terminal:
            print(f"\r{line:<{self._width}}", end="", flush=True)
            self._width = len(line)
        else:
            print(line, flush=True)

    def say(self, line: str) -> None:
        """Prints a line of its own."""
        if not self._quiet:
            self.warn(line)

    def warn(self, line: str) -> None:
        """Prints a line of its own that is never left out."""
        self.clear()
        print(line, flush=True)

    def clear(self) -> None:
        """Takes the progress off a terminal's line, for what follows it."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", flush=True)
            self._width = 0


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
