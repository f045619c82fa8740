"""Trains, evaluates and tests an agent in one process, with an embedded replay server."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import tree

from agents.tf_config import check_alone
from binaries import console, copies, flags, network, report, settings, workers
from binaries.evaluation import evaluation_line, record, result_line, seen_episodes
from binaries.experiment import Parts, Plan
from binaries.run_folder import NATIVE_LOG, OPERATIVE, RESULTS, RunFolder, finished_line, is_finished
from binaries.signals import STOPPED, Stop, leave
from binaries.tally import ACTORS
from pipeline.envs import generators
from pipeline.envs.closing import end_process
from pipeline.envs.origin import origin
from pipeline.envs.recorder import Videos
from pipeline.types import Nest, RunError, UserError
from pipeline.waiting import Stopped
from servers.checkpoint import Checkpoints, Unit

LEAVE_S = 20.0
"""after a signal, for what is under way, such as an environment's step or a compilation; Kubernetes waits for 30"""
SCORE = "score"
"""where the state of the best evaluation's unit has its mean return"""
EVALUATED = "evaluated_steps"
"""where it has the steps of the newest evaluation"""
GENERATORS = "generators"
"""where it has the state of the global generators"""
CRASHES = "crashes"
"""where a unit's state counts the environments' failures"""
ACTING = "acting.pickle"
"""a unit's file of environments, episodes under way and rows that are in no item yet"""


