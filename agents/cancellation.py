"""Calls of compiled functions whose waiting is given up after a time: TensorFlow's own know no timeout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tensorflow.python.eager import cancellation

POLL_S = 0.25


class _Watch:
    """One thread that cancels what waits for too long."""

    def __init__(self, waits: Callable[[], bool], stop: Callable[[], bool]) -> None:
        self._waits = waits
        self._stop = stop
        self._call: tuple[float, Any] | None = None
        threading.Thread(target=self._loop, daemon=True, name="cancellation").start()

    def begin(self, manager: Any, timeout_s: float) -> None:
        self._call = time.monotonic() + timeout_s, manager

    def end(self) -> None:
        self._call = None

    def _loop(self) -> None:
        while True:
            time.sleep(POLL_S)
            # Cancelling a call that has just ended does nothing.
            call = self._call
            if call is not None and (time.monotonic() > call[0] or self._stop()) and self._waits():
                call[1].start_cancel()


def cancellable(
    function: Any, waits: Callable[[], bool], stop: Callable[[], bool] = lambda: False
) -> Callable[..., Any]:
    """`function`, a concrete one, as a callable of (timeout in seconds, *arguments).

    It raises tf.errors.CancelledError where an operation such as an iterator's next still waits after the timeout, or
    once `stop` says that the process was asked to stop. `waits` says whether one does, from another thread: a
    computation must not be cut off in its middle. Calls come one after the other.
    """
    watch = _Watch(waits, stop)

    def call(timeout_s: float, *arguments: Any) -> Any:
        manager = cancellation.CancellationManager()
        watch.begin(manager, timeout_s)
        try:
            return manager.get_cancelable_function(function)(*arguments)
        finally:
            watch.end()

    return call
