"""Evaluates the learner's published weights, or its checkpoints, as they come: results, videos, the test at the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from absl import flags as absl_flags

from binaries import console, flags, report, serving, settings
from binaries.evaluation import evaluation_line, record, result_line, seen_episodes
from binaries.experiment import Plan
from binaries.run_folder import NATIVE_LOG, OPERATIVE, RUN_ID, TRAINING_ID, RunFolder, as_text, finished_line
from binaries.signals import STOPPED, Stop, leave
from binaries.tally import BEGUN_AT, FINISHED
from pipeline.envs.recorder import Videos
from pipeline.types import RunError
from pipeline.waiting import Stopped, Waiting
from servers.checkpoint import Checkpoints

if TYPE_CHECKING:
    from agents.learner import Learner
    from pipeline.types import Params
    from servers.variables import Version

absl_flags.declare_key_flag("replay")
LOCK = "evaluator.lock"
"""the learner works in the same folder"""
LOG = f"evaluator.{NATIVE_LOG}"
NAME = "The evaluator"


class Weights(Protocol):
    """Where the evaluated weights come from."""

    @property
    def version(self) -> Version | None:
        """Of the weights that were taken over last."""
        ...

    def pull(self) -> bool:
        """Takes over newer weights; returns whether there are any at all."""
        ...


class Checkpointed:
    """The weights of a learner's checkpoints, in a folder that this machine can read."""

    def __init__(self, learner: Learner, checkpoints: Checkpoints):
        """Takes them over into the parameters of `learner`."""
        self._learner = learner
        self._checkpoints = checkpoints
        self._newest: Path | None = None
        self.version: Version | None = None

    def pull(self) -> bool:
        """Whether there is a checkpoint; the newest one's weights are then in place."""
        import tensorflow as tf

        from servers.variables import Version

        newest = self._checkpoints.newest()
        if newest == self._newest:
            return newest is not None
        unit = self._checkpoints.latest()
        learner = self._learner
        if unit is not None:
            try:
                learner.read(unit.path / "learner")
            except (tf.errors.OpError, OSError, ValueError):
                # A newer one took its place.
                return self.version is not None
            state = unit.state
            self.version = Version(
                training_id=state.get(TRAINING_ID, 0),
                run_id=state.get(RUN_ID, 0),
                updates=learner.updates,
                begun_at=state.get(BEGUN_AT, unit.step),
                env_steps=unit.step,
                finished=state.get(FINISHED, False),
                max_priority=learner.max_priority,
            )
        self._newest = newest
        return unit is not None


