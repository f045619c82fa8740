"""Learns from a replay server that others write to: the compiled update loop alone."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from binaries import console, flags, settings
from binaries.experiment import Plan
from binaries.run_folder import NATIVE_LOG, RunFolder
from pipeline.types import RunError, UserError
from servers.checkpoint import Checkpoints

if TYPE_CHECKING:
    import reverb

    from agents.learner import Learner
    from binaries.summaries import Summaries

absl_flags.DEFINE_string("replay", None, "the replay server, host:port")

SERVER_TIMEOUT_S = 10
STALL_S = 300
"""without a new environment step, after which the learner gives up"""
POLL_S = 0.05


def check_server(address: str, plan: Plan) -> None:
    """Raises UserError where no server answers, or its table is not that of this experiment."""
    import reverb

    from servers import tables

    try:
        table = reverb.Client(address).server_info(timeout=SERVER_TIMEOUT_S)[tables.TABLE]
    except (reverb.ReverbError, RuntimeError) as error:
        raise UserError(f"No replay server answers at --replay={address} within {SERVER_TIMEOUT_S} s.") from error
    except KeyError as error:
        raise UserError(f"The server at --replay={address} has no table '{tables.TABLE}'.") from error
    held: Any = table.signature
    held, wanted = ({n: (s.shape.as_list(), s.dtype.name) for n, s in x.items()} for x in (held, plan.signature()))
    if held != wanted:
        raise UserError(
            f"The table at --replay={address} holds {held} and these hparams want {wanted}: server, actors and"
            " learner need the same hparams."
        )


class Loop:
    """Updates as the actors' steps allow, to the end of the training or a signal."""

    def __init__(
        self, plan: Plan, learner: Learner, client: reverb.Client, summaries: Summaries, checkpoints: Checkpoints
    ):
        self._plan = plan
        self._learner = learner
        self._client = client
        self._summaries = summaries
        self._checkpoints = checkpoints
        self._stop = False

    def run(self) -> None:
        """Returns when it is done or asked to stop, with everything saved; raises RunError at a stall."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        experiment, learner = self._plan.experiment, self._learner
        progress = console.Progress(experiment.train_steps, self._inserted(), learner.updates)
        saved = moved = time.monotonic()
        steps = 0
        while self._left(steps) and not self._stop:
            now = time.monotonic()
            before, steps = steps, self._inserted()
            moved = now if steps > before else moved
            if self._due(steps):
                metrics = learner.run(steps)
                values = {f"learner/{name}": value for name, value in metrics.items()}
                self._summaries.scalars("train", learner.updates, values)
            elif now - moved > STALL_S:
                raise RunError(f"{self._waits(steps)} for {STALL_S} s.")
            else:
                time.sleep(POLL_S)
            if progress.due():
                progress.show(steps, learner.updates, None)
                if not self._due(steps):
                    progress.say(f"{self._waits(steps)} for {now - moved:.0f} s.")
            if now - saved > experiment.checkpoint_period:
                self._save()
                saved = now
        self._save()
        self._summaries.flush()

    def _due(self, steps: int) -> bool:
        return self._learner.due(steps, steps // self._plan.rollout_steps)

    def _left(self, steps: int) -> bool:
        """Whether there is more to learn."""
        if self._plan.memory.on_policy:
            return steps < self._plan.experiment.train_steps or self._due(steps)
        return self._due(self._plan.experiment.train_steps)

    def _waits(self, steps: int) -> str:
        return (
            f"The learner waits for the actors: {steps:,} environment steps are in the replay, updates begin past"
            f" {self._plan.data.min_size:,}, {self._learner.updates:,} updates are done, and nothing came"
        )

    def _inserted(self) -> int:
        """Environment steps that the replay server has taken so far."""
        import reverb

        try:
            info = self._client.server_info(timeout=SERVER_TIMEOUT_S)["experience"]
        except (reverb.ReverbError, RuntimeError) as error:
            raise UserError(f"The replay server does not answer any more: {error}") from error
        items = info.rate_limiter_info.insert_stats.completed
        return items * (self._plan.rollout_steps if self._plan.memory.on_policy else self._plan.windows)

    def _save(self) -> None:
        learner = self._learner
        write = lambda folder: learner.checkpoint().write(str(folder / "learner"))  # noqa: E731
        self._checkpoints.save(learner.updates, write, {})

    def _on_signal(self, number: int, frame: object) -> None:
        del frame
        self._stop = True
        signal.signal(number, signal.SIG_DFL)


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    address = absl_flags.FLAGS["replay"].value
    if not address:
        raise UserError("No replay server was named: add --replay=HOST:PORT.")
    folder = RunFolder(command.flags["output_dir"], command.settings)
    log = console.NativeLog()
    import reverb
    import tensorflow as tf

    from binaries.summaries import Summaries

    tf.config.threading.set_intra_op_parallelism_threads(command.experiment.threads)
    settings.apply(command.settings)
    plan = Plan(command.flags["sys"], command.flags["tpu"])
    check_server(address, plan)
    learner = plan.learner(address)
    folder.take()
    log.keep(folder.path / NATIVE_LOG)
    checkpoints = Checkpoints(folder.checkpoints, plan.experiment.kept_checkpoints, warn=print)
    unit = checkpoints.latest()
    if unit is not None:
        learner.checkpoint().read(str(unit.path / "learner")).assert_consumed()
        learner.restored()
        print(f"Resuming at {learner.updates:,} updates from {unit.path}", flush=True)
    folder.write(command.flags, settings.operative())
    loop = Loop(plan, learner, reverb.Client(address), Summaries(folder.path, learner.updates), checkpoints)
    loop.run()
    print(f"{learner.updates:,} updates. Checkpoints: {folder.checkpoints}")
    return 0


if __name__ == "__main__":
    flags.main(main)
