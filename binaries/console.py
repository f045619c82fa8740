"""What a person sees: native libraries' noise goes to a file, progress stays on one line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO

from binaries.logs import MOST_BYTES, Log

LINE_SECONDS = 60.0
"""seconds between two progress lines where they cannot overwrite each other"""
LIMIT_SECONDS = 5.0
"""seconds between two looks at a log's size"""
BAR = 20
"""characters of a bar, at most"""
SHORTEST_BAR = 8
"""characters of a bar; what there is no room for beside it is left out"""
COLUMNS = 80
"""of a terminal that does not know its width"""
ERASE = "\r\x1b[K\x1b[J"
"""erases the cursor's line and those below; the line first, for tmux would keep what a whole screen loses"""
ESSENTIAL = 10
"""weight of what the bar makes room for"""


class Output:
    """A stream, such as stdout, to a disk that may be full, or to a program that reads no more, as `head` does.

    What there is no room for is written later, or never; what nobody reads is lost.
    """

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
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
            raise


class NativeLog:
    """Catches what C++ libraries write to the process's stderr; Python's own `sys.stderr` stays on the screen."""

    def __init__(self) -> None:
        sys.stderr.flush()
        self._screen = os.fdopen(os.dup(2), "w", buffering=1)
        self._caught: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 it lives as long as the process
        fcntl.fcntl(self._caught, fcntl.F_SETFL, os.O_APPEND)
        os.dup2(self._caught.fileno(), 2)
        sys.stderr = self._screen
        self._log: Log | None = None
        threading.Thread(target=self._limit, daemon=True, name="native log").start()

    def keep(self, path: Path) -> None:
        """Appends what was caught, and all that follows, to the file at `path`."""
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
            self._caught.seek(0)
            log.write(self._caught.read())
        self._log = Log(path)

    def _limit(self) -> None:
        """In a thread: what is caught does not fill the disk."""
        while True:
            time.sleep(LIMIT_SECONDS)
            if self._log is not None:
                said = self._log.limit()
                if said:
                    print(f"{ERASE if sys.stdout.isatty() else ''}{said}", flush=True)
            elif os.fstat(2).st_size > MOST_BYTES:
                os.ftruncate(2, 0)


class Field(NamedTuple):
    """One of the figures in a line of progress."""

    text: str
    weight: int
    """where the line is too long for the terminal, the figures of least weight are left out"""


def columns() -> int:
    """Of the terminal that stdout is, as wide as it is now."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or COLUMNS
    except (OSError, ValueError):
        return COLUMNS


class Status:
    """One line that shows how things stand; nothing where it is to be `quiet`."""

    def __init__(self, quiet: bool = False):
        self._quiet = quiet
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._on_screen = False
        self._shown = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for the next line."""
        return not self._quiet and time.monotonic() - self._shown >= (1.0 if self._terminal else LINE_SECONDS)

    def line(self, line: str) -> None:
        """Shows `line`, on a terminal in place of the one before and cut to its width."""
        self._shown = time.monotonic()
        if not self._terminal:
            print(line, flush=True)
            return
        # The cursor waits at the line's beginning: a terminal that becomes narrower may wrap the line, and from there
        # all of it is erased.
        print(f"{ERASE}{_cut(line, columns() - 1)}\r", end="", flush=True)
        self._on_screen = True

    def progress(self, fraction: float, fields: Sequence[Field]) -> None:
        """Shows how much is done, and figures; on a terminal, a bar and those that there is room for."""
        if self._terminal:
            self.line(fit(fraction, fields, columns() - 1))
        else:
            self.line(" | ".join(field.text for field in fields))

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
        if self._on_screen:
            print(ERASE, end="", flush=True)
            self._on_screen = False


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
        now = self.now(env_steps, updates, episode_return)
        self._mark = (time.monotonic(), env_steps, updates)
        self.progress(env_steps / self._train_steps, figures(now, self._train_steps))


def figures(now: Mapping[str, Any], train_steps: int) -> list[Field]:
    """What a line says of a training that is as far as `Progress.now` has it."""
    return [
        Field(f"{now['env_steps']:,} of {train_steps:,} steps", 5),
        Field(f"{now['updates']:,} updates", 2),
        Field(f"return {number(now['episode_return'])}", ESSENTIAL + 1),
        Field(f"{now['env_steps_per_second']:,.0f} steps/s", 4),
        Field(f"{now['updates_per_second']:,.0f} updates/s", 1),
        Field(f"{duration(now['seconds_left'])} left", ESSENTIAL),
    ]


def fit(fraction: float, fields: Sequence[Field], width: int) -> str:
    """A bar, how much of it is done, and those of `fields` that have room in `width` cells of a terminal."""
    percent = f"{min(fraction, 1.0):.0%}"
    by_weight = sorted(range(len(fields)), key=lambda place: -fields[place].weight)
    for count in range(len(fields), 0, -1):
        kept = [fields[place] for place in sorted(by_weight[:count])]
        text = f"{percent} {' | '.join(field.text for field in kept)}"
        size = min(width - _cells(text) - len("[] "), BAR)
        if size >= SHORTEST_BAR:
            return f"{bar(fraction, size)} {text}"
        if _cells(text) <= width and all(field.weight >= ESSENTIAL for field in kept):
            return text
    return _cut(percent, width)


def _cells(text: str) -> int:
    """That `text` takes on a terminal: two for a wide character, none for one that joins the one before."""
    return sum(_width(character) for character in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """The beginning of `text` that has room in `width` cells."""
    while _cells(text) > max(width, 0):
        text = text[:-1]
    return text


def bar(fraction: float, size: int) -> str:
    """How much of something is done, in `size` characters and their frame."""
    full = round(size * min(fraction, 1.0))
    return f"[{'#' * full}{'.' * (size - full)}]"


def count(number: int, one: str, more: str = "") -> str:
    """'1 episode', '20 episodes'; `more`: where it is not `one` and an s."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


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
