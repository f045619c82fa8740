"""Learns from replay servers that actors write to: the compiled update loop, and the weights' publication."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from agents.tf_config import VARIABLE, learners
from binaries import console, flags, serving, settings
from binaries.experiment import Plan
from binaries.run_folder import NATIVE_LOG, RUN_ID, TRAINING_ID, RunFolder, as_text
from binaries.signals import STOPPED, Stop, leave
from binaries.tally import ACTORS, BEGUN_AT, FINISHED, Tally
from pipeline.envs.closing import end_process
from pipeline.types import RunError, UserError
from pipeline.waiting import Stopped, Waiting
from servers.checkpoint import Checkpoints, Unit
from servers.limits import Limits

if TYPE_CHECKING:
    import reverb

    from agents.learner import Learner
    from binaries.summaries import Summaries
    from servers.ownership import Ownership

absl_flags.declare_key_flag("replay")
absl_flags.DEFINE_boolean(
    "drop_replay", False, "take the replay servers from another training, without what they hold of it"
)
POLL_S = 0.02
"""between two questions to the servers while the learner waits for them"""
COUNT_S = 0.5
"""between two of them while it does not, and between two readings of the actors' reports"""
NAME = "learner"
"""in the list of faults"""
WAIT, STOP, FINISHED_ALL = 0, -1, -2
"""what a learner says before a turn; what is larger says that it can draw, and how far the actors are"""
ANYTHING = 2**62
"""of a learner that is not the chief and can draw"""
LEARNS = "learns, from what the replay server sends"
OTHERS = "another learner"
OTHERS_S = 15.0
"""for the other learners to end their turn and to say that they stop too, after a signal"""
MOST_SAID = 32
"""reports that were not taken, of which it is said; all are counted"""
SETTLE_S = 2.0
"""for the actors that live on to say how far they are, before a learner that goes on gives them more steps to make"""
DRAW_S = 10.0
"""that a draw may take, though the servers' counts allow it; then they are asked again"""