class Loop:
    """Evaluates every `eval_period` environment steps; where that takes longer, what was newest then."""

    def __init__(
        self,
        plan: Plan,
        params: Params,
        weights: Weights,
        folder: RunFolder,
        videos: Videos | None,
        *,
        stop: Stop,
        watchdog: serving.Watchdog,
        quiet: bool,
    ):
        """`weights` puts them into `params`. `videos`: where the test is recorded."""
        from binaries.summaries import Summaries

        self._experiment = experiment = plan.experiment
        self._folder = folder
        self._videos = videos
        self._stop = stop
        self._watchdog = watchdog
        self._status = console.Status(quiet)
        self._weights = weights
        self._algo = type(plan.algo)
        self._evaluators = plan.evaluators(params, "eval")
        self._testers = plan.evaluators(params, "test")
        self._summaries = Summaries(folder.path, 2**31, ["eval"])
        self._next = experiment.eval_period
        self._evaluated: int | None = None
        self._run_id: int | None = None
        """of the learner's life whose weights came last"""
        if videos is not None:
            videos.env_steps = lambda: self._env_steps

    @property
    def _env_steps(self) -> int:
        return 0 if self._weights.version is None else self._weights.version.env_steps

    def run(self, operative: str) -> None:
        """Returns when the training is done and tested; raises Stopped where it was asked to stop, and StallError."""
        bindings = settings.read_bindings(operative, OPERATIVE)
        self._summaries.hparams({b.name: b.value for b in bindings}, self._algo)
        waiting = Waiting(self._experiment.startup_timeout, self._status.warn, self._stop)
        before = None
        while True:
            with self._watchdog.during("asks for weights"):
                self._weights.pull()
            version = self._weights.version
            if version is None or version == before:
                waiting.on(lambda: "The evaluator waits for the learner's weights")
                time.sleep(serving.POLL_S)
                continue
            before = version
            if version.run_id != self._run_id:
                self._go_on(version)
            waiting.over()
            waiting.limit_s = self._experiment.stall_timeout
            if version.env_steps >= self._next or (version.finished and self._evaluated != version.env_steps):
                self._evaluate()
            if version.finished:
                if self._is_tested(version):
                    self._status.warn(finished_line(self._folder.path))
                else:
                    self._test()
                return
            if self._stop():
                raise Stopped

    def _go_on(self, version: Version) -> None:
        """Takes back the results of weights that were lost with an earlier life of the learner."""
        self._run_id = version.run_id
        own = self._folder.training_id
        others = {result.get(TRAINING_ID) for result in self._folder.results()} - {None, version.training_id}
        # The learner writes which training its folder is of before it publishes.
        if version.training_id and own != version.training_id and (own is not None or others):
            raise RunError(f"{self._folder.path} holds another training's results: choose another --output_dir.")
        dropped = self._folder.drop_results_after(version.begun_at, version.run_id)
        if dropped:
            self._summaries.drop_after(version.begun_at)
            self._status.warn(
                f"The learner went back to {version.begun_at:,} steps: {console.count(dropped, 'result')} of weights"
                " that were lost with it are dropped."
            )
        steps = [result["env_steps"] for result in self._folder.results() if result["kind"] == "eval"]
        self._evaluated = steps[-1] if steps else None
        self._next = (max([0, *steps]) // self._experiment.eval_period + 1) * self._experiment.eval_period

    def _is_tested(self, version: Version) -> bool:
        """Whether an earlier life of this process tested these weights."""
        results = self._folder.results()
        tested = {"kind": "test", "env_steps": version.env_steps, "updates": version.updates}
        return bool(results) and tested.items() <= results[-1].items()

    def _evaluate(self) -> None:
        steps = self._env_steps
        self._evaluated = steps
        self._next = (steps // self._experiment.eval_period + 1) * self._experiment.eval_period
        for kind, evaluator in self._evaluators.items():
            returns = evaluator.run(steps)
            marks = evaluator.cut, evaluator.not_finite
            self._record(kind, returns, *marks)
            say = self._status.warn if evaluator.not_finite else self._status.say
            say(evaluation_line(self._experiment, kind, steps, returns, *marks))

    def _test(self) -> None:
        steps = self._env_steps
        for kind, tester in self._testers.items():
            returns = tester.run(steps)
            marks = tester.cut, tester.not_finite
            self._record(kind, returns, *marks)
            version = self._weights.version
            assert version is not None
            self._status.warn(result_line(self._experiment, kind, steps, version.updates, returns, *marks))
        if self._videos is not None:
            for video in {(v.part, v.env_steps): v for v in reversed(self._videos.finished)}.values():
                gif = self._videos.gif(video)
                if gif:
                    self._summaries.gif("eval", steps, f"video/{video.part}", gif)
        self._flush()

    def _record(self, kind: str, returns: np.ndarray, cut: int, not_finite: int) -> None:
        version = self._weights.version
        assert version is not None
        try:
            steps, updates = version.env_steps, version.updates
            life = {TRAINING_ID: version.training_id, RUN_ID: version.run_id}
            marks = cut, not_finite
            record(self._folder, self._summaries, self._experiment, kind, steps, updates, returns, *marks, **life)
        except OSError as error:
            self._unsaved(f"no result at {version.env_steps:,} steps in the run's folder ({error.strerror})", error)
        self._flush()

    def _flush(self) -> None:
        try:
            self._summaries.flush()
        except OSError as error:
            self._unsaved(f"no room for TensorBoard's points ({error.strerror}): they are kept for later", error)

    def _unsaved(self, said: str, error: OSError) -> None:
        if self._experiment.stop_when_unsaved:
            raise RunError(f"There is {said}; Experiment.stop_when_unsaved ends the run.") from error
        self._status.warn(f"WARNING: {said}.")
        self._folder.note_fault("evaluator", "could not write")


def _weights(
    command: flags.Command, plan: Plan, folder: RunFolder, stop: Stop, watchdog: serving.Watchdog
) -> tuple[Params, Weights]:
    """The parameters to act with, and where their values come from: replay servers, or without --replay the disk."""
    if not absl_flags.FLAGS["replay"].value:
        learner = plan.learner()
        return learner.params, Checkpointed(learner, Checkpoints(folder.checkpoints, 1, warn=print))
    from agents.algos.algo import acting_variables, networks
    from servers.variables import Puller

    waiting = Waiting(plan.experiment.startup_timeout, print, stop)
    clients = serving.clients(serving.addresses(), NAME, as_text(command.settings), waiting, watchdog)
    params = networks(plan.algo, plan.observation_spec, plan.action_spec)
    return params, Puller(clients, acting_variables(params), print)


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    # What an evaluation under way has found is lost; the next life makes it anew.
    stop = Stop()
    stop.watch(leave(NAME))
    if absl_flags.FLAGS["replay"].value:
        serving.addresses()
    folder = RunFolder(command.flags["output_dir"], command.settings, LOCK)
    videos = None
    if command.flags["record_video"]:
        videos = Videos(folder.videos, command.experiment.video_codec)
    log = console.NativeLog()
    import tensorflow as tf

    from binaries.devices import leave_to_the_learner

    leave_to_the_learner()
    experiment = command.experiment
    tf.config.threading.set_intra_op_parallelism_threads(experiment.threads)
    settings.apply(command.settings)
    plan = Plan("local", videos=videos, acts=False, stop=stop, seen_episodes=seen_episodes(command.settings))
    folder.take()
    log.keep(folder.path / LOG)
    if videos is not None:
        videos.start()
    watchdog = serving.Watchdog(NAME, experiment.stall_timeout)
    try:
        params, weights = _weights(command, plan, folder, stop, watchdog)
        loop = Loop(plan, params, weights, folder, videos, stop=stop, watchdog=watchdog, quiet=command.flags["quiet"])
        loop.run(settings.operative())
    except Stopped:
        print(f"{NAME}: stopped.", flush=True)
        return STOPPED
    finally:
        plan.close()
    try:
        report.write([folder.path], folder.path)
    except OSError as error:
        print(f"WARNING: there is no report ({error}).", flush=True)
    return 0


if __name__ == "__main__":
    flags.main(main)
