"""Environments in processes of their own, for worlds whose step costs more than handing its results over."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import multiprocessing
import random
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import dm_env.specs as specs
import numpy as np
import tree

from pipeline.envs import generators
from pipeline.envs.block import Block, InProcess, Result
from pipeline.envs.closing import close, keep
from pipeline.envs.crashes import Hang
from pipeline.envs.environment import Environment
from pipeline.envs.notices import keep_quiet_of, said
from pipeline.types import Nest, RunError, UserError

START_S = 300.0
"""that a new process may take to make its environments"""
CLOSE_S = 5.0
"""that it may take to close them before it is killed"""
PR_SET_PDEATHSIG = 1
ALIGNMENT = 64
"""bytes"""


class WorkerError(Exception):
    """What happened to an environment in another process."""


class _Shared:
    """Arrays [E, ...] in memory that all processes see: what lanes are told, and what they answer."""

    def __init__(self, memory: Any, observation_spec: Nest, action_spec: Nest, lanes: int):
        scalar = lambda dtype: specs.Array((), dtype)  # noqa: E731
        place = 0

        def view(spec: specs.Array) -> np.ndarray:
            nonlocal place
            count = lanes * math.prod(spec.shape)
            array = np.frombuffer(memory, spec.dtype, count, place).reshape(lanes, *spec.shape)
            place += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
            return array

        self.observation = tree.map_structure(view, observation_spec)
        self.action = tree.map_structure(view, action_spec)
        self.waiting, self.reward, self.done = map(view, map(scalar, (np.bool_, np.float32, np.int8)))

    @staticmethod
    def size(observation_spec: Nest, action_spec: Nest, lanes: int) -> int:
        """Bytes that the arrays need."""
        leaves = [*tree.flatten(observation_spec), *tree.flatten(action_spec)]
        widths = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves] + [1, 4, 1]
        return sum(lanes * width + ALIGNMENT for width in widths)


class _Worker:
    """A process that steps the lanes `begin` to `end`."""

    def __init__(self, context: Any, makers: Sequence[Callable[[], Environment]], arguments: tuple, begin: int):
        self._context = context
        self._arguments = (list(makers), *arguments, begin)
        self.lanes = range(begin, begin + len(makers))
        self.start()

    def start(self) -> None:
        self.pipe, there = self._context.Pipe()
        # Of the process's global generators: this one's are seeded by the run.
        seed = random.getrandbits(31)
        self._process = self._context.Process(target=_serve, args=(there, *self._arguments, seed), daemon=True)
        self._process.start()
        there.close()
        self.is_lost = False

    def send(self, name: str, argument: Any) -> None:
        with contextlib.suppress(OSError):  # one that is gone shows when its answer is read
            self.pipe.send((name, argument))

    def end(self, patience: float) -> None:
        """Waits for it to end, and makes it."""
        self.pipe.close()
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self.is_lost = True


class Processes(Block):
    """Lanes spread evenly over processes.

    gymnasium's AsyncVectorEnv shares memory and begins episodes as Encore does, but it gives every lane a process of
    its own, and one that dies or hangs ends it; so this is not built on it.
    """

    def __init__(self, makers: Sequence[Callable[[], Environment]], processes: int, timeout: float):
        """`makers`: of each lane's environment, picklable. `timeout`: seconds that a step of all lanes may take."""
        one = makers[0]()
        self.observation_spec, self.action_spec, self.frame_rate = one.observation_spec, one.action_spec, one.frame_rate
        close(one)
        self.failures = {}
        self._timeout = timeout
        parts = (self.observation_spec, self.action_spec, len(makers))
        known = said()
        context = multiprocessing.get_context("spawn")
        memory = context.RawArray("b", _Shared.size(*parts))
        self._shared = _Shared(memory, *parts)
        bounds = np.linspace(0, len(makers), min(processes, len(makers)) + 1).astype(int).tolist()
        self._workers = [
            _Worker(context, makers[begin:end], (memory, *parts, known), begin)
            for begin, end in itertools.pairwise(bounds)
        ]
        keep(self)
        self._await_start(self._workers)

    def __len__(self) -> int:
        return self._workers[-1].lanes.stop

    def reset(self, seeds: Sequence[int | None]) -> Nest:
        for worker in self._workers:
            worker.send("reset", [seeds[lane] for lane in worker.lanes])
        # The first one may start a simulator.
        self._answers(self._workers, START_S)
        return self._states()

    def step(self, actions: Nest, waiting: np.ndarray | None = None) -> Result:
        tree.map_structure(np.copyto, self._shared.action, actions)
        self._shared.waiting[:] = False if waiting is None else waiting
        for worker in self._workers:
            worker.send("step", None)
        self._answers(self._workers, self._timeout)
        return self._states(), self._shared.reward.copy(), self._shared.done.copy()

    def renew(self, lane: int) -> Sequence[int]:
        worker = next(worker for worker in self._workers if lane in worker.lanes)
        if worker.is_lost:
            worker.start()
            self._await_start([worker])
            return worker.lanes
        worker.send("renew", lane - worker.lanes.start)
        self._answers([worker], START_S)
        return [lane]

    def state(self) -> Any | None:
        for worker in self._workers:
            worker.send("state", None)
        states = self._answers(self._workers, self._timeout)
        return states if len(states) == len(self._workers) and None not in states else None

    def restore(self, state: Any) -> None:
        for worker, own in zip(self._workers, state, strict=True):
            worker.send("restore", own)
        self._answers(self._workers, self._timeout)

    def close(self) -> None:
        for worker in self._workers:
            worker.send("close", None)
        for worker in self._workers:
            if not worker.is_lost:
                worker.end(CLOSE_S)

    def _states(self) -> Nest:
        return tree.map_structure(np.copy, self._shared.observation)

    def _await_start(self, workers: Sequence[_Worker]) -> None:
        """Waits until new processes made their environments; raises RunError where one does not."""
        earlier, self.failures = self.failures, {}
        self._answers(workers, START_S)
        failures, self.failures = self.failures, earlier
        if failures:
            raise RunError(f"A process could not make its environments: {next(iter(failures.values()))}")

    def _answers(self, workers: Sequence[_Worker], timeout: float) -> list[Any]:
        """What `workers` answer within `timeout` seconds; one that does not is lost, and its first lane has failed."""
        for worker in workers:
            if worker.is_lost:
                self.failures[worker.lanes.start] = WorkerError("its process is gone")
        missing = {worker.pipe: worker for worker in workers if not worker.is_lost}
        deadline = time.monotonic() + timeout
        answers: dict[int, Any] = {}
        try:
            while missing and (left := deadline - time.monotonic()) > 0:
                for pipe in wait(list(missing), left):
                    assert isinstance(pipe, Connection)
                    worker = missing.pop(pipe)
                    try:
                        failures, answers[worker.lanes.start] = worker.pipe.recv()
                    except (EOFError, OSError):
                        self._lose(worker, "its process died", CLOSE_S)
                    else:
                        for lane, (kind, said, its_traceback) in failures.items():
                            self.failures[worker.lanes.start + lane] = error = kind(said)
                            error.add_note(its_traceback)
        except Hang:  # the run's own alarm, in the main thread
            pass
        for worker in missing.values():
            self._lose(worker, f"its process did not answer in {timeout:.0f} s", 0.0)
        return [answers[start] for start in sorted(answers)]

    def _lose(self, worker: _Worker, reason: str, patience: float) -> None:
        worker.end(patience)
        self.failures[worker.lanes.start] = WorkerError(reason)


