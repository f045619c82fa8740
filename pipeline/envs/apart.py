"""An environment in a process of its own: for simulators that end theirs, or of which a process bears only one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
import warnings
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np

from pipeline.envs.environment import Done, Environment
from pipeline.envs.guard import Quit, failure, guarded
from pipeline.types import Nest, RunError, UserError

ANSWER_S = 600.0
"""that the other process may take to start, to load a scene, or to step"""
CLOSE_S = 10.0
"""that it may take to end before it is killed"""
SERVE = "import sys; from pipeline.envs.apart import serve; serve(int(sys.argv[1]))"


class Apart(Environment):
    """An environment that lives in a Python of its own, which ends when this one does.

    That is started as a command, since multiprocessing gives its own daemonic processes no children.
    """

    def __init__(self, kind: type[Environment], *arguments: Any):
        """The other process makes `kind(*arguments)`; raises UserError where that does, or ends the process."""
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                # Ctrl-C is for this process, which then closes the other.
                start_new_session=True,
            )
        try:
            self.observation_spec, self.action_spec, self.frame_rate = self._ask(kind, *arguments)
        except ChildProcessError as error:
            raise UserError(f"{kind.__name__} cannot be made: {error}.") from error
        except Exception:
            self.close()
            raise

    def _begin(self, seed: int | None) -> Nest:
        return self._ask("reset", seed)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        return self._ask("step", action)

    def _read(self, state: Nest, /) -> Nest:
        return state  # read there

    def own_observation(self) -> Nest:
        return self._ask("own_observation")

    def own_action(self) -> Nest:
        return self._ask("own_action")

    def render(self) -> np.ndarray:
        return self._ask("render")

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, what: Any, *arguments: Any) -> Any:
        try:
            self._pipe.send((what, *arguments))
            if not self._pipe.poll(ANSWER_S):
                raise RunError(f"The environment's process {self._process.pid} did not answer within {ANSWER_S:.0f} s.")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            code = self._process.wait(CLOSE_S)
            raise ChildProcessError(f"its process ended with code {code}, and its own message stands above") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def serve(descriptor: int) -> None:
    """Makes an environment and answers for it, until the other end of the connection closes."""
    # gym needs pygame 2.1, which imports what setuptools warns about.
    warnings.filterwarnings("ignore", "pkg_resources is deprecated")
    environment: Environment | None = None
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, ConnectionError):
        while True:
            what, *arguments = pipe.recv()
            try:
                if environment is None:
                    environment = what(*arguments)
                    assert environment is not None
                    answer = environment.observation_spec, environment.action_spec, environment.frame_rate
                else:
                    answer = getattr(environment, what)(*arguments)
            except BaseException as error:
                answer = _portable(failure(error))
            pipe.send(answer)
    if environment is not None:
        with guarded():
            environment.close()


def _portable(error: Exception) -> Exception:
    """`error`, as one that can be pickled; its own class may be one that cannot."""
    if isinstance(error, UserError):
        return error
    said = Quit(str(error)) if isinstance(error, Quit) else RuntimeError(f"{type(error).__name__}: {error}")
    said.add_note("".join(traceback.format_exception(error)))
    return said
