"""Serves the replay to actors and a learner in processes of their own, and keeps it across restarts."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from binaries import console, flags, settings
from binaries.experiment import Plan
from binaries.lock import Lock
from binaries.run_folder import NATIVE_LOG, as_text, check_same_settings
from binaries.serving import POLL_S
from binaries.signals import STOPPED, Stop, leave
from pipeline.addresses import FAMILY, accept_both
from pipeline.types import UserError
from servers.checkpoint import Checkpoints

if TYPE_CHECKING:
    import reverb

absl_flags.DEFINE_string("checkpoint_dir", None, "where the server keeps its contents, and restores them from")
absl_flags.DEFINE_integer(
    "health_port", 0, "where GET /healthz answers 200 while the server serves; 0: nowhere", lower_bound=0
)
KEPT = 2
ANSWER_S = 5


class Contents:
    """The server's contents on disk: whole units, like a learner's."""

    def __init__(self, folder: Path, settings: dict[str, str]):
        """Raises UserError where another experiment's contents are there."""
        self._settings = settings
        self._checkpoints = Checkpoints(folder, KEPT, warn=print)
        self._saved = 0
        unit = self._checkpoints.latest()
        if unit is not None:
            check_same_settings(
                unit.state["settings"], settings, f"{folder} holds another experiment's replay", "choose another folder"
            )
            self._saved = unit.step
        self.newest = None if unit is None else unit.path / "replay"

    def save(self, client: reverb.Client) -> None:
        """Writes a unit, if there is anything new; what cannot be written is said, and the unit before stands."""
        from servers import tables

        inserted = client.server_info(timeout=ANSWER_S)[tables.TABLE].rate_limiter_info.insert_stats.completed
        if inserted == self._saved:
            return
        begun = time.monotonic()

        def write(folder: Path) -> None:
            shutil.move(client.checkpoint(), folder / "replay")

        try:
            self._checkpoints.save(inserted, write, {"settings": self._settings})
        except Exception as error:
            # Reverb has errors of its own for a full disk.
            print(f"WARNING: the replay's contents could not be saved ({error}); those before stand.", flush=True)
            return
        self._saved = inserted
        print(f"Saved at {inserted:,} items written, in {time.monotonic() - begun:.1f} s.", flush=True)


def serve_health(port: int, client: reverb.Client) -> None:
    """Answers GET /healthz at `port`, from a thread: 200 and what the tables hold, or 503."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/healthz":
                self.send_error(404)
                return
            try:
                info: Any = client.server_info(timeout=ANSWER_S)
            except Exception as error:
                self.send_error(503, explain=str(error))
                return
            body = json.dumps({name: table.current_size for name, table in info.items()}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A probe is no news."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = FAMILY

        def server_bind(self) -> None:
            accept_both(self.socket)
            super().server_bind()

    server = Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True, name="health").start()


def _times_written(client: reverb.Client) -> int:
    """How often it was said which experiment the server serves."""
    from servers import identity

    return client.server_info(timeout=ANSWER_S)[identity.TABLE].rate_limiter_info.insert_stats.completed


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    stop = Stop()
    stop.watch(leave("The replay server"))
    port, health_port = command.flags["port"], absl_flags.FLAGS["health_port"].value
    path = absl_flags.FLAGS["checkpoint_dir"].value
    if not port:
        raise UserError("No port was chosen: add --port=PORT, where actors and learner will look for the server.")
    if not path:
        raise UserError("No folder was chosen for the replay's contents: add --checkpoint_dir=FOLDER.")
    from servers.ports import check_port

    for number in filter(None, (port, health_port)):
        check_port(number)
    folder = Path(path).expanduser().absolute()
    own = as_text(command.settings)
    lock = Lock(folder, "--checkpoint_dir")
    contents = Contents(folder, own)
    log = console.NativeLog()
    import reverb

    from binaries.devices import leave_to_the_learner
    from servers import identity, tables, variables

    leave_to_the_learner()
    settings.apply(command.settings)
    plan = Plan("local", acts=False)
    shards = command.flags["shards"]
    served = plan.tables(plan.learner(), shards)
    settings.check_all_read(command.settings)
    lock.take()
    log.keep(folder / NATIVE_LOG)
    server = tables.serve(served, folder / "new", contents.newest, port)
    client = reverb.Client(f"localhost:{port}")
    # Weights of a learner's earlier life are of no use, and might say that the training is done.
    client.reset(variables.TABLE)
    client.reset(identity.TABLE)
    identity.write(client, own)
    written = _times_written(client)
    if health_port:
        serve_health(health_port, client)
    restored = client.server_info(timeout=ANSWER_S)[tables.TABLE].current_size
    print(
        f"Serving {plan.data.memory} replay at port {port} on all interfaces, without authentication:"
        f" {restored:,} items restored, at most {plan.budget(shards) / 2**20:,.0f} MiB of memory",
        flush=True,
    )
    saved = time.monotonic()
    # From here on there is something to save.
    stop.leave = None
    while not stop():
        time.sleep(POLL_S)
        with contextlib.suppress(reverb.ReverbError, RuntimeError):
            if _times_written(client) != written:
                print("WARNING: somebody else wrote what this server serves: it writes it again.", flush=True)
                identity.write(client, own)
                written = _times_written(client)
        if time.monotonic() - saved > plan.experiment.replay_checkpoint_period:
            contents.save(client)
            saved = time.monotonic()
    contents.save(client)
    server.stop()
    return STOPPED


if __name__ == "__main__":
    flags.main(main)