def _serve(
    pipe: Connection,
    makers: list[Callable[[], Environment]],
    memory: Any,
    observation_spec: Nest,
    action_spec: Nest,
    lanes: int,
    known: frozenset[str],
    begin: int,
    seed: int,
) -> None:
    """The life of a process: every message is answered by the failures since the one before, and a result.

    `known`: what a user was told of the environments already. `seed`: of the process's global generators.
    """
    keep_quiet_of(known)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, who decides
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    shared = _Shared(memory, observation_spec, action_spec, lanes)
    own = slice(begin, begin + len(makers))
    observation, action = (
        tree.map_structure(lambda leaf: leaf[own], nest) for nest in (shared.observation, shared.action)
    )
    generators.seed(seed)
    try:
        block = InProcess(makers)
    except Exception as error:
        pipe.send(({0: _told(error)}, None))
        return
    pipe.send(({}, None))

    def reset(seeds: list[int | None]) -> None:
        if seeds[0] is not None:
            generators.seed(seeds[0])
        tree.map_structure(np.copyto, observation, block.reset(seeds))

    def renew(lane: int) -> None:
        try:
            block.renew(lane)
        except Exception as error:
            block.failures[lane] = error

    def step(_: None) -> None:
        states, shared.reward[own], shared.done[own] = block.step(action, shared.waiting[own])
        tree.map_structure(np.copyto, observation, states)

    def restore(state: Any) -> None:
        block.restore(state[0])
        generators.restore(state[1])

    calls: dict[str, Callable[[Any], Any]] = {
        "reset": reset,
        "step": step,
        "renew": renew,
        "state": lambda _: None if (state := block.state()) is None else (state, generators.state()),
        "restore": restore,
    }
    with contextlib.suppress(EOFError, OSError):
        while (message := pipe.recv())[0] != "close":
            name, argument = message
            result = calls[name](argument)
            pipe.send(({lane: _told(error) for lane, error in block.failures.items()}, result))
            block.failures.clear()
    block.close()


def _told(error: Exception) -> tuple[type[Exception], str, str]:
    """An error, as which kind and what it is told, and its traceback: not every one can be pickled."""
    its_traceback = "".join(traceback.format_exception(error))
    if isinstance(error, UserError):
        return UserError, str(error), its_traceback
    return WorkerError, f"{type(error).__name__}: {error}".rstrip(": "), its_traceback
