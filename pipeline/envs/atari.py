"""Atari 2600 games (Bellemare et al. 2013), prepared and stepped inside the Arcade Learning Environment's library."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import dm_env.specs as specs
import numpy as np

from pipeline import index
from pipeline.checks import check_fraction, check_positive
from pipeline.envs.block import Block, Result
from pipeline.envs.environment import Done
from pipeline.envs.extras import need
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.frames import Frames, Stacks
from pipeline.types import Nest, UserError

PICTURE_SCALE = 4
"""sides of a recorded picture, in those of a frame"""


@ENVIRONMENTS.register("atari")
class Atari(Block):
    """A game whose states are the last frames u8 [frames, height, width, 1], grey, and whose rewards are the score's.

    The defaults are the protocol of Machado et al. 2018: sticky actions, no word of a lost life. Reward is clipped in
    the learner (`Learner.reward_augmentation`), so that returns are the game's own. Where a lost life ends an episode
    of training, the next one goes on with the same game; evaluation plays whole games.
    """

    def __init__(
        self,
        name: str,
        lanes: int = 1,
        training: bool = True,
        pictures: bool = False,
        frame_skip: int = 4,
        sticky_actions: float = 0.25,
        full_action_set: bool = False,
        life_loss_ends: bool = False,
        noops: int = 0,
        fire_at_start: bool = False,
        max_frames: int = 108_000,
        frames: int = 4,
        height: int = 84,
        width: int = 84,
        threads: int = 1,
    ):
        """`name`: of the ROM, 'pong' or 'ms_pacman'. `frame_skip`: frames an action lasts; a state shows each pixel's
        larger value of the last two. `sticky_actions`: the probability, at each frame, that the action before is taken
        again. `noops`: the most actions that do nothing at a game's start. `max_frames`: of a game, 60 a second.

        `threads`: of the library, that share the lanes.
        """
        check_positive("Atari", frame_skip=frame_skip, frames=frames, height=height, width=width, threads=threads)
        check_fraction("Atari", sticky_actions=sticky_actions)
        ale = need("ale_py", "atari")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        known = need("ale_py.roms", "atari").get_all_rom_ids()
        if name not in known:
            raise UserError(f"There is no Atari game '{name}'; {index.near(name, known)}")
        self._make = functools.partial(
            need("ale_py.vector_env", "atari").AtariVectorEnv,
            name,
            lanes,
            num_threads=min(threads, lanes),
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=sticky_actions,
            full_action_space=full_action_set,
            img_height=height,
            img_width=width,
            # Its stacks begin with black frames, and those that are learnt from do not.
            stack_num=1,
            frameskip=frame_skip,
            noop_max=noops,
            episodic_life=life_loss_ends and training,
            reward_clipping=False,
            use_fire_reset=fire_at_start,
        )
        self._games = self._make()
        self.failures = {}
        self.frame_rate = 60.0 / frame_skip
        picture = specs.BoundedArray((height, width, 1), np.uint8, 0, 255)
        self.observation_spec = Frames(picture, frames)
        self.action_spec = specs.DiscreteArray(int(self._games.single_action_space.n), np.int32)
        self._frame_shape = (lanes, height, width, 1)
        self._stacks = Stacks(self.observation_spec, lanes)
        self._begins = True
        """whether all lanes begin with the next step"""
        self._ended = np.ones(lanes, bool)
        """lanes that begin with the next step"""
        self._state = np.zeros((lanes, *self.observation_spec.shape), np.uint8)

    def __len__(self) -> int:
        return len(self._state)

    def reset(self, seeds: Sequence[int | None]) -> Nest:
        own = None if None in seeds else np.array(seeds)
        self._begins = False
        self._ended[:] = True
        return self._seen(self._games.reset(seed=own)[0], np.zeros(len(self), bool))

    def step(self, actions: Nest, waiting: np.ndarray | None = None) -> Result:
        if self._begins:
            lanes = len(self)
            return self.reset([None] * lanes), np.zeros(lanes, np.float32), np.zeros(lanes, np.int8)
        state, reward, terminated, truncated, _ = self._games.step(actions)
        done = np.where(terminated, Done.TERMINATED, np.where(truncated, Done.TRUNCATED, Done.NO))
        return self._seen(state, done != Done.NO), reward.astype(np.float32), done.astype(np.int8)

    def renew(self, lane: int) -> Sequence[int]:
        self._games.close()
        self._games = self._make()
        self._begins = True
        return range(len(self))

    def render(self) -> np.ndarray:
        """The newest frame, as the agent sees it."""
        frame = np.kron(self._state[0, -1], np.ones((PICTURE_SCALE, PICTURE_SCALE, 1), np.uint8))
        return np.repeat(frame, 3, axis=-1)

    def close(self) -> None:
        self._games.close()

    def _seen(self, frames: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """The states that end with `frames`; `ended` [E]: where the episode does too."""
        self._state = self._stacks.push(frames.reshape(self._frame_shape), self._ended)
        self._ended = ended
        return self._state
