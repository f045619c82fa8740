"""--num_workers: replay servers, a learner, actors and an evaluator as processes of one machine, shown as one run.

Imports no TensorFlow.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from binaries import console, network, report
from binaries.flags import Command
from binaries.lock import Lock
from binaries.processes import Process, stop_all
from binaries.run_folder import RunFolder, command_line, finished_line, is_finished, read_progress
from binaries.signals import Stop
from pipeline.envs.origin import origin
from pipeline.types import RunError, UserError
from servers.ports import check_port, free_ports

POLL_S = 0.2
LOCK = "workers.lock"
BACKOFF_S = 1.0
"""before a process is started again; twice as much each time it fails soon after"""
LONGEST_BACKOFF_S = 30.0
SOON_S = 60.0
"""a process that lives for longer has recovered"""
FAILURES = 6
"""of one process, each soon after its start, while the run comes no further: then it ends"""
USER_ERROR = 2
"""the exit status of a program that was given something which starting it again does not mend"""


class Part(NamedTuple):
    """One of the run's processes."""

    name: str
    """'actor_0'"""
    module: str
    flags: list[str]


class Kept:
    """A process that is started again when it dies."""

    def __init__(self, part: Part, output: Path):
        self.part = part
        self.done = False
        self.faults = 0
        self._output = output
        self._failures = 0
        """one soon after the other's restart: what it waits for before the next"""
        self._in_vain = 0
        """of these, while the run came no further"""
        self._furthest = 0
        """that the run ever was when this process died"""
        self._start_at = 0.0
        self._started = time.monotonic()
        self.process: Process | None = Process(part.module, part.flags, output)

    def look(self, progress: int) -> str | None:
        """Notes whether it ended, and starts it again when it is time; returns how it died, where it just did.

        `progress`: how far the run is. Raises RunError where there is no use in another try, and the process' own
        UserError where it refused what it was given.
        """
        now = time.monotonic()
        if self.done:
            return None
        if self.process is None:
            if now >= self._start_at:
                self._started = now
                self.process = Process(self.part.module, self.part.flags, self._output)
            return None
        code = self.process.code
        if code is None:
            return None
        if code == 0:
            self.done = True
            return None
        said = self.process.last_line()
        program = f"{self.part.module.rpartition('.')[2]}: "
        if code == USER_ERROR and said.startswith(program):
            raise UserError(said.removeprefix(program))
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}: {said}"
        soon, further = now - self._started < SOON_S, progress > self._furthest
        self._furthest = max(self._furthest, progress)
        self._failures = self._failures + 1 if soon else 1
        self._in_vain = self._in_vain + 1 if soon and not further else 1
        if code != USER_ERROR and self._in_vain >= FAILURES:
            how += f", {self._in_vain} times soon after its start, and the run came no further"
        if code == USER_ERROR or self._in_vain >= FAILURES:
            raise RunError(f"{self.part.name} {how} (all of it: {self._output}).")
        self.faults += 1
        self.process = None
        self._start_at = now + min(BACKOFF_S * 2 ** (self._failures - 1), LONGEST_BACKOFF_S)
        return how


