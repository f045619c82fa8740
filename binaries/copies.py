"""--copies: independent runs of one command, several at once, with one progress display. Imports no TensorFlow."""

from __future__ import annotations

import os
import time
from pathlib import Path

from binaries import console, report
from binaries.flags import Command
from binaries.processes import Process, stop_all
from binaries.run_folder import RunFolder, command_line, is_finished, read_progress
from binaries.settings import Binding
from binaries.signals import Stop
from pipeline.envs.origin import origin
from pipeline.types import RunError, UserError

POLL_S = 0.2
OUTPUT = "output.log"


class Copies:
    """The runs `run_0` ... below the output folder; copy i has the seed of the command plus i."""

    def __init__(self, command: Command):
        """Raises UserError, before anything starts, where one of them could not begin or go on."""
        if command.flags["port"]:
            raise UserError("--port names one replay server's port, and each of --copies has a server: leave it out.")
        if not command.flags["output_dir"]:
            raise UserError("No folder was chosen for the runs: add --output_dir=FOLDER.")
        self._experiment = command.experiment
        self._quiet = command.flags["quiet"]
        self._folder = Path(command.flags["output_dir"]).expanduser().absolute()
        count = command.flags["copies"]
        self._flags = [
            {
                **command.flags,
                "copies": None,
                "quiet": True,
                "seed": self._experiment.seed + copy,
                "output_dir": str(self._folder / f"run_{copy}"),
            }
            for copy in range(count)
        ]
        self._running: dict[int, Process] = {}
        self._failed: dict[int, str] = {}
        self._done: set[int] = set()
        if command.flags["training"]:
            self._done = {i for i in range(count) if is_finished(self.folder(i), self._experiment)}
        for i in self._done:
            # What another experiment finished there is no copy of this one.
            seed = Binding("Experiment", "seed", self._flags[i]["seed"], "--copies")
            RunFolder(str(self.folder(i)), {**command.settings, seed.name: seed})

    def folder(self, copy: int) -> Path:
        """Of the copy's run."""
        return Path(self._flags[copy]["output_dir"])

    def run(self) -> bool:
        """Returns whether all came to their end (False: a signal asked to stop); raises RunError where one failed."""
        stop = Stop()
        waiting = [copy for copy in range(len(self._flags)) if copy not in self._done]
        at_once = len(os.sched_getaffinity(0))
        status = console.Status(self._quiet)
        try:
            while (waiting or self._running) and not stop():
                while waiting and len(self._running) < at_once:
                    copy = waiting.pop(0)
                    words = command_line(self._flags[copy])
                    self._running[copy] = Process("binaries.train", words, self.folder(copy) / OUTPUT)
                time.sleep(POLL_S)
                self._collect(status)
                for process in self._running.values():
                    said = process.log.limit()
                    if said:
                        status.warn(said)
                if status.due():
                    self._show(status)
        finally:
            status.clear()
            stop_all(self._running.values())
        if self._failed:
            copy, said = next(iter(self._failed.items()))
            raise RunError(
                f"{len(self._failed)} of {console.count(len(self._flags), 'copy', 'copies')} failed, first run_{copy}:"
                f" {said} (all of it: {self.folder(copy) / OUTPUT}). The same command goes on with what is not"
                " finished."
            )
        return not stop()

    def _collect(self, status: console.Status) -> None:
        """Takes note of the copies that ended."""
        for copy, process in list(self._running.items()):
            if process.code is None:
                continue
            del self._running[copy]
            if process.code:
                self._failed[copy] = process.last_line()
                status.warn(f"run_{copy} failed: {process.last_line()}")
            else:
                self._done.add(copy)
                status.warn(f"run_{copy}: {process.last_line()}")

    def _show(self, status: console.Status) -> None:
        """Shows how far the copies are, and when the last one will be done if they go on like this."""
        total, count = self._experiment.train_steps, len(self._flags)
        nows = {copy: read_progress(self.folder(copy)) for copy in self._running}
        known = [now for now in nows.values() if now is not None]
        steps = total * len(self._done) + sum(min(now["env_steps"], total) for now in known)
        rate = sum(now["env_steps_per_second"] for now in known)
        returns = [now["episode_return"] for now in known if now["episode_return"] is not None]
        together = {
            "env_steps": steps,
            "updates": sum(now["updates"] for now in known),
            "episode_return": sum(returns) / len(returns) if returns else None,
            "env_steps_per_second": rate,
            "updates_per_second": sum(now["updates_per_second"] for now in known),
            "seconds_left": (total * (count - len(self._failed)) - steps) / rate if rate > 0 else None,
        }
        each = [
            f"run_{copy} starts"
            if now is None
            else f"run_{copy} {now['env_steps'] / total:.0%}, return {console.number(now['episode_return'])}"
            for copy, now in nows.items()
        ]
        done = console.Field(
            f"{len(self._done)} of {console.count(count, 'copy', 'copies')} done", console.ESSENTIAL - 1
        )
        fields = console.figures(together, total * count)
        status.progress(steps / (total * count), [done, *fields, *(console.Field(text, 3) for text in each)])


def run(command: Command) -> int:
    """Runs the copies of `command`, then writes the report of them all."""
    copies = Copies(command)
    folder = RunFolder(command.flags["output_dir"], {})
    folder.take()
    quiet = command.flags["quiet"]
    if not quiet:
        print(
            f"{console.count(command.flags['copies'], 'copy', 'copies')} of {command.experiment.algo} on"
            f" {command.experiment.environment}, in {folder.path}\n"
            f"Environment: {origin(command.experiment.environment)}",
            flush=True,
        )
    if not copies.run():
        print("Stopped and saved; the same command goes on from here.")
        return 0
    console.NativeLog()
    text = report.write([folder.path], folder.path)
    if not quiet:
        print(f"\n{text}\nReport: {folder.path / report.PAGE}")
    return 0