class Loop:
    """Updates as the replay's limiters allow, to the end of the training or a signal.

    Of several learners that TF_CONFIG names, each draws its part of every batch, and all make the same turns: the chief
    alone knows how far the actors are, publishes and saves.
    """

    def __init__(
        self,
        plan: Plan,
        learner: Learner,
        addresses: list[str],
        clients: list[reverb.Client],
        folder: RunFolder,
        checkpoints: Checkpoints,
        unit: Unit | None,
        ownership: Ownership,
        training_id: int,
        *,
        stop: Stop,
        watchdog: serving.Watchdog,
        quiet: bool,
    ):
        """Goes on from `unit` of the training `training_id`, or begins it; `ownership`: of the servers."""
        from agents.algos.algo import acting_variables
        from binaries.summaries import Summaries
        from pipeline.dataset import Shares
        from servers.shards import Shards
        from servers.variables import Publisher

        self._plan = plan
        self._experiment = plan.experiment
        self._learner = learner
        self._chief = learner.is_chief
        self._addresses = addresses
        self._folder = folder
        self._checkpoints = checkpoints
        self._watchdog = watchdog
        self._stop = stop
        if learners() == 1:
            # Several of them draw and update together, or not at all.
            learner.stop = stop
        self._ratio = plan.ratio(learner)
        self._drawn = plan.items_per_draw(learner)
        self._shards = Shards(clients, self._ratio)
        self._shares = Shares(len(addresses)) if len(addresses) > 1 else None
        self._publisher = Publisher(clients, acting_variables(learner.params))
        self._published = -1
        self._ownership = ownership
        self._claims: dict[int, int] = {}
        """by server that is this learner's: how often one said that it is its own"""
        self._training_id = training_id
        self._tally = Tally()
        self._refused: set[tuple[int, str]] = set()
        """kinds of reports that were said to be none"""
        self._refused_reports = 0
        if unit is not None:
            self._restore(unit)
        self._begun_at = self._tally.env_steps
        together = plan.memory.on_policy and not plan.data.whole_episodes
        self._untold = False
        """whether a server does not hold what was published last"""
        self._limits = Limits(self._experiment.train_steps, plan.lanes, plan.rollout_steps if together else plan.lanes)
        self._shares_from = 0.0 if unit is None else None
        """the time from which on steps are given out; None until the actors know that this life began"""
        self._summaries: Summaries | None = None
        """the chief's"""
        if self._chief:
            self._summaries = Summaries(folder.path, self._tally.env_steps, ["train"])
        self._progress = console.Progress(
            self._experiment.train_steps, self._tally.env_steps, learner.updates, quiet=quiet or not self._chief
        )
        learner.warn = self._progress.warn
        # Who is asked to stop goes on until all learners know.
        self._waiting = Waiting(self._experiment.startup_timeout, self._progress.warn)
        self._counted = self._read = self._told = 0.0
        self._saved = time.monotonic()
        self._metrics: dict[str, float] = {}
        self._call_seconds = 0.0
        self._next_log = self._next(self._experiment.log_period)
        self._next_distributions = self._next(self._experiment.distribution_period)
        self._logged = (time.monotonic(), self._tally.env_steps, learner.updates, 0, 0)

    def _next(self, period: int) -> int:
        return (self._tally.env_steps // period + 1) * period

    def _restore(self, unit: Unit) -> None:
        try:
            self._learner.read(unit.path / "learner")
            self._tally.restore(unit.state[ACTORS])
        except (AssertionError, ValueError, KeyError) as error:
            raise UserError(
                f"{unit.path} was not written by a learner of these settings that actors in other processes fed: choose"
                " another --output_dir."
            ) from error
        print(
            f"Resuming at {unit.step:,} environment steps, {self._learner.updates:,} updates from {unit.path}",
            flush=True,
        )

    def run(self, operative: str) -> bool:
        """Returns whether the training came to its end; raises RunError at a stall, after saving."""
        if self._summaries is not None:
            self._summaries.config(self._tally.env_steps, operative)
        finished = False
        self._stop.leave = self._leave
        try:
            while not finished:
                finished = self._turn()
        except Stopped:
            pass
        except RunError:
            self._end()
            raise
        if finished:
            self._publish(finished=True)
        self._end(finished)
        return finished

    def say_end(self, finished: bool) -> None:
        """Says how it ended."""
        end = "The training is done" if finished else "Stopped and saved" if self._chief else "Stopped"
        print(f"{end}: {self._learner.updates:,} updates. Checkpoints: {self._folder.checkpoints}", flush=True)

    def _leave(self) -> None:
        """From another thread, after a signal: saves and ends the process where it waits for who does not answer."""
        with self._watchdog.held() as call:
            if call is None or (call.who == OTHERS and time.monotonic() - call.begun < OTHERS_S):
                return
            # Else it learns: parameters are on the way from one update to the next.
            if call.doing != LEARNS or self._learner.has_updated():
                self._end()
                self.say_end(False)
                end_process(STOPPED)

    def _end(self, finished: bool = False) -> None:
        self._progress.clear()
        if self._chief:
            self._save(finished)
            self._flush()

    def _turn(self) -> bool:
        """Updates, or waits for a moment; returns whether the training is done."""
        shards = self._shards
        drawn = self._drawn
        now = time.monotonic()
        on_policy = self._plan.memory.on_policy
        if shards.changed or shards.credit < drawn or on_policy or now - self._counted > COUNT_S:
            self._counted = now
            with self._watchdog.during("asks the replay servers what they hold"):
                shards.poll()
            self._read_reports(now)
            if any(shards.claims(shard) != self._claims[shard] for shard in shards.alive if shard in self._claims):
                shards.changed = True
            if shards.alive and shards.changed:
                self._connect()
            if shards.unpublished() or self._share(now) or self._untold:
                self._publish()
        self._watch(now)
        with self._watchdog.during("waits for the other learners", OTHERS):
            said = self._learner.agree(self._say())
        if said == STOP:
            raise Stopped
        if said == FINISHED_ALL:
            return True
        if said == WAIT:
            self._wait()
            time.sleep(POLL_S)
            return False
        if self._shares is not None:
            self._shares.items.assign(shards.contents(on_policy))
        self._update(said - 1)
        return False

    def _say(self) -> int:
        """What this learner would do; the smallest of what all say is done."""
        if self._stop():
            return STOP
        if self._shards.alive and self._shards.credit >= self._drawn:
            return self._tally.env_steps + 1 if self._chief else ANYTHING
        over = self._chief and self._limits.all_made(self._tally.env_steps) and self._shards.alive
        return FINISHED_ALL if over else WAIT

    def _update(self, env_steps: int) -> None:
        from agents.learner import NoDataError

        learner = self._learner
        begun = time.monotonic()
        try:
            with self._watchdog.during(LEARNS):
                metrics = learner.run(env_steps, DRAW_S)
        except NoDataError:
            # The counts allowed the draw: a server is gone, or holds other items than it did.
            with self._watchdog.during("gives up what it waited for from the replay server"):
                learner.disconnect()
            self._shards.changed = True
            self._wait()
            return
        self._call_seconds = time.monotonic() - begun
        self._shards.draw(self._drawn)
        if not self._metrics:
            # The first call compiles, which is nobody's fault.
            self._watchdog.faults()
        self._metrics = metrics or self._metrics
        self._waiting.over()
        self._waiting.limit_s = self._experiment.stall_timeout
        if self._plan.memory.on_policy or learner.updates - self._published >= self._experiment.publish_period:
            self._publish()

    def _connect(self) -> None:
        """Reads from the servers that answer."""
        with self._watchdog.during("connects to the replay servers"):
            self._learner.disconnect()
            self._shards.poll()
            if self._chief:
                self._take_servers()
            self._shards.begin()
            self._plan.connect(self._learner, self._addresses, self._shards.alive, self._shares)
        # This life's: actors wait for it to give them steps, and may have nothing to learn from until then.
        self._publish()
        if len(self._addresses) > 1:
            said = ", ".join(self._addresses[shard] for shard in self._shards.alive)
            self._progress.warn(f"The learner reads from {said}.")

    def _take_servers(self) -> None:
        """Makes the servers that answer this learner's; one that is gone meanwhile is asked again later."""
        import reverb

        for shard in self._shards.alive:
            try:
                self._claims[shard] = self._ownership.take(self._shards.clients[shard], self._addresses[shard])
            except RunError:
                raise
            except (reverb.ReverbError, RuntimeError):
                self._shards.lose(shard)

    def _publish(self, finished: bool = False) -> None:
        if not self._chief:
            return
        from servers.variables import Limit, Version

        learner, made = self._learner, self._tally.made
        version = Version(
            training_id=self._training_id,
            run_id=learner.run_id,
            updates=learner.updates,
            begun_at=self._begun_at,
            env_steps=self._tally.env_steps,
            finished=finished,
            max_priority=learner.max_priority,
            limits=tuple(Limit(*life, made[life], steps) for life, steps in self._limits.limits.items()),
        )
        with self._watchdog.during("sends weights to the replay server"):
            self._untold = not self._publisher.publish(version, self._shards.alive)
        self._published = learner.updates
        if self._shares_from is None:
            self._shares_from = time.monotonic() + SETTLE_S

    def _share(self, now: float) -> bool:
        """Gives the actors steps to make; returns whether one of them waits for that, or soon will."""
        if not self._chief or self._shares_from is None or now < self._shares_from:
            return False
        return self._limits.share(self._tally.made, self._tally.acting)

    def _read_reports(self, now: float) -> None:
        from servers import reports

        # Rollouts come with reports, and the age of both counts.
        if self._chief and self._shards.alive and (self._plan.memory.on_policy or now - self._read > COUNT_S):
            self._read = now
            clients = [self._shards.clients[shard] for shard in self._shards.alive]
            with self._watchdog.during("reads the actors' reports from the replay server"):
                found, refused = reports.read(clients, self._training_id, self._experiment.train_steps)
            self._tally.take(found)
            self._refused_reports += len(refused)
            for report in list(set(refused) - self._refused)[: MOST_SAID - len(self._refused)]:
                self._refused.add(report)
                self._progress.warn(f"WARNING: a report of actor {report.actor} is not taken: {report.reason}.")
                self._folder.note_fault(f"actor_{report.actor}", f"sent a report that was not taken: {report.reason}")

    def _wait(self) -> None:
        """Raises StallError where nothing has moved for too long."""
        if self._waiting.on(self._reason) and self._metrics and self._chief:
            lost = len(self._shards.alive) < len(self._addresses)
            self._folder.note_fault(NAME, f"waited for {'a replay server' if lost else 'the actors'}")

    def _reason(self) -> str:
        """Who waits for whom."""
        shards, tally = self._shards, self._tally
        lost = [address for shard, address in enumerate(self._addresses) if shard not in shards.alive]
        if not shards.alive:
            return f"The learner waits for the replay server {' and '.join(lost)}, which does not answer"
        items, first = sum(shards.items), round(self._ratio.min_items)
        of = f" of {first:,}" if shards.inserted < first else ""
        return (
            f"The learner waits for the replay: {items:,}{of} items, {tally.connected} actors connected, last insert"
            f" {shards.seconds_since_insert:.0f} s ago{', no answer from ' + ', '.join(lost) if lost else ''}"
        )

    def _watch(self, now: float) -> None:
        """Logs, saves and shows what is due."""
        if self._summaries is None:
            return
        from binaries.summaries import ADAM

        steps, experiment = self._tally.env_steps, self._experiment
        for fault in self._watchdog.faults():
            # Before it learns it has to wait, for itself too.
            if self._metrics:
                self._folder.note_fault(NAME, fault)
        for actor in self._tally.fell_silent():
            self._folder.note_fault(f"actor_{actor}", "fell silent")
        if steps >= self._next_log and self._metrics:
            self._log()
            self._next_log = self._next(experiment.log_period)
        if steps >= self._next_distributions:
            means = self._learner.gradient_means()
            self._summaries.distributions("train", steps, {f"{ADAM}/{n}": v for n, v in means.items()})
            self._next_distributions = self._next(experiment.distribution_period)
        if now - self._saved > experiment.checkpoint_period:
            self._save()
        if now - self._told > 1.0:
            self._told = now
            self._folder.write_progress(self._progress.now(steps, self._learner.updates, self._tally.mean_return))
            self._folder.write_faults()
            if self._summaries.due():
                self._flush()
        if self._progress.due():
            self._progress.show(steps, self._learner.updates, self._tally.mean_return)

    def _log(self) -> None:
        assert self._summaries is not None
        import tensorflow as tf

        from binaries.summaries import resident_megabytes

        shards, tally, learner = self._shards, self._tally, self._learner
        now = (time.monotonic(), tally.env_steps, learner.updates, shards.inserted, shards.sampled)
        seconds, steps, updates, inserted, sampled = (a - b for a, b in zip(now, self._logged, strict=True))
        self._logged = now
        finished, tally.finished = tally.finished, []
        values = {f"learner/{name}": value for name, value in self._metrics.items()}
        values |= {n: float(v) for n, v in self._plan.algo.acting_metrics(tf.constant(tally.env_steps)).items()}
        values |= {
            "speed/env_steps_per_second": steps / seconds,
            "speed/updates_per_second": updates / seconds,
            "replay/updates_per_env_step": learner.updates / tally.env_steps,
            "replay/samples_per_insert": shards.sampled / max(shards.inserted, 1),
            "replay/inserts_per_second": inserted / seconds,
            "replay/samples_per_second": sampled / seconds,
            "replay/priority_lag_seconds": self._call_seconds,
            "replay/servers": len(shards.alive),
            "replay/not_finite": learner.not_finite,
            "replay/refused_reports": self._refused_reports,
            "processes/actors": tally.connected,
            "memory/resident_megabytes": resident_megabytes(),
        }
        if tally.crashes:
            values["environment/crashes"] = tally.crashes
        if self._plan.memory.on_policy:
            values["replay/stale_rollouts"] = learner.stale_rollouts
        for shard in shards.alive:
            values[f"replay/items/{shard}"] = shards.items[shard]
        if finished:
            values["episode_return"] = sum(r for r, _ in finished) / len(finished)
            values["episode_steps"] = sum(length for _, length in finished) / len(finished)
        self._summaries.scalars("train", tally.env_steps, values)

    def _save(self, finished: bool = False) -> None:
        learner, tally, summaries = self._learner, self._tally, self._summaries
        assert summaries is not None

        def write(folder: Path) -> None:
            learner.write(folder / "learner")
            summaries.flush()

        try:
            self._checkpoints.save(tally.env_steps, write, {**self._state(), FINISHED: finished})
        except Exception as error:
            # A full disk is an OSError to Python only; TensorFlow has errors of its own.
            self._unsaved(f"no checkpoint at {tally.env_steps:,} steps ({error}); the one before stands", error)
        self._saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        """Counts: the actors', and what an agent in one process needs to test what was learnt."""
        counters = {"env_steps": self._tally.env_steps, "episodes": self._tally.episodes, "policy_calls": 0}
        life = {TRAINING_ID: self._training_id, RUN_ID: self._learner.run_id, BEGUN_AT: self._begun_at}
        return {**counters, **life, "items": self._learner.rollouts, ACTORS: self._tally.state()}

    def _flush(self) -> None:
        assert self._summaries is not None
        try:
            self._summaries.flush()
        except OSError as error:
            self._unsaved(f"no room for TensorBoard's points ({error.strerror}): they are kept for later", error)

    def _unsaved(self, said: str, error: Exception) -> None:
        if self._experiment.stop_when_unsaved:
            raise RunError(f"There is {said}; Experiment.stop_when_unsaved ends the run.") from error
        self._progress.warn(f"WARNING: {said}.")
        self._folder.note_fault(NAME, "could not write")


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    stop = Stop()
    stop.watch(leave("The learner"))
    addresses = serving.addresses()
    folder = RunFolder(command.flags["output_dir"], command.settings)
    checkpoints = Checkpoints(folder.checkpoints, command.experiment.kept_checkpoints, warn=print)
    unit = checkpoints.to_resume(command.flags["restart_damaged"])
    log = console.NativeLog()
    import tensorflow as tf

    experiment = command.experiment
    tf.config.threading.set_intra_op_parallelism_threads(experiment.threads)
    settings.apply(command.settings)
    watchdog = serving.Watchdog("The learner", experiment.startup_timeout)
    together = watchdog.during(f"waits for the other learners that {VARIABLE} names", OTHERS)
    if learners() > 1:
        # TensorFlow waits for them with Python's lock held, and hears SIGINT alone: SIGTERM it takes for itself.
        stop.end_at_once()
    with together if learners() > 1 else contextlib.nullcontext():
        plan = Plan(command.flags["sys"], command.flags["tpu"], acts=False)
        learner = plan.learner()
        learner.run_id = learner.agree(random.SystemRandom().randrange(1, 2**31) if learner.is_chief else ANYTHING)
    # TensorFlow's service for several learners takes SIGTERM, for a protocol of its own that nobody answers.
    stop.listen()
    reading = settings.check_all_read(command.settings)
    operative = settings.operative()
    earlier = folder.training_id
    training_id = random.SystemRandom().randrange(1, 2**31)
    if unit is not None:
        training_id = unit.state.get(TRAINING_ID, training_id)
    if learner.is_chief:
        folder.take()
        log.keep(folder.path / NATIVE_LOG)
        folder.write(command.flags, operative, reading.held, training_id)
    try:
        clients = serving.clients(
            addresses,
            "The learner",
            as_text(command.settings),
            Waiting(experiment.startup_timeout, print, stop),
            watchdog,
        )
    except Stopped:
        print("The learner: stopped.", flush=True)
        return STOPPED
    from servers.ownership import Ownership

    # What was begun in this folder and never saved is lost, with what the servers hold of it.
    dropped = () if earlier is None else (earlier,)
    ownership = Ownership(training_id, learner.run_id, dropped, absl_flags.FLAGS.drop_replay, print)
    quiet = command.flags["quiet"]
    loop = Loop(
        plan,
        learner,
        addresses,
        clients,
        folder,
        checkpoints,
        unit,
        ownership,
        training_id,
        stop=stop,
        watchdog=watchdog,
        quiet=quiet,
    )
    finished = loop.run(operative)
    loop.say_end(finished)
    return 0 if finished else STOPPED


if __name__ == "__main__":
    flags.main(main)