class Workers:
    """All processes of one run, the replay servers first."""

    def __init__(self, command: Command):
        """Raises UserError, before anything starts, where the run could not begin or go on."""
        self._command = command
        self._experiment = command.experiment
        self._quiet = command.flags["quiet"]
        self._run_folder = RunFolder(command.flags["output_dir"], command.settings)
        self.folder = self._run_folder.path
        self._lock = Lock(self.folder, "--output_dir", LOCK)
        ports = self._ports()
        replay = ",".join(f"localhost:{port}" for port in ports)
        common = {**command.flags, **dict.fromkeys(("num_workers", "copies", "output_dir", "port", "shards"))}
        words = command_line({**common, "sys": "local", "tpu": None, "quiet": True})
        learner = command_line({**common, "output_dir": str(self.folder), "quiet": True})
        count = command.flags["num_workers"]
        self._servers = [
            Part(
                f"replay_{shard}",
                "binaries.replay_server",
                [*words, f"--port={port}", f"--shards={len(ports)}", f"--checkpoint_dir={self.folder}/replay_{shard}"],
            )
            for shard, port in enumerate(ports)
        ]
        self._learner = Part("learner", "binaries.learner", [*learner, f"--replay={replay}"])
        self._evaluator = Part(
            "evaluator", "binaries.evaluator", [*words, f"--replay={replay}", f"--output_dir={self.folder}"]
        )
        self._actors = [
            Part(
                f"actor_{actor}",
                "binaries.actor",
                [*words, f"--replay={replay}", f"--actor_id={actor}", f"--num_actors={count}"],
            )
            for actor in range(count)
        ]
        self._kept: dict[str, Kept] = {}

    def _ports(self) -> list[int]:
        """Of the replay servers: --port and those after it, or free ones."""
        first, count = self._command.flags["port"], self._command.flags["shards"]
        if not first:
            return free_ports(count)
        for port in range(first, first + count):
            check_port(port)
        return list(range(first, first + count))

    def run(self) -> bool:
        """Returns whether the training came to its end (False: a signal asked to stop); raises RunError.

        Raises UserError where one of the processes refuses what it was given.
        """
        stop = Stop()
        self._lock.take()
        status = console.Status(self._quiet)
        try:
            for part in (*self._servers, self._learner, *self._actors, self._evaluator):
                self._kept[part.name] = Kept(part, self.folder / "logs" / f"{part.name}.log")
            while not stop() and not (self._done(self._learner) and self._done(self._evaluator)):
                time.sleep(POLL_S)
                progress = self._progress()
                for kept in self._kept.values():
                    how = kept.look(progress)
                    if how is not None:
                        status.warn(f"{kept.part.name} {how}; it is started again.")
                        self._run_folder.note_fault(kept.part.name, how)
                    said = kept.process and kept.process.log.limit()
                    if said:
                        status.warn(said)
                self._run_folder.write_faults()
                if status.due():
                    self._show(status)
        finally:
            status.clear()
            # Those who write first, those who keep it last.
            self._end([*self._actors, self._evaluator])
            self._end([self._learner])
            self._end(self._servers)
        return not stop()

    def _progress(self) -> int:
        now = read_progress(self.folder)
        return 0 if now is None else now["env_steps"] + now["updates"]

    def _done(self, part: Part) -> bool:
        return self._kept[part.name].done

    def _end(self, parts: Sequence[Part]) -> None:
        kept = [self._kept[part.name] for part in parts if part.name in self._kept]
        stop_all(k.process for k in kept if k.process is not None)

    def _show(self, status: console.Status) -> None:
        """Shows how far the run is."""
        now = read_progress(self.folder)
        running = sum(kept.process is not None and not kept.done for kept in self._kept.values())
        faults = sum(kept.faults for kept in self._kept.values())
        if now is None:
            status.line(f"starting: {console.count(running, 'process', 'processes')}")
            return
        total = self._experiment.train_steps
        text = f"{console.count(running, 'process', 'processes')}, {console.count(faults, 'restart')}"
        processes = console.Field(text, 3)
        status.progress(now["env_steps"] / total, [*console.figures(now, total), processes])


def run(command: Command) -> int:
    """Runs `command` with --num_workers actors, then says where its results are."""
    if not command.flags["training"]:
        raise UserError("--training=False tests what was trained: leave --num_workers out.")
    if command.experiment.exclusive_environment:
        raise UserError(
            "Experiment.exclusive_environment allows one environment, and each of the actors and the evaluator of"
            " --num_workers has one: leave --num_workers out."
        )
    # All of its processes are to share one network.
    reach = network.separate(command.flags)
    workers = Workers(command)
    folder = workers.folder
    if is_finished(folder, command.experiment):
        print(finished_line(folder))
        return 0
    quiet = command.flags["quiet"]
    if not quiet:
        print(
            f"{command.experiment.algo} on {command.experiment.environment} with {command.flags['num_workers']} actors,"
            f" in {folder}; what each process says: {folder / 'logs'}\n"
            f"Environment: {origin(command.experiment.environment)}\n"
            f"Network: {reach}",
            flush=True,
        )
    is_new = not folder.exists()
    try:
        finished = workers.run()
    except UserError:
        if is_new and read_progress(folder) is None:
            # What is refused leaves nothing behind.
            shutil.rmtree(folder)
        raise
    if not finished:
        print("Stopped and saved; the same command goes on from here.")
        return 0
    print((folder / "logs" / "evaluator.log").read_text().strip().splitlines()[-1])
    if not quiet:
        print(f"Report: {folder / report.PAGE}\nTensorBoard: ./run tensorboard --logdir={folder}")
    return 0
