"""Waiting for another process: said in words after some seconds, ended after a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.types import RunError

TOLD_AFTER_S = 5.0
TOLD_AGAIN_S = 30.0


class StallError(RunError):
    """Nothing moved for longer than the limit; the message says who waits for whom."""


class Stopped(Exception):  # noqa: N818 it is no error
    """Someone asked the process to stop while it waited."""


class Waiting:
    """One wait after the other, of one process."""

    def __init__(
        self,
        limit_s: float,
        say: Callable[[str], None] = lambda line: None,
        stop: Callable[[], bool] = lambda: False,
        explain: Callable[[], str] = lambda: "",
    ):
        """`limit_s`: seconds that one wait may last. `stop` says whether the process was asked to stop.

        `explain` makes what is added to every sentence; it is called only where one is said.
        """
        self.limit_s = limit_s
        self._say = say
        self._stop = stop
        self._explain = explain
        self._began: float | None = None
        self._told = 0.0

    def on(self, reason: Callable[[], str]) -> bool:
        """To be called over and over while nothing moves; `reason` makes the sentence, without a full stop.

        Returns whether this is when a wait is said for the first time.

        Raises StallError past the limit, and Stopped where the process was asked to stop.
        """
        if self._stop():
            raise Stopped
        now = time.monotonic()
        if self._began is None:
            self._began, self._told = now, now - TOLD_AGAIN_S + TOLD_AFTER_S
        if now - self._began > self.limit_s:
            raise StallError(f"{reason()}{self._explain()}: nothing moved for {now - self._began:.0f} s.")
        first = self._told < self._began
        if now - self._told < TOLD_AGAIN_S:
            return False
        self._told = now
        self._say(f"{reason()}{self._explain()}; this has lasted for {now - self._began:.0f} s.")
        return first

    def over(self) -> None:
        """Something moved."""
        if self._began is not None and self._told > self._began:
            self._say(f"It goes on, after {time.monotonic() - self._began:.0f} s.")
        self._began = None
