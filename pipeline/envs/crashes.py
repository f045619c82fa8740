"""What happens when an environment fails: it is counted, told once, and too much of it ends the run."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
import traceback
import weakref

from pipeline.envs.closing import end_process
from pipeline.types import RunError

FREE = 3
"""crashes that any run may have"""
PATIENCE = 2
"""timeouts after which a step that its alarm did not end ends the process"""
TICKS = 10
"""looks in a timeout"""


class CrashError(RunError):
    """Environments fail too often; the message holds the last one's own traceback."""


class Hang(Exception):  # noqa: N818 it is what an environment did
    """An environment did not come back from its step in time."""


class Crashes:
    """Counts the failures of a run's environments."""

    def __init__(self, rate: float, timeout: float):
        """`rate`: crashes an environment step that are borne.

        `timeout`: seconds that one step of all lanes may take. Native code cannot be interrupted: there the process
        ends after twice as long, with a sentence.
        """
        self._rate = rate
        self._timeout = timeout
        self._told: set[str] = set()
        self._since: float | None = None
        """when the step under way began"""
        self._alarm_at = -math.inf
        """when the alarm that was set last rings"""
        self.steps = 0
        """environment steps so far"""
        self.count = 0
        threading.Thread(target=_watch, args=(weakref.ref(self), timeout), daemon=True, name="steps").start()

    def count_from(self, count: int, steps: int) -> None:
        """Goes on from `count` failures in `steps` environment steps."""
        self.count, self.steps = count, steps

    def note(self, error: Exception, lane: int) -> None:
        """Counts `error`, of `lane`; raises CrashError where it is one too many."""
        self.count += 1
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        if self.count > FREE + self._rate * self.steps:
            text = "".join(traceback.format_exception(error))
            raise CrashError(
                f"Environments failed {self.count} times in {self.steps:,} steps, the last one in lane {lane}"
                f" ({said}); Experiment.crash_rate is what is borne. Its own traceback:\n{text}"
            ) from error
        if said not in self._told:
            self._told.add(said)
            print(
                f"WARNING: the environment of lane {lane} failed ({said}): its episode is cut there, and a new one is"
                " made. Further ones are counted in TensorBoard.",
                flush=True,
            )

    def watch(self, lanes: int) -> Crashes:
        """To surround a step of `lanes` environments: raises Hang in one that goes on for longer than the timeout.

        In the main thread only, where signals arrive.
        """
        self.steps += lanes
        return self

    def __enter__(self) -> None:
        self._since = time.monotonic()
        # One alarm a timeout, not one a step: setting one takes as long as a step of CartPole.
        if self._since > self._alarm_at and threading.current_thread() is threading.main_thread():
            self._arm(self._timeout)

    def __exit__(self, *_: object) -> None:
        self._since = None

    def _arm(self, seconds: float) -> None:
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        self._alarm_at = time.monotonic() + seconds

    def _look(self, number: int, frame: object) -> None:
        """What the alarm does: a step that began since it was set has time left."""
        if self._since is None:
            return
        left = self._since + self._timeout - time.monotonic()
        if left <= 0:
            raise Hang("it did not come back from its step in time")
        self._arm(left)


def _watch(watched: weakref.ref[Crashes], timeout: float) -> None:
    """Ends the process where one step is under way at too many looks in a row.

    Looks and no clock, because a process that was stopped for a while is not late.
    """
    before, looks = None, 0
    while (crashes := watched()) is not None:
        looks = looks + 1 if crashes._since is not None and crashes._since == before else 0
        before = crashes._since
        del crashes
        if looks > PATIENCE * TICKS:
            print(
                f"The environments have not come back from one step for {PATIENCE * timeout:.0f} s, in native code that"
                " cannot be interrupted, so this process ends; the same command resumes the run."
                " Experiment.env_processes=1 steps them in a process that is replaced.",
                file=sys.stderr,
                flush=True,
            )
            end_process(1)
        time.sleep(timeout / TICKS)
