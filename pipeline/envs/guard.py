"""What an environment's code may raise: anything, and none of it ends the program that steps it."""

from __future__ import annotations

import contextlib
import dis
import signal
from collections.abc import Iterator


class Quit(Exception):  # noqa: N818 it is what an environment did
    """An environment raised what ends a program, as `sys.exit()` does, in place of an error."""


def failure(error: BaseException) -> Exception:
    """`error`, which an environment's code raised, as a failure of that environment: see `Quit`.

    The user's Ctrl-C, which is no environment's, is raised again. Programs take it as a signal (binaries/signals.py):
    this is for loops of one's own.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, KeyboardInterrupt) and _is_from_user(error):
        raise error
    text = (
        f"sys.exit({'' if error.code is None else repr(error.code)})" if isinstance(error, SystemExit) else str(error)
    )
    quit = Quit(f"{type(error).__name__}: {text}".rstrip(": "))
    quit.__cause__ = error
    return quit.with_traceback(error.__traceback__)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Surrounds a call of an environment's code: what it raises is an Exception."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        raise failure(error) from error


def _is_from_user(error: KeyboardInterrupt) -> bool:
    """Whether Python's own handler of Ctrl-C raised it, and no statement of a program."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] not in ("RAISE_VARARGS", "RERAISE")
