"""Worlds of EnvPool (Weng et al. 2022): Atari, MuJoCo, Procgen and others, stepped inside its library."""

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
from pipeline.frames import Frames, Stacks
from pipeline.types import ArraySpec, Nest, UserError


@ENVIRONMENTS.register("envpool")
class EnvPool(Block):
    """A task by EnvPool's name, 'Pong-v5'; it begins episodes as Encore does.

    All randomness comes from one seed, which the lanes' seeds make: an episode repeats with all lanes' seeds only.
    Pictures are turned to [height, width, channels]; frames that the task stacks itself are a stack of frames.
    """

    def __init__(
        self,
        name: str,
        lanes: int = 1,
        training: bool = True,
        pictures: bool = False,
        threads: int = 1,
        options: dict[str, object] | None = None,
    ):
        """`threads`: of the library, that share the lanes. `options`: the task's own, for example {'noop_max': 1}."""
        library = need("envpool", "envpool")
        known = library.list_all_envs()
        if name not in known:
            raise UserError(f"EnvPool has no task '{name}'; {index.near(name, known)}")
        self._make = library.make
        self._arguments: dict[str, Any] = {
            "task_id": name,
            "env_type": "gymnasium",
            "num_envs": lanes,
            "num_threads": threads,
            **(options or {}),
        }
        self.failures = {}
        self._begin(0)
        spec = _array_spec(self._games.observation_space)
        self._stacks = len(spec.shape) == 3 and hasattr(self._games.spec.config, "stack_num")
        self._channels_first = len(spec.shape) == 3 and spec.dtype == np.uint8 and not self._stacks
        if self._stacks:
            count, height, width = spec.shape
            spec = Frames(specs.BoundedArray((height, width, 1), np.uint8, 0, 255), count)
            self._frames = Stacks(spec, lanes)
        elif self._channels_first:
            spec = specs.BoundedArray((*spec.shape[1:], spec.shape[0]), np.uint8, 0, 255)
        self.observation_spec = spec
        self.action_spec, self._action_type = _action_spec(self._games.action_space)

    def __len__(self) -> int:
        return self._arguments["num_envs"]

    def reset(self, seeds: Sequence[int | None]) -> Nest:
        if None not in seeds:
            self._games.close()
            self._begin(int(np.random.SeedSequence(seeds).generate_state(1)[0] >> 1))  # pyright: ignore[reportArgumentType]
        self._begins = False
        self._ended = np.ones(len(self), bool)
        return self._seen(self._games.reset()[0], np.zeros(len(self), bool))

    def step(self, actions: Nest, waiting: np.ndarray | None = None) -> Result:
        if self._begins:
            lanes = len(self)
            return self.reset([None] * lanes), np.zeros(lanes, np.float32), np.zeros(lanes, np.int8)
        state, reward, terminated, truncated, _ = self._games.step(np.asarray(actions, self._action_type))
        done = np.where(terminated, Done.TERMINATED, np.where(truncated, Done.TRUNCATED, Done.NO))
        return self._seen(state, done != Done.NO), reward.astype(np.float32), done.astype(np.int8)

    def renew(self, lane: int) -> Sequence[int]:
        self._games.close()
        self._begin(int(np.random.default_rng().integers(2**31)))
        return range(len(self))

    def close(self) -> None:
        self._games.close()

    def _begin(self, seed: int) -> None:
        try:
            self._games = self._make(**self._arguments, seed=seed)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(f"EnvPool does not make '{self._arguments['task_id']}' ({error}).") from error
        self._begins = True
        """whether all lanes begin with the next step"""
        self._ended = np.ones(len(self), bool)
        """lanes that begin with it"""

    def _seen(self, state: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """States as their spec says; the library gives arrays of their own. `ended` [E]: where the episode does."""
        begins, self._ended = self._ended, ended
        if self._stacks:
            # The library's stacks begin with black frames, or with those of a life that was lost.
            return self._frames.push(state[:, -1, :, :, None], begins)
        if self._channels_first:
            return np.ascontiguousarray(np.moveaxis(state, 1, -1))
        return state.astype(self.observation_spec.dtype, copy=False)


def _array_spec(space: Any) -> ArraySpec:
    """Of a Box; 64-bit numbers become 32-bit."""
    dtype = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}.get(space.dtype, space.dtype)
    return specs.BoundedArray(space.shape, dtype, space.low, space.high)


def _action_spec(space: Any) -> tuple[ArraySpec, Any]:
    """The spec of one action, and the type that the library wants of many."""
    if hasattr(space, "n"):
        return specs.DiscreteArray(int(space.n), np.int32), np.int32
    return _array_spec(space), space.dtype
