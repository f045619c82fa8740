"""Whose the replay servers are: one training's, and of its learners one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import reverb

from pipeline.types import RunError, UserError
from servers import identity, reports, tables, variables
from servers.identity import Owner


class Ownership:
    """What a learner says of itself at the servers, and reads there of others."""

    def __init__(self, training_id: int, run_id: int, dropped: Iterable[int], drop: bool, warn: Callable[[str], None]):
        """`dropped`: trainings whose contents are dropped where they are found; with `drop`, any other's are.

        `run_id`: of this life of the learner. `warn` is given a sentence about what is dropped.
        """
        # Another life that begins later is told by its time, on whichever machine.
        self._own = Owner(training_id, int(time.time()), run_id)
        self._dropped = set(dropped)
        self._drop = drop
        self._warn = warn
        self._began = False

    def take(self, client: reverb.Client, address: str) -> int:
        """Makes the server of `client` this learner's; to be called again where somebody else may have done so.

        Returns how often that was done, by whomever: where the server says another number, somebody else has.
        Raises UserError where it is another training's, and RunError where that, or another learner of this training,
        has taken it from this one. A server that does not answer is a ReverbError or a RuntimeError.
        """
        owner, written = identity.read_owner(client)
        if owner is not None and owner.training_id != self._own.training_id:
            self._take_from(owner, client, address)
        elif owner is not None and owner[1:] > self._own[1:]:
            if self._began:
                raise RunError(f"Another learner of this training has taken over the replay server at {address}.")
            self._own = self._own._replace(since=owner.since + 1)
        if owner != self._own:
            identity.write_owner(client, self._own)
            written += 1
        self._began = True
        return written

    def _take_from(self, owner: Owner, client: reverb.Client, address: str) -> None:
        if owner.training_id not in self._dropped:
            if self._began:
                raise RunError(f"The learner of another training has taken over the replay server at {address}.")
            if not self._drop:
                raise UserError(
                    f"The replay server at {address} belongs to another training, whose learner may still run: start"
                    " a server of its own for this one, or take that one, without what it holds, by --drop_replay."
                )
            self._dropped.add(owner.training_id)
        held = client.server_info(timeout=tables.TIMEOUT_S)[tables.TABLE].current_size
        for table in (tables.TABLE, reports.TABLE, variables.TABLE):
            client.reset(table)
        self._warn(f"The replay server at {address} held {held:,} items of another training: they are dropped.")
