"""Environments are closed however the process ends that holds them."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from typing import NoReturn, Protocol

from pipeline.envs.guard import guarded

CLOSE_S = 2.0
"""that environments may take to close in a process that ends at once"""


class Closable(Protocol):
    """What holds environments, or is one."""

    def close(self) -> None:
        """Frees windows and processes."""


_open: weakref.WeakValueDictionary[int, Closable] = weakref.WeakValueDictionary()
"""by id: what users write may have no hash"""


def keep(held: Closable) -> None:
    """Has `end_process` close `held`, unless `close` does before, or nobody holds it any more."""
    _open[id(held)] = held


def close(held: Closable) -> None:
    """Closes environments; what goes wrong in it is said, and keeps the others from nothing."""
    _open.pop(id(held), None)
    try:
        with guarded():
            held.close()
    except Exception as error:
        _warn(f"WARNING: an environment could not be closed ({told(error)}).")


def end_process(code: int) -> NoReturn:
    """Ends the process from any of its threads, whatever the others wait for; its environments are closed before."""

    def close_all() -> None:
        for held in list(_open.values()):
            close(held)

    closing = threading.Thread(target=close_all, daemon=True)
    closing.start()
    closing.join(CLOSE_S)
    os._exit(code)


def told(error: BaseException) -> str:
    """An error in a few words: its type, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".rstrip(": ")


@functools.cache
def _warn(line: str) -> None:
    """Prints a line once: a hundred environments may have the same to say."""
    print(line, flush=True)
