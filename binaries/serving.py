"""What the programs of a run that is spread over processes share: where the replay is, signals, and a watchdog."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from absl import flags as absl_flags

from binaries.run_folder import check_same_settings
from pipeline import loopback
from pipeline.addresses import host_and_port
from pipeline.envs.closing import end_process
from pipeline.types import UserError
from pipeline.waiting import TOLD_AFTER_S, Waiting

if TYPE_CHECKING:
    import reverb

absl_flags.DEFINE_string("replay", None, "the replay servers: host:port, or host:port,host:port,...")

POLL_S = 0.2
WATCH_S = 1.0
STOOD_STILL_S = 10.0
"""between two looks of a watchdog: the process, or its machine, was stopped"""


def addresses() -> list[str]:
    """The replay servers that --replay names, those on this machine exempt from proxies; raises UserError for none."""
    text = absl_flags.FLAGS["replay"].value
    if not text:
        raise UserError("No replay server was named: add --replay=HOST:PORT.")
    found = text.split(",")
    try:
        hosts = [host_and_port(address)[0] for address in found]
    except ValueError as error:
        raise UserError(f"--replay={text}: {error}") from error
    if len(set(found)) < len(found):
        raise UserError(f"--replay={text} names a server twice.")
    loopback.exempt(hosts)
    return found


class Call(NamedTuple):
    """A call that may hang."""

    begun: float
    """by `time.monotonic`"""
    doing: str
    who: str
    """has to answer"""


class Watchdog:
    """Speaks up, and at last ends the process, where a call does not come back: some of Reverb's know no timeout.

    Time in which the process itself stood still, because somebody stopped it or its machine, is no call's fault.
    """

    def __init__(self, name: str, limit_s: float):
        """`name`: of the process, as it begins a sentence."""
        self._name = name
        self._limit_s = limit_s
        self._call: Call | None = None
        self._held = threading.Lock()
        self._faults: list[str] = []
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    @contextlib.contextmanager
    def during(self, doing: str, who: str = "a replay server") -> Iterator[None]:
        """Surrounds a call that may hang; `doing` goes on the sentence that `name` begins. `who` has to answer it."""
        self._call = Call(time.monotonic(), doing, who)
        try:
            yield
        finally:
            with self._held:
                self._call = None

    @contextlib.contextmanager
    def held(self) -> Iterator[Call | None]:
        """For another thread: the call under way, if there is one; whoever made it does not go on meanwhile."""
        with self._held:
            yield self._call

    def faults(self) -> list[str]:
        """What was seen since the last call: 'stood still', 'waited for a replay server'."""
        seen, self._faults = self._faults, []
        return seen

    def _watch(self) -> None:
        told, awake = None, time.monotonic()
        ticked = awake
        while True:
            time.sleep(WATCH_S)
            before, ticked = ticked, time.monotonic()
            if ticked - before > STOOD_STILL_S:
                awake = ticked
                self._faults.append("stood still")
            call = self._call
            if call is None:
                continue
            begun, doing, who = call
            seconds = ticked - max(begun, awake)
            if seconds > self._limit_s:
                print(f"{self._name} {doing}, without an answer for {seconds:.0f} s: it ends.", file=sys.stderr)
                sys.stderr.flush()
                end_process(1)
            if seconds > TOLD_AFTER_S and told != call:
                told = call
                self._faults.append(f"waited for {who}")
                print(f"{self._name} {doing}, for {seconds:.0f} s now.", flush=True)


def clients(
    found: list[str], name: str, settings: Mapping[str, str], waiting: Waiting, watchdog: Watchdog
) -> list[reverb.Client]:
    """A client of each server, once one of them answers; raises UserError where it serves another experiment."""
    import reverb

    from servers import identity

    made = [reverb.Client(address) for address in found]
    how = "does not answer"
    while True:
        for address, client in zip(found, made, strict=True):
            try:
                if not client.server_info(timeout=5)[identity.TABLE].current_size:
                    continue
                with watchdog.during(f"reads which experiment {address} serves"):
                    served = identity.read(client)
            except KeyError as error:
                raise UserError(f"The server at --replay={address} is no replay server of Encore's.") from error
            except ValueError:
                # The server writes its own again.
                how = "says nothing that can be read of its experiment"
                continue
            except (reverb.ReverbError, RuntimeError):
                how = "does not answer"
                continue
            check_same_settings(served, settings, f"The replay server at {address} serves another experiment")
            waiting.over()
            return made
        waiting.on(lambda: f"{name} waits for the replay server {' or '.join(found)}, which {how}")  # noqa: B023
        time.sleep(POLL_S)
