"""Signals that ask a program to save its state and end. Imports no TensorFlow."""

from __future__ import annotations

import signal


class Stop:
    """Whether this process was asked to stop; a second signal ends it at once."""

    def __init__(self) -> None:
        self._asked = False
        self.listen()

    def listen(self) -> None:
        """To be called again after something else took the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def __call__(self) -> bool:
        return self._asked

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self._asked = True
        signal.signal(number, signal.SIG_DFL)