class Run:
    """The seed's loop over lanes, and what surrounds it: evaluation, checkpoints, TensorBoard, progress."""

    def __init__(
        self,
        parts: Parts,
        folder: RunFolder,
        checkpoints: Checkpoints,
        unit: Unit | None,
        *,
        stop: Stop,
        quiet: bool,
        videos: Videos | None,
        profile: Profile | None,
        trains: bool = True,
    ):
        """Goes on from `unit`, whose replay contents the server has restored already.

        Who only tests does not unpickle the episodes under way: whoever wrote them could have run code by that.
        """
        from binaries.summaries import Summaries

        self._parts = parts
        self._experiment = parts.experiment
        self._agent = parts.agent
        self._folder = folder
        self._checkpoints = checkpoints
        self._stop = stop
        stop.leave = self._leave
        self._asked_at: float | None = None
        """when `_leave` was first called"""
        self._leave_s = LEAVE_S
        self._saving = False
        begin = 0 if unit is None else unit.step
        folder.drop_results_after(begin)
        self._best = Checkpoints(folder.best, None, warn=print)
        self._keep_best(begin)
        best = self._best.latest()
        self._best_score: float = -math.inf if best is None else best.state[SCORE]
        self._summaries = Summaries(folder.path, begin)
        self._saved = self._told = time.monotonic()
        self._saved_steps: int | None = None
        self._evaluated_steps = 0
        self._logged = (time.monotonic(), 0, 0)
        self._returns: list[float] = []
        self._videos = videos
        self._seen = parts.plan.seen
        self._profile = profile
        self._state: Nest = None
        """of the environments, where a run resumes in the middle of their episodes"""
        if unit is not None:
            self._restore(unit, trains)
        updates = self._agent.learner.updates
        self._progress = console.Progress(self._experiment.train_steps, self._steps, updates, quiet)

    @property
    def _steps(self) -> int:
        return self._agent.actor.env_steps

    def _restore(self, unit: Unit, trains: bool) -> None:
        try:
            self._agent.learner.read(unit.path / "learner")
            self._agent.actor.count_from(unit.state)
        except (AssertionError, ValueError, KeyError) as error:
            raise UserError(
                f"{unit.path} was written for another algorithm, network or environment, or by another version of them:"
                " choose another --output_dir."
            ) from error
        # A run of several processes counts them elsewhere.
        self._parts.crashes.count_from(unit.state.get(CRASHES, 0), unit.step)
        episodes = ""
        if trains and (unit.path / ACTING).exists():
            acting = pickle.loads((unit.path / ACTING).read_bytes())
            self._parts.environment.restore(acting["environment"])
            self._state = self._agent.actor.restore(acting["actor"])
            self._agent.metrics, self._returns = acting["metrics"], acting["returns"]
        elif trains:
            episodes = ", with new episodes: this environment's state cannot be saved"
        if GENERATORS in unit.state:
            generators.restore(unit.state[GENERATORS])
        self._saved_steps = unit.step
        self._evaluated_steps = unit.state.get(EVALUATED, unit.step)
        print(f"Resuming at {unit.step:,} environment steps from {unit.path}{episodes}", flush=True)

    def train(self) -> bool:
        """Trains to the last step; returns whether it got there (False: a signal asked it to stop)."""
        from agents.learner import NoDataError

        stop = self._stop
        self._agent.learner.stop = stop
        self._agent.learner.warn = self._progress.warn
        experiment, agent, environment = self._experiment, self._agent, self._parts.environment
        self._logged = (time.monotonic(), self._steps, agent.learner.updates)
        next_log = _next(self._steps, experiment.log_period)
        next_distributions = _next(self._steps, experiment.distribution_period)
        # One that a signal cut short is made up for.
        next_evaluation = _next(self._evaluated_steps, experiment.eval_period)
        # New episodes of a resumed run have seeds that it has not used before.
        state = environment.reset(experiment.seed + self._steps) if self._state is None else self._state
        try:
            if self._steps >= next_evaluation and not stop():
                state = self._evaluate_between(state)
                next_evaluation = _next(self._steps, experiment.eval_period)
            while self._steps + experiment.lanes <= experiment.train_steps and not stop():
                last_state = state
                action = agent.act(state)
                state, reward, done = environment.step(action)
                agent.observe(last_state, action, reward, done, state)
                try:
                    agent.update()
                except NoDataError:
                    # Whoever was asked to stop waits for nothing.
                    if not stop():
                        raise
                if self._steps >= next_log:
                    self._log()
                    next_log = _next(self._steps, experiment.log_period)
                if self._steps >= next_distributions:
                    self._log_distributions()
                    next_distributions = _next(self._steps, experiment.distribution_period)
                if self._steps >= next_evaluation:
                    state = self._evaluate_between(state)
                    next_evaluation = _next(self._steps, experiment.eval_period)
                now = time.monotonic()
                if now - self._saved > experiment.checkpoint_period:
                    self._save()
                if now - self._told > 1.0:
                    self._told = now
                    self._folder.write_progress(
                        self._progress.now(self._steps, agent.learner.updates, self._recent_return())
                    )
                    if self._summaries.due():
                        self._flush()
                if self._profile is not None:
                    self._profile.at(self._steps)
                if self._progress.due():
                    self._progress.show(self._steps, agent.learner.updates, self._recent_return())
            if not stop() and self._steps != self._evaluated_steps:
                self._evaluate_between(state)
        except Stopped:
            pass  # in an evaluation, which counts for nothing
        finally:
            self._progress.clear()
            if self._profile is not None:
                self._profile.stop()
        if self._steps != self._saved_steps:
            self._save()
        return not stop()

    def test(self, counts: bool = True) -> None:
        """The evaluation at the end; raises Stopped where a signal asked to stop.

        Not `counts`: it is played to be seen, and is no result of the run.
        """
        # Nobody needs the others any more.
        for held in (self._parts.environment, *self._parts.evaluators.values()):
            held.close()
        played = {}
        # Nothing is left to be saved.
        self._leave_s = 0.0
        try:
            for kind, tester in self._parts.testers.items():
                seen = self._seen and kind == "test"
                played[kind] = tester.run(self._steps, self._say_return if seen else None)
        finally:
            self._leave_s = LEAVE_S
        for kind, returns in played.items():
            tester = self._parts.testers[kind]
            marks = tester.cut, tester.not_finite
            if counts:
                self._report(kind, returns, *marks)
            updates = self._agent.learner.updates
            self._progress.warn(result_line(self._experiment, kind, self._steps, updates, returns, *marks))
        self._show_videos()
        self._flush()
        try:
            report.write([self._folder.path], self._folder.path)
        except OSError as error:
            self._unsaved(f"no report ({error})", error)

    def _say_return(self, number: int, episode_return: float) -> None:
        self._progress.say(f"episode {number + 1}: return {episode_return:.1f}")

    def show_settings_in_tensorboard(self, operative: str) -> None:
        """Adds the operative configuration, as text and on the HParams page."""
        self._summaries.config(self._steps, operative)
        bindings = settings.read_bindings(operative, OPERATIVE)
        self._summaries.hparams({b.name: b.value for b in bindings}, type(self._agent.algo))

    def _evaluate_between(self, state: Nest) -> Nest:
        """Evaluates, and returns the states that training goes on from: `state`, unless it had to make room."""
        if not self._experiment.exclusive_environment:
            self._evaluate()
            return state
        self._parts.environment.close()
        self._evaluate()
        self._parts.plan.renew_environment()
        self._agent.cut()
        return self._parts.environment.reset(self._experiment.seed + self._steps)

    def _evaluate(self) -> None:
        # All or none: Stopped may come out of each.
        played = {kind: evaluator.run(self._steps) for kind, evaluator in self._parts.evaluators.items()}
        self._evaluated_steps = self._steps
        for kind, returns in played.items():
            evaluator = self._parts.evaluators[kind]
            marks = evaluator.cut, evaluator.not_finite
            self._report(kind, returns, *marks)
            say = self._progress.warn if evaluator.not_finite else self._progress.say
            say(evaluation_line(self._experiment, kind, self._steps, returns, *marks))
            if kind == "eval" and not evaluator.not_finite and returns.mean() > self._best_score:
                self._save_best(float(returns.mean()))

    def _report(self, kind: str, returns: np.ndarray, *marks: int) -> None:
        updates = self._agent.learner.updates
        try:
            record(self._folder, self._summaries, self._experiment, kind, self._steps, updates, returns, *marks)
        except OSError as error:
            self._unsaved(f"no result at {self._steps:,} steps in the run's folder ({error.strerror})", error)

    def _save_best(self, score: float) -> None:
        """Writes the learner, without the replay: to be exported, not to go on from."""

        def write(folder: Path) -> None:
            self._agent.learner.write(folder / "learner")

        try:
            self._best.save(self._steps, write, {SCORE: score})
            self._best_score = score
        except Exception as error:
            self._unsaved(f"no room for the best network, of {self._steps:,} steps ({error})", error)

    def _keep_best(self, last: int) -> None:
        """Keeps what was best up to step `last`, and what will have been where a resumed run begins further back."""
        self._best.keep_between(min(self._checkpoints.steps(), default=last), last)

    def _leave(self) -> None:
        """From another thread, after a signal: says that it was heard, and ends what does not come back to hear it."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            self._progress.warn("Asked to stop: what is under way is finished and saved first.")
        elif now - self._asked_at > self._leave_s and not self._saving:
            self._progress.warn(
                f"Stopped, and not saved: what was under way did not come back for {now - self._asked_at:.0f} s. The"
                " last checkpoint stands, and the same command goes on from it."
            )
            end_process(STOPPED)

    def _save(self) -> None:
        """Writes everything that a resumed run needs as one unit."""

        def write(folder: Path) -> None:
            self._agent.actor.flush()
            self._agent.learner.write(folder / "learner")
            shutil.move(self._parts.client.checkpoint(), folder / "replay")
            environment = self._parts.environment.state()
            if environment is not None:
                acting = {
                    "environment": environment,
                    "actor": self._agent.actor.state(),
                    "metrics": self._agent.metrics,
                    "returns": self._returns,
                }
                (folder / ACTING).write_bytes(pickle.dumps(acting))
            # What TensorBoard shows is as old as the newest checkpoint, or newer.
            self._summaries.flush()

        self._saving = True
        try:
            state = {
                **self._agent.actor.counters(),
                CRASHES: self._parts.crashes.count,
                EVALUATED: self._evaluated_steps,
                GENERATORS: generators.state(),
            }
            self._checkpoints.save(self._steps, write, state)
            self._keep_best(self._steps)
            self._saved_steps = self._steps
        except RunError:
            raise
        except Exception as error:
            # A full disk is an OSError to Python only; TensorFlow and Reverb have errors of their own.
            self._unsaved(f"no checkpoint at {self._steps:,} steps ({error}); the one before stands", error)
        finally:
            self._saving = False
        self._saved = time.monotonic()

    def _flush(self) -> None:
        """Makes everything visible to TensorBoard."""
        try:
            self._summaries.flush()
        except OSError as error:
            self._unsaved(f"no room for TensorBoard's points ({error.strerror}): they are kept for later", error)

    def _unsaved(self, said: str, error: Exception) -> None:
        """Warns of what could not be written, or ends the run."""
        if self._experiment.stop_when_unsaved:
            raise RunError(f"There is {said}; Experiment.stop_when_unsaved ends the run.") from error
        self._progress.warn(f"WARNING: {said}.")

    def _log(self) -> None:
        import tensorflow as tf

        from binaries.summaries import resident_megabytes

        agent = self._agent
        now = (time.monotonic(), self._steps, agent.learner.updates)
        seconds, steps, updates = (a - b for a, b in zip(now, self._logged, strict=True))
        self._logged = now
        finished, agent.actor.finished = agent.actor.finished, []
        values = {f"learner/{name}": value for name, value in agent.metrics.items()}
        values |= {name: float(v) for name, v in agent.algo.acting_metrics(tf.constant(self._steps)).items()}
        values |= {
            "speed/env_steps_per_second": steps / seconds,
            "speed/updates_per_second": updates / seconds,
            "replay/updates_per_env_step": agent.learner.updates / self._steps,
            "replay/not_finite": agent.learner.not_finite,
            "memory/resident_megabytes": resident_megabytes(),
        }
        if self._parts.crashes.count:
            values["environment/crashes"] = self._parts.crashes.count
        if agent.algo.data().batch_size:
            # An update from a whole rollout has no fixed number of samples.
            values["replay/samples_per_insert"] = agent.learner.updates * agent.algo.data().batch_size / self._steps
        if finished:
            self._returns = [*self._returns, *(r for r, _ in finished)][-100:]
            values["episode_return"] = sum(r for r, _ in finished) / len(finished)
            values["episode_steps"] = sum(length for _, length in finished) / len(finished)
        self._summaries.scalars("train", self._steps, values)

    def _log_distributions(self) -> None:
        from binaries.summaries import ADAM, HISTOGRAMS

        agent = self._agent
        states, actions = zip(*agent.actor.latest, strict=True)
        values = {f"{HISTOGRAMS}/{n}": v for n, v in agent.algo.distributions(agent.learner.params, states[-1]).items()}
        values |= {f"{ADAM}/{n}": v for n, v in agent.learner.gradient_means().items()}
        for path, leaf in tree.flatten_with_path(tree.map_structure(lambda *leaves: np.concatenate(leaves), *actions)):
            values["/".join([HISTOGRAMS, "action", *map(str, path)])] = leaf
        self._summaries.distributions("train", self._steps, values)
        self._show_videos()

    def _show_videos(self) -> None:
        """Adds the new videos to TensorBoard: of those of one part at one step, the first."""
        if self._videos is None:
            return
        new, self._videos.finished = self._videos.finished, []
        for video in {(v.part, v.env_steps): v for v in reversed(new)}.values():
            gif = self._videos.gif(video)
            if gif:
                writer = "train" if video.part == "train" else "eval"
                self._summaries.gif(writer, video.env_steps, f"video/{video.part}", gif)

    def _recent_return(self) -> float | None:
        recent = [*self._returns, *(r for r, _ in self._agent.actor.finished)][-20:]
        return sum(recent) / len(recent) if recent else None


class Profile:
    """TensorFlow's profiler, between two environment steps; TensorBoard's profile page shows what it saw."""

    def __init__(self, text: str, folder: Path):
        """`text`: 'START:STOP'; raises UserError where it is not that."""
        begin, _, end = text.partition(":")
        if not (begin.isdecimal() and end.isdecimal() and int(begin) < int(end)):
            raise UserError(f"--profile={text}: give two environment steps as START:STOP, for example 10000:12000.")
        self._begin, self._end = int(begin), int(end)
        self._folder = folder
        self._on = False

    def at(self, env_steps: int) -> None:
        """Starts or stops it, if that is due."""
        import tensorflow as tf

        if not self._on and self._begin <= env_steps < self._end:
            tf.profiler.experimental.start(str(self._folder))
            self._on = True
        elif env_steps >= self._end:
            self.stop()

    def stop(self) -> None:
        """Ends it, if it is on."""
        import tensorflow as tf

        if self._on:
            tf.profiler.experimental.stop()
            self._on = False


def _next(now: int, period: int) -> int:
    return (now // period + 1) * period


def _viewing(command: flags.Command, folder: RunFolder) -> tuple[Videos | None, bool]:
    """Where episodes are recorded, and whether they are shown in a window."""
    render, record = command.flags["render"], command.flags["record_video"]
    screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if render and record and screen:
        raise UserError("--render shows episodes in a window and --record_video writes them to files: choose one.")
    if record or (render and not screen):
        if not record:
            print(f"There is no display (DISPLAY is not set): episodes are recorded, in {folder.videos}.")
        return Videos(folder.videos, command.experiment.video_codec), False
    return None, render


def _few_episodes(command: flags.Command, recorded: bool) -> tuple[flags.Command, bool]:
    """The command, and whether its test counts, where episodes are seen that nobody said the number of.

    A training is tested as it would be without being seen, and its first episodes are. Without a training only those
    are played.
    """
    episodes, few = command.experiment.test_episodes, seen_episodes(command.settings)
    seen, verb = "recorded" if recorded else "shown", "records" if recorded else "shows"
    if few is None:
        return command, True
    few = min(few, episodes)
    counts = command.flags["training"]
    if not counts:
        binding = settings.Binding("Experiment", "test_episodes", few, f"few are {seen}")
        experiment = dataclasses.replace(command.experiment, test_episodes=few)
        command = command._replace(settings={**command.settings, binding.name: binding}, experiment=experiment)
    if not command.flags["quiet"]:
        of = f"Of the test's {console.count(episodes, 'episode')} the first {few}" if counts else f"{few} episodes"
        print(f"{of} are {seen}; --test_episodes=N {verb} N.", flush=True)
    return command, counts


def _check_own(acting: Path, folder: Path) -> None:
    """Raises UserError where another user owns what would be unpickled, or a folder that it lies in."""
    if not acting.exists():
        return
    for path in (acting, acting.parent, acting.parent.parent, folder):
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise UserError(
                f"{path} belongs to another user (uid {owner}), and going on from there runs what is pickled in"
                " the checkpoint: --trust_folder does so; --training=False and ./run export unpickle nothing."
            )


def _show(reading: settings.Reading, folder: RunFolder, plan: Plan, reach: str) -> None:
    """Says what is about to run, and where each setting came from."""
    print(f"{plan.experiment.algo} on {plan.experiment.environment}, in {folder.path}")
    width = max(map(len, reading.held))
    for name, binding in sorted(reading.held.items()):
        print(f"  {name:<{width}}  {binding.value!r:<14}  {binding.origin}")
    if reading.unread:
        print(f"  not in this run, where other classes were chosen: {', '.join(b.name for b in reading.unread)}")
    print(f"  everything else has its default: {folder.path / OPERATIVE}")
    print(f"Environment: {origin(plan.experiment.environment)}")
    print(f"Network: {reach}")
    held = f"{plan.data.size:,} windows of"
    if plan.memory.on_policy:
        rollouts = console.count(plan.strategy.num_replicas_in_sync, "rollout")
        held = f"{rollouts} of {console.count(plan.lanes, 'lane')} x"
    print(
        f"Replay: {plan.data.memory}, {held} {plan.data.window} rows of {plan.rows.row_bytes()} bytes: at most"
        f" {plan.budget() / 2**20:,.0f} MiB of memory{', with what is learnt' if plan.memory.on_policy else ''}",
        flush=True,
    )


def _warn_of_no_update(parts: Parts) -> None:
    """Says where the training is too short for a single update."""
    steps, first = parts.experiment.train_steps, parts.agent.learner.first_due(parts.plan.lanes)
    if steps < first:
        print(
            f"WARNING: nothing will be learnt in {steps:,} steps: the first update comes after {first:,}.", flush=True
        )


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    stop = Stop()
    check_alone("train")
    if command.flags["copies"] is not None:
        return copies.run(command)
    if command.flags["num_workers"] > 1:
        return workers.run(command)
    folder = RunFolder(command.flags["output_dir"], command.settings)
    port = command.flags["port"]
    if port:
        from servers.ports import check_port

        check_port(port)
    checkpoints = Checkpoints(folder.checkpoints, command.experiment.kept_checkpoints, warn=print)
    unit = checkpoints.to_resume(command.flags["restart_damaged"])
    training = command.flags["training"]
    if not training and unit is None:
        raise UserError(f"There is no checkpoint in {folder.checkpoints} to test: train first, with the same flags.")
    if training and unit is not None and ACTORS in unit.state:
        raise UserError(f"{folder.path} holds a run of several processes: go on with --num_workers, as before.")
    if training and unit is not None and not command.flags["trust_folder"]:
        _check_own(unit.path / ACTING, folder.path)
    videos, window = _viewing(command, folder)
    if training and unit is not None and is_finished(folder.path, command.experiment) and not (videos or window):
        if not (folder.path / report.PAGE).exists():
            report.write([folder.path], folder.path)
        print(finished_line(folder.path))
        return 0
    counts, seen = True, seen_episodes(command.settings)
    if videos is not None or window:
        command, counts = _few_episodes(command, videos is not None)
    profile = Profile(command.flags["profile"], folder.path / "train") if command.flags["profile"] else None
    reach = network.separate(command.flags, window)
    stop.watch(leave("train"))
    log = console.NativeLog()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(command.experiment.threads)
    settings.apply(command.settings)
    plan = Plan(command.flags["sys"], command.flags["tpu"], videos=videos, window=window, stop=stop, seen_episodes=seen)
    replay = None if unit is None or ACTORS in unit.state else unit.path / "replay"
    try:
        parts = plan.build(folder.checkpoints / "replay.new", port or None, replay)
    except Exception:
        plan.close()
        raise
    try:
        reading = settings.check_all_read(command.settings)
        folder.take()
        log.keep(folder.path / NATIVE_LOG)
        if videos is not None:
            videos.start()
        operative = settings.operative()
        quiet = command.flags["quiet"]
        if training:
            folder.write(command.flags, operative, reading.held)
        if not quiet:
            _show(reading, folder, plan, reach)
        run = Run(
            parts,
            folder,
            checkpoints,
            unit,
            stop=stop,
            quiet=quiet,
            videos=videos,
            profile=profile,
            trains=training,
        )
        if training:
            run.show_settings_in_tensorboard(operative)
            _warn_of_no_update(parts)
        if training and not run.train():
            print(f"Stopped and saved; the same command goes on from here. Checkpoints: {folder.checkpoints}")
            return 0
        run.test(counts)
        if videos is not None and not quiet:
            print(f"Videos: {folder.videos}")
        if not counts:
            return 0
        if not training and not quiet:
            print(f"This test is one more line of {folder.path / RESULTS}; the report shows the newest.")
        elif not quiet:
            print(f"Report: {folder.path / report.PAGE}\nTensorBoard: ./run tensorboard --logdir={folder.path}")
            print(f"Checkpoints: {folder.checkpoints}")
    except Stopped:
        print("Stopped in the evaluation at the end, which the same command begins again." if counts else "Stopped.")
    finally:
        parts.close()
    return 0


if __name__ == "__main__":
    flags.main(main)
