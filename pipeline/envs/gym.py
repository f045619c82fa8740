"""Any environment of gym 0.23 or of gymnasium, by id."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

import dm_env.specs as specs
import numpy as np
import tree

from pipeline import index
from pipeline.envs.environment import Done, Environment
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import Nest, UserError

LIBRARIES = ("gym", "gymnasium")


def find(environment_id: str) -> tuple[str, str]:
    """The library that knows `environment_id`, and its id there.

    Ids: 'CartPole-v1' (gym first, then gymnasium), 'gymnasium:CartPole-v1', 'module:Id-v0' (imports the module).
    Raises UserError, with the near ids, where none knows it.
    """
    prefix, _, name = environment_id.rpartition(":")
    libraries = LIBRARIES
    if prefix in LIBRARIES:
        libraries = (prefix,)
    elif prefix:
        _silence_gym()
        try:
            importlib.import_module(prefix)
        except ImportError as error:
            raise UserError(f"Environment '{environment_id}': {error}.") from error
    known: set[str] = set()
    for library in libraries:
        ids = _ids(library)
        if name in ids:
            return library, name
        known |= ids
    raise UserError(f"There is no environment '{environment_id}'; {index.near(name, known)}")


def _library(name: str) -> Any:
    _silence_gym()
    return importlib.import_module(name)


def _silence_gym() -> None:
    """Keeps gym 0.23 from printing a notice about its age when it is imported."""
    importlib.import_module("gym_notices.notices").notices.clear()


def _ids(library: str) -> set[str]:
    registry = _library(library).envs.registry
    return set(registry.env_specs if hasattr(registry, "env_specs") else registry)


@ENVIRONMENTS.register("gym")
class GymEnvironment(Environment):
    """One environment of gym or gymnasium, with either's reset and step. Actions of a Box are clipped to its bounds."""

    def __init__(self, environment_id: str, render_mode: str | None = None):
        """`render_mode`: 'rgb_array' to `render`, 'human' to show itself in a window; see `make`."""
        library, name = find(environment_id)
        options: dict[str, Any] = {"disable_env_checker": True} if library == "gymnasium" else {}
        if library == "gymnasium" and render_mode:
            options["render_mode"] = render_mode
        if render_mode == "rgb_array":
            # A picture needs no screen, which gym 0.23 would open a window on, and no sound.
            os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
            os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
        try:
            self._environment = _library(library).make(name, **options)
        except (ImportError, AttributeError, _library(library).error.Error) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(
                f"Environment '{environment_id}' cannot be made ({reason}); optional worlds are installed with"
                " ./setup.sh --with=atari,box2d,mujoco."
            ) from error
        self.observation_spec = _spec(self._environment.observation_space)
        self.action_spec = _spec(self._environment.action_space)
        self._action_start = getattr(self._environment.action_space, "start", 0)
        # Environments older than gym 0.22 have a method for it.
        reset = inspect.signature(self._environment.unwrapped.reset).parameters.values()
        self._seeded_by_reset = any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in reset)
        space = self._environment.action_space
        self._multi_discrete = type(space).__name__ == "MultiDiscrete"
        self._bounds = (space.low, space.high) if type(space).__name__ == "Box" else None
        self._discrete = isinstance(self.action_spec, specs.DiscreteArray)
        self._dtype = None if isinstance(self.observation_spec, dict | tuple) else self.observation_spec.dtype
        metadata = self._environment.metadata
        self.frame_rate = float(
            metadata.get("render_fps") or metadata.get("video.frames_per_second") or self.frame_rate
        )
        # gym 0.23 is told with every picture, gymnasium once.
        self._render_options = {"mode": "rgb_array"} if library == "gym" else {}
        self._shows_by_hand = render_mode == "human" and library == "gym"

    def _begin(self, seed: int | None) -> Nest:
        if seed is None:
            result = self._environment.reset()
        elif self._seeded_by_reset:
            result = self._environment.reset(seed=seed)
        else:
            self._environment.seed(seed)
            result = self._environment.reset()
        # (state, info); a state may be a pair too.
        informed = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
        self._show()
        return self._cast(result[0] if informed else result)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        if self._discrete:
            action = int(action) + self._action_start
        elif self._multi_discrete:
            action = action + self._action_start
        elif self._bounds is not None:
            action = np.clip(action, *self._bounds)
        state, reward, *ending, info = self._environment.step(action)
        self._show()
        if len(ending) == 2:
            terminated, truncated = ending
        else:
            truncated = ending[0] and info.get("TimeLimit.truncated", False)
            terminated = ending[0] and not truncated
        done = Done.TERMINATED if terminated else Done.TRUNCATED if truncated else Done.NO
        return self._cast(state), float(reward), done

    def _show(self) -> None:
        if self._shows_by_hand:
            self._environment.render()

    def render(self) -> np.ndarray:
        try:
            frame = np.asarray(self._environment.render(**self._render_options))
        except Exception as error:  # whatever a library raises that misses a screen or a driver
            raise UserError(f"{self._environment.spec.id} cannot be drawn here ({error}).") from error
        if frame.dtype != np.uint8 or frame.ndim != 3:
            raise UserError(f"{self._environment.spec.id} has no pictures to record.")
        return frame

    def state(self) -> bytes | None:
        # An EzPickle's pickle holds the arguments that it was made with, and nothing of its state.
        return None if hasattr(self._environment.unwrapped, "_ezpickle_args") else super().state()

    def close(self) -> None:
        self._environment.close()

    def _cast(self, state: Nest) -> Nest:
        if self._dtype is not None:
            return np.asarray(state, self._dtype)
        cast = lambda spec, part: np.asarray(part, spec.dtype)  # noqa: E731
        return tree.map_structure_up_to(self.observation_spec, cast, self.observation_spec, state)


def _spec(space: Any) -> Nest:
    """The spec of a gym or gymnasium space; 64-bit numbers become 32-bit."""
    kind = type(space).__name__
    if kind == "Discrete":
        return specs.DiscreteArray(int(space.n), np.int32)
    if kind == "MultiDiscrete":
        return specs.BoundedArray(space.nvec.shape, np.int32, 0, space.nvec - 1)
    if kind == "MultiBinary":
        return specs.BoundedArray(space.shape, np.int32, 0, 1)
    if kind == "Box":
        wide = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}
        return specs.BoundedArray(space.shape, wide.get(space.dtype, space.dtype), space.low, space.high)
    if kind == "Dict":
        return {name: _spec(part) for name, part in space.spaces.items()}
    if kind == "Tuple":
        return tuple(_spec(part) for part in space.spaces)
    raise UserError(
        f"Spaces of kind {kind} are not supported; use Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple."
    )
