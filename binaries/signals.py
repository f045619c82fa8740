"""Signals that ask a program to save its state and end. Imports no TensorFlow."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable

from pipeline.envs.closing import end_process

ASKING = (signal.SIGINT, signal.SIGTERM)
GRACE_S = 0.8
"""seconds after the signal in which the main thread may end by itself"""
POLL_S = 0.1
STOPPED = 143
"""the exit status of who was asked to stop before the training was done: whoever keeps it running starts it again"""
_forking = threading.local()


class Stop:
    """Whether this process was asked to stop; a second signal ends it at once.

    Python runs a signal's handler in the main thread, once that comes back from its call of TensorFlow or Reverb. Some
    of these never do: see `watch`.
    """

    def __init__(self) -> None:
        self._asked = False
        self.leave: Callable[[], None] | None = None
        """see `watch`; None: the main thread is waited for"""
        self.listen()

    def watch(self, leave: Callable[[], None]) -> None:
        """From now on a thread hears signals too. Where the process still runs `GRACE_S` after one, it calls `leave`.

        `leave` ends the process, or returns and is called again soon. To be called once the process has a network
        of its own, which it enters with one thread.
        """
        self.leave = leave
        heard, self._signals = socket.socketpair()
        self._signals.setblocking(False)
        # The interpreter writes a signal's number there as it arrives, whatever the main thread does.
        signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(heard,), daemon=True, name="signals").start()

    def listen(self) -> None:
        """To be called again after something else took the signals."""
        for number in ASKING:
            signal.signal(number, self._on_signal)

    def end_at_once(self) -> None:
        """Until `listen` a signal ends the process: for calls that keep Python's lock, so that no thread hears one."""
        for number in ASKING:
            signal.signal(number, signal.SIG_DFL)

    def __call__(self) -> bool:
        return self._asked

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self._asked = True
        signal.signal(number, signal.SIG_DFL)

    def _watch(self, heard: socket.socket) -> None:
        number = 0
        while not self._asked and number not in ASKING:
            number = heard.recv(1)[0]
        if number in ASKING:
            self._asked = True
            # As the handler does; Python's own `signal` is the main thread's.
            ctypes.CDLL(None).signal(number, ctypes.c_void_p(0))
        asked = time.monotonic()
        while True:
            time.sleep(POLL_S)
            if self.leave is not None and time.monotonic() - asked > GRACE_S:
                try:
                    self.leave()
                except BaseException:
                    traceback.print_exc()
                    end_process(1)


def leave(name: str) -> Callable[[], None]:
    """What ends a process that has nothing to save, with a sentence that begins with its `name`."""

    def end() -> None:
        print(f"{name}: stopped.", flush=True)
        end_process(STOPPED)

    return end


def _before_fork() -> None:
    """Until `_forget` a child's signals would be its parent's too: they wait for it."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _forget() -> None:
    """In a forked child: its signals are none of its parent's, and who ends it needs to ask only once."""
    if isinstance(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), Stop):
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget)
