"""First-person worlds of Doom by scenario: 'vizdoom:basic', 'vizdoom:my_way_home'."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import cv2
import dm_env.specs as specs
import numpy as np

from pipeline import index
from pipeline.checks import check_positive
from pipeline.envs import extras
from pipeline.envs.environment import Done, Environment
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import UserError

TICS = 35
"""of the game in a second"""
MULTIPLAYER = ("cig", "multi", "multi_duel")
"""scenarios that wait for other players; started alone, some of them end Python with a segmentation fault"""

# What the game's process does first: else it leaves files where the run is, ends at the Ctrl-C that asks the run to
# stop, and outlives a run that is killed.
START = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
os.setpgrp()
os.chdir(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
"""


@ENVIRONMENTS.register("vizdoom")
class VizDoom(Environment):
    """A scenario that comes with ViZDoom, for one player.

    States: pictures u8 [height, width, 1 or 3], the channels being grey or red, green and blue.
    Actions: 0 presses nothing, i the scenario's button i, one at a time; those that take an amount, as a mouse does,
    are left out.
    Endings: death and the scenario's own end terminate, its time limit truncates. The game draws nothing after it has
    ended an episode: the state of a terminated one is the last that it drew. A truncated one has its true final state.
    """

    def __init__(
        self,
        name: str,
        resolution: str = "160x120",
        height: int = 60,
        width: int = 80,
        grey: bool = True,
        frame_skip: int = 4,
    ):
        """`resolution`: of the game's own screen, which `render` shows and states are scaled from.

        `height`, `width`: of a state, in pixels; `frame_skip`: tics of the game (1/35 s) that an action lasts.
        Raises UserError where there is no such scenario or resolution. The game starts with the first `reset`.
        """
        check_positive("VizDoom", height=height, width=width, frame_skip=frame_skip)
        vizdoom = extras.need("vizdoom", "vizdoom")
        scenarios = {path.stem: path for path in Path(vizdoom.scenarios_path).glob("*.cfg")}
        known = scenarios.keys() - set(MULTIPLAYER)
        if name not in known:
            raise UserError(f"ViZDoom has no scenario '{name}' for one player; {index.near(name, known)}")
        resolutions = {key[4:].lower(): value for key, value in vizdoom.ScreenResolution.__members__.items()}
        if resolution not in resolutions:
            raise UserError(f"VizDoom.resolution is '{resolution}'; {index.near(resolution, resolutions)}")

        self._game: Any = vizdoom.DoomGame()
        self._game.load_config(str(scenarios[name]))
        buttons = [b for b in self._game.get_available_buttons() if not vizdoom.is_delta_button(b)]
        self._game.set_available_buttons(buttons)
        self._game.set_screen_resolution(resolutions[resolution])
        self._game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self._game.set_window_visible(False)
        self._game.set_sound_enabled(False)
        self._game.set_audio_buffer_enabled(False)
        self._game.set_automap_buffer_enabled(False)
        # The game draws nothing after its own time limit, so it is kept here.
        timeout = self._game.get_episode_timeout()
        self._deadline = self._game.get_episode_start_time() + timeout if timeout else math.inf
        self._game.set_episode_timeout(0)
        package = Path(vizdoom.root_path)
        levels = package / Path(self._game.get_doom_game_path() or "freedoom2.wad").name
        if not levels.exists():
            raise UserError(f"ViZDoom's '{name}' needs {levels.name}, which is not free: put yours at {levels}.")
        self._game.set_doom_game_path(str(levels))
        folder = Path(tempfile.mkdtemp(prefix="vizdoom"))
        # At the end of the program too.
        self._end = weakref.finalize(self, _end, self._game, folder)
        self._game.set_vizdoom_path(_starter(folder, package / "vizdoom"))

        self._frame_skip = frame_skip
        self._grey = grey
        self._pressed = np.eye(len(buttons) + 1)[:, 1:].tolist()
        """what each action does to the buttons"""
        self.observation_spec = specs.BoundedArray((height, width, 1 if grey else 3), np.uint8, 0, 255)
        self.action_spec = specs.DiscreteArray(len(self._pressed), np.int32)
        self.frame_rate = TICS / frame_skip
        self._screen = np.zeros((self._game.get_screen_height(), self._game.get_screen_width(), 3), np.uint8)

    def _begin(self, seed: int | None) -> np.ndarray:
        if seed is not None:
            self._game.set_seed(seed)
        if self._game.is_running():
            self._game.new_episode()
        else:
            self._game.init()
        self._screen = self._game.get_state().screen_buffer
        return self._scaled()

    def _advance(self, action: np.ndarray) -> tuple[np.ndarray, float, Done]:
        tics = min(self._frame_skip, self._deadline - self._game.get_episode_time())
        reward = self._game.make_action(self._pressed[int(action)], tics)
        if self._game.is_episode_finished():
            return self._scaled(), reward, Done.TERMINATED
        self._screen = self._game.get_state().screen_buffer
        timed_out = self._game.get_episode_time() >= self._deadline
        return self._scaled(), reward, Done.TRUNCATED if timed_out else Done.NO

    def _scaled(self) -> np.ndarray:
        """The screen as a state."""
        height, width, channels = self.observation_spec.shape
        picture = cv2.resize(self._screen, (width, height), interpolation=cv2.INTER_AREA)
        if self._grey:
            picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return picture.reshape(height, width, channels)

    def render(self) -> np.ndarray:
        return self._screen

    def close(self) -> None:
        self._end()


def _end(game: Any, folder: Path) -> None:
    game.close()
    shutil.rmtree(folder, ignore_errors=True)


def _starter(folder: Path, game: Path) -> str:
    """A program in `folder` that becomes the game."""
    program = folder / "start"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-Ic", START, str(folder), str(game)])} "$@"\n')
    program.chmod(0o700)
    if not os.access(program, os.X_OK):
        raise UserError(
            f"ViZDoom starts a program in {folder.parent}, where none may run: set TMPDIR to another folder."
        )
    return str(program)
