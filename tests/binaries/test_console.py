"""The progress on the screen: one line that is overwritten on a terminal, few lines elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import termios
import types
from collections.abc import Callable

import pytest

from binaries import console
from tests.binaries.programs import on_screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _a_terminal_that_erases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock that the progress looks at."""
    now = [100.0]
    monkeypatch.setattr(console, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_a_line_tells_steps_updates_return_rates_and_time_left(
    pass_time: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = console.Progress(train_steps=10_000, env_steps=1_000, updates=500)
    pass_time(10)
    progress.show(2_000, 1_250, 21.26)
    assert capsys.readouterr().out == (
        "2,000 of 10,000 steps | 1,250 updates | return 21.3 | 100 steps/s | 75 updates/s | 0:01:20 left\n"
    )


def test_rates_are_those_since_the_line_before(
    pass_time: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = console.Progress(train_steps=40_000, env_steps=0, updates=0)
    pass_time(10)
    progress.show(1_000, 1_000, 1.0)
    pass_time(5)
    progress.show(1_010, 1_020, 1.0)
    assert "| 2 steps/s | 4 updates/s | 5:24:55 left" in capsys.readouterr().out.splitlines()[1]


def test_what_is_not_known_yet_is_a_dash(
    pass_time: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    progress = console.Progress(train_steps=10_000, env_steps=0, updates=0)
    pass_time(10)
    progress.show(0, 0, None)
    assert "| return - |" in (line := capsys.readouterr().out)
    assert line.endswith("| - left\n")


def test_a_terminal_is_shown_the_progress_every_second(pass_time: Callable[[float], None]) -> None:
    with contextlib.redirect_stdout(Terminal()):
        progress = console.Progress(100, 0, 0)
        pass_time(0.9)
        assert not progress.due()
        pass_time(0.2)
        assert progress.due()
        progress.show(1, 1, None)
        assert not progress.due()


def test_a_file_is_given_a_line_every_minute(pass_time: Callable[[float], None]) -> None:
    progress = console.Progress(100, 0, 0)
    pass_time(59.9)
    assert not progress.due()
    pass_time(0.2)
    assert progress.due()


def test_a_terminal_shows_one_line_of_progress_below_what_was_said(pass_time: Callable[[float], None]) -> None:
    with contextlib.redirect_stdout(Terminal()) as terminal:
        progress = console.Progress(100_000, 0, 0)
        pass_time(1)
        progress.show(1_000, 1_000, 123.4)
        progress.say("short")
        pass_time(1)
        progress.show(2_000, 2_000, None)
        pass_time(1)
        progress.show(2_001, 2_001, None)
    lines = on_screen(terminal.getvalue())
    assert lines[0] == "short"
    assert len(lines) == 2
    assert re.match(r"\[\.+\] 2% 2,001 of 100,000 steps \|", lines[1])
    assert lines[1].endswith(" left")


class Window:
    """A terminal that this process's stdout writes to, inside the `with`."""

    def __enter__(self) -> Window:
        self._reading, writing = pty.openpty()
        self._stream = os.fdopen(writing, "w")
        self._redirected = contextlib.redirect_stdout(self._stream)
        self._redirected.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._redirected.__exit__(None, None, None)
        self._stream.close()
        os.close(self._reading)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._reading, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self) -> str:
        """What was written since the last call."""
        print("<end>", flush=True)
        text = ""
        while "<end>" not in text:
            text += os.read(self._reading, 1 << 16).decode()
        return text.partition("<end>")[0]


@pytest.mark.parametrize("columns", [0, 1, 2, 5, 20, 30, 60, 80, 110, 200])
def test_a_terminal_of_any_width_shows_progress_on_one_line_of_it(
    columns: int, pass_time: Callable[[float], None]
) -> None:
    with Window() as window:
        window.resize(columns)
        progress = console.Progress(10_000_000, 0, 0)
        for steps in (0, 2_100_000, 4_200_000):
            pass_time(1)
            progress.show(steps, steps // 2, -1234.5)
        lines = on_screen(window.read(), columns or 80)
    assert len(lines) == (columns != 1)
    room = (columns or 80) - 1
    assert all(len(line) <= room for line in lines)
    # What a person looks for first goes last.
    order = ("42%", "return -1234.5", "left", "4,200,000 of 10,000,000 steps", "steps/s", "updates |", "updates/s")
    found = [any(text in line for line in lines) for text in order]
    assert found == sorted(found, reverse=True)
    assert found[: {0: 4, 20: 1, 30: 2, 60: 3, 80: 4, 110: 5, 200: 7}.get(columns, 0)].count(False) == 0
    assert columns < 60 or lines[0].startswith("[###")


def test_progress_follows_a_terminal_that_changes_its_width(pass_time: Callable[[float], None]) -> None:
    shown = []
    with Window() as window:
        progress = console.Progress(100_000, 0, 0)
        for columns in (200, 40, 110):
            window.resize(columns)
            pass_time(1)
            progress.show(1_000, 1_000, 123.4)
            shown.append(window.read())
    assert [len(on_screen(text, columns)) for text, columns in zip(shown, (200, 40, 110), strict=True)] == [1, 1, 1]
    wide, narrow, wider = (len(on_screen(text)[0]) for text in shown)
    assert wide > wider > 60 > 40 > narrow
    # The cursor waits where the line begins: a terminal that wraps it keeps it there, and all of it is erased.
    assert all(text.startswith("\r\x1b[K\x1b[J") and text.endswith("\r") for text in shown)


def test_wide_characters_take_two_cells_of_the_width() -> None:
    with Window() as window:
        window.resize(10)
        console.Status().line("e\u0301 \u6f22\u5b57\u6f22\u5b57\u6f22\u5b57")
        assert on_screen(window.read()) == ["e\u0301 \u6f22\u5b57\u6f22"]


def test_a_terminal_that_cannot_erase_is_given_a_line_every_minute(
    pass_time: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with Window() as window:
        progress = console.Progress(100, 0, 0)
        pass_time(59.9)
        assert not progress.due()
        pass_time(0.2)
        assert progress.due()
        progress.show(1, 1, None)
        assert "\x1b" not in window.read()


def test_a_cleared_terminal_has_room_for_what_follows(pass_time: Callable[[float], None]) -> None:
    with contextlib.redirect_stdout(Terminal()) as terminal:
        progress = console.Progress(100_000, 0, 0)
        pass_time(1)
        progress.show(1_000, 1_000, 123.4)
        progress.clear()
        print("done")
    assert on_screen(terminal.getvalue()) == ["done"]


def test_quiet_progress_shows_warnings_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = console.Progress(100, 0, 0, quiet=True)
    monkeypatch.setattr(console.time, "monotonic", lambda: 1e9)
    assert not progress.due()
    progress.say("an evaluation")
    progress.warn("a warning")
    assert capsys.readouterr().out == "a warning\n"


def test_a_full_disk_under_the_output_is_borne_and_other_errors_are_not() -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:
        output = console.Output(full)
        assert output.write(100_000 * "x") == 100_000
        output.flush()
        assert output.name == "/dev/full"
    with open(os.devnull) as stream, pytest.raises(OSError, match="not writable"):
        console.Output(stream).write("x")


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [(0, ["copy", "copies"], "0 copies"), (1, ["copy", "copies"], "1 copy"), (2_000, ["episode"], "2,000 episodes")],
)
def test_one_is_not_many(number: int, words: list[str], said: str) -> None:
    assert console.count(number, *words) == said
