"""How the suite was started decides nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.limits import signals_heard

IGNORED = (
    "import signal; print([n.name for n in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) == signal.SIG_IGN])"
)


def ignored() -> str:
    """What a program that a test starts ignores."""
    return subprocess.run([sys.executable, "-c", IGNORED], capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_test_starts_hears_signals_though_the_suite_was_started_in_the_background() -> None:
    with signals_heard():
        # As nohup does it, and a script's &.
        before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)]
        assert ignored() == "['SIGHUP', 'SIGINT']"
        with signals_heard():
            assert ignored() == "[]"
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        for number, handler in zip((signal.SIGHUP, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
