"""How long tests wait for what must come, and what they change so that nothing else decides how they end."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator

LIMIT_S = 600.0
"""seconds, far beyond what a busy machine needs; pytest's own limit of a test, in pyproject.toml, is longer"""


def wait_until(reached: Callable[[], object], what: str) -> None:
    """Fails where `reached` stays false."""
    deadline = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def signals_heard() -> Iterator[None]:
    """As on a terminal: what `nohup` and a script's `&` start ignores SIGHUP and SIGINT, and so do its children."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
