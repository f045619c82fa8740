"""What a person sees: native libraries' noise goes to a file, progress stays on one line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TextIO

LINE_SECONDS = 60.0
"""seconds between two progress lines where they cannot overwrite each other"""
BAR = 20
"""characters of a bar"""


class Output:
    """A stream, such as stdout, to a disk that may be full: what there is no room for is written later, or never."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's."""
        with _full_disk():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        with _full_disk():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


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


class Status:
    """One line that shows how things stand; nothing where it is to be `quiet`."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._terminal = sys.stdout.isatty()
        self._width = 0
        self._shown = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next line."""
        return not self._quiet and time.monotonic() - self._shown >= (1.0 if self._terminal else LINE_SECONDS)

    def line(self, line: str) -> None:
        """Shows `line`, on a terminal in place of the one before."""
        self._shown = time.monotonic()
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
        """Takes the status off a terminal's line, for what follows it."""
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", flush=True)
            self._width = 0


class Progress(Status):
    """The status of one training."""

    def __init__(self, train_steps: int, env_steps: int, updates: int, quiet: bool = False):
        super().__init__(quiet)
        self._train_steps = train_steps
        self._mark = (time.monotonic(), env_steps, updates)

    def now(self, env_steps: int, updates: int, episode_return: float | None) -> dict[str, float | None]:
        """The state of things, with rates a second since the latest line; None is what is not known yet."""
        seconds = max(time.monotonic() - self._mark[0], 1e-9)
        rate = (env_steps - self._mark[1]) / seconds
        return {
            "env_steps": env_steps,
            "updates": updates,
            "episode_return": episode_return,
            "env_steps_per_second": rate,
            "updates_per_second": (updates - self._mark[2]) / seconds,
            "seconds_left": max(self._train_steps - env_steps, 0) / rate if rate > 0 else None,
        }

    def show(self, env_steps: int, updates: int, episode_return: float | None) -> None:
        """Shows the state of things now."""
        now: Any = self.now(env_steps, updates, episode_return)
        self._mark = (time.monotonic(), env_steps, updates)
        line = (
            f"{env_steps:,} of {self._train_steps:,} steps | {updates:,} updates | return {number(episode_return)}"
            f" | {now['env_steps_per_second']:,.0f} steps/s | {now['updates_per_second']:,.0f} updates/s"
            f" | {duration(now['seconds_left'])} left"
        )
        self.line(f"{bar(env_steps / self._train_steps)} {line}" if self._terminal else line)


def bar(fraction: float) -> str:
    """How much of something is done."""
    full = round(BAR * min(fraction, 1.0))
    return f"[{'#' * full}{'.' * (BAR - full)}] {min(fraction, 1.0):.0%}"


def number(value: float | None) -> str:
    """A return, or a dash where it is not known yet."""
    return "-" if value is None else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds, or a dash where they are not known yet."""
    if seconds is None:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
