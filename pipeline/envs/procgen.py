"""The sixteen games of Procgen (Cobbe et al. 2020), CoinRun among them, stepped inside their library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dm_env.specs as specs
import numpy as np

from pipeline import index
from pipeline.envs.block import Block, Result
from pipeline.envs.environment import Done
from pipeline.envs.extras import need
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import Nest, UserError

ANOTHER_LEVEL = -1
"""the action that ends a level, and begins another"""
TIME_LIMITS = {"bigfish": 6_000, "bossfight": 4_000, "plunder": 4_000, "leaper": 500, "maze": 500}
"""steps after which a level is cut, where that is not the usual number"""
USUAL_LIMIT = 1_000
MODES = ("easy", "hard", "extreme", "memory", "exploration")


@ENVIRONMENTS.register("procgen")
class Procgen(Block):
    """Levels of a game; states are pictures u8 [64, 64, 3], and there are 15 actions.

    Training plays `num_levels` levels from `start_level` on, and evaluation all levels (Cobbe et al. 2020, section
    2.2). The library begins the next level in the step that ended one, and draws no picture of a level's end: the
    picture before stands for it. The step that Encore spends on beginning an episode asks for another level.
    """

    held_out = True
    frame_rate = 15.0

    def __init__(
        self,
        name: str,
        lanes: int = 1,
        training: bool = True,
        pictures: bool = False,
        mode: str = "easy",
        num_levels: int = 200,
        start_level: int = 0,
        cut_is_end: bool = False,
        threads: int = 0,
    ):
        """`name`: 'coinrun', or 'procgen-coinrun-v0' as in gym. `mode`: 'easy', 'hard', and what else the game has.

        `num_levels`: of training; 0 for all. `cut_is_end`: whether a level that is cut by its time limit counts as
        terminated, as in the library's own reports of an ending. `threads`: of the library, that share the lanes.
        """
        library = need("procgen.env", "procgen")
        game = name.removeprefix("procgen-").removesuffix("-v0")
        if game not in library.ENV_NAMES:
            raise UserError(f"There is no Procgen game '{game}'; {index.near(game, library.ENV_NAMES)}")
        if mode not in MODES:
            raise UserError(f"Procgen.mode is '{mode}'; {index.near(mode, MODES)}")
        self._arguments: dict[str, Any] = {
            "num": lanes,
            "env_name": game,
            "distribution_mode": mode,
            "num_threads": threads,
            "render_mode": "rgb_array" if pictures else None,
        }
        if mode != "exploration":
            self._arguments |= {"num_levels": num_levels if training else 0, "start_level": start_level}
        self._make = library.ProcgenGym3Env
        self._limit = TIME_LIMITS.get(game, USUAL_LIMIT)
        self._cut = Done.TERMINATED if cut_is_end else Done.TRUNCATED
        self.failures = {}
        self.observation_spec = specs.BoundedArray((64, 64, 3), np.uint8, 0, 255)
        self.action_spec = specs.DiscreteArray(15, np.int32)
        self._begin(None)

    def __len__(self) -> int:
        return self._arguments["num"]

    def reset(self, seeds: Sequence[int | None]) -> Nest:
        if None not in seeds:
            self._games.close()
            self._begin(int(np.random.SeedSequence(seeds).generate_state(1)[0] >> 1))  # pyright: ignore[reportArgumentType]
        else:
            self._games.act(np.full(len(self), ANOTHER_LEVEL, np.int32))
        self._ended[:] = False
        self._steps[:] = 0
        self._state = self._pictures()
        return self._state

    def step(self, actions: Nest, waiting: np.ndarray | None = None) -> Result:
        begins = self._ended
        self._games.act(np.where(begins, ANOTHER_LEVEL, actions).astype(np.int32))
        reward, seen, first = self._games.observe()
        self._steps = np.where(begins, 0, self._steps + 1)
        ended = first & ~begins
        done = np.where(ended, np.where(self._steps >= self._limit, self._cut, Done.TERMINATED), Done.NO)
        state = seen["rgb"]  # the library gives copies
        state[ended] = self._state[ended]
        self._state, self._ended = state, ended
        return state, np.where(begins, 0, reward).astype(np.float32), done.astype(np.int8)

    def renew(self, lane: int) -> Sequence[int]:
        self._games.close()
        self._begin(None)
        return range(len(self))

    def render(self) -> np.ndarray:
        return self._games.get_info()[0]["rgb"]

    def state(self) -> Any | None:
        return {"games": self._games.get_state(), "own": (self._state, self._ended, self._steps)}

    def restore(self, state: Any) -> None:
        self._games.set_state(state["games"])
        self._state, self._ended, self._steps = state["own"]

    def close(self) -> None:
        self._games.close()

    def _begin(self, seed: int | None) -> None:
        """Makes the games anew; every lane begins with its next step."""
        self._games = self._make(**self._arguments, rand_seed=seed)
        self._state = self._pictures()
        self._ended = np.ones(len(self), bool)
        self._steps = np.zeros(len(self), int)

    def _pictures(self) -> np.ndarray:
        return self._games.observe()[1]["rgb"]
