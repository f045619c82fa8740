"""tf-agents' environments as ours, and ours as tf-agents'."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import dm_env
import dm_env.specs as specs
import numpy as np
import tree

from pipeline.envs.dm import DmEnvironment
from pipeline.envs.environment import Done, Environment
from pipeline.envs.guard import guarded
from pipeline.envs.pictures import rgb
from pipeline.types import Nest, UserError

if TYPE_CHECKING:
    from tf_agents.environments.py_environment import PyEnvironment
    from tf_agents.trajectories.time_step import TimeStep


class FromPyEnvironment(DmEnvironment):
    """A `PyEnvironment` of tf-agents. Where it cannot be seeded, a seed is ignored.

    Specs, actions and endings are as `DmEnvironment` has them: `suite_gym` says with a final discount of 0 that an
    episode terminated, and leaves the discount as it is where its time limit cuts one.
    """

    def __init__(self, environment: PyEnvironment, frame_rate: float = 30.0):
        """`environment`: not batched, or a batch of one. Raises UserError where it is more, and as `DmEnvironment`."""
        if environment.batched and environment.batch_size != 1:
            raise UserError(
                f"{type(environment).__name__} is a batch of {environment.batch_size} environments: hand over one of"
                " them, since Encore makes batches by itself."
            )
        super().__init__(_InDmEnv(environment), frame_rate)
        self._theirs = environment

    def _seed(self, seed: int) -> None:
        with contextlib.suppress(NotImplementedError):
            self._theirs.seed(seed)

    def render(self) -> np.ndarray:
        try:
            with guarded():
                drawn: Any = self._theirs.render("rgb_array")
        except Exception as error:  # whatever a library raises that misses a screen, or has no pictures
            raise UserError(f"{type(self._theirs).__name__} cannot be drawn here ({error}).") from error
        return rgb(drawn[0] if self._theirs.batched else drawn, type(self._theirs).__name__)


class _InDmEnv(dm_env.Environment):
    """A `PyEnvironment` in the words of `dm_env`, which tf-agents took over with small changes."""

    def __init__(self, environment: PyEnvironment):
        self._environment = environment
        self._batched = environment.batched

    def reset(self) -> dm_env.TimeStep:
        return self._time_step(self._environment.reset())

    def step(self, action: Nest) -> dm_env.TimeStep:
        if self._batched:
            action = tree.map_structure(lambda leaf: np.expand_dims(leaf, 0), action)
        return self._time_step(self._environment.step(action))

    def _time_step(self, theirs: TimeStep) -> dm_env.TimeStep:
        parts: Any = tuple(theirs)
        if self._batched:
            parts = tree.map_structure(lambda leaf: leaf[0], parts)
        step_type, *rest = parts
        return dm_env.TimeStep(dm_env.StepType(int(step_type)), *rest)

    def observation_spec(self) -> Nest:
        return tree.map_structure(_spec, self._environment.observation_spec())

    def action_spec(self) -> Nest:
        return tree.map_structure(_spec, self._environment.action_spec())

    def reward_spec(self) -> Nest:
        return tree.map_structure(_spec, self._environment.reward_spec())

    def close(self) -> None:
        self._environment.close()


def _spec(theirs: Any) -> specs.Array:
    """The `dm_env` spec of an `ArraySpec`, which writes no bound as the largest number of its dtype."""
    if not hasattr(theirs, "minimum"):
        return specs.Array(theirs.shape, theirs.dtype, theirs.name)
    low, high = theirs.minimum, theirs.maximum
    if np.issubdtype(theirs.dtype, np.floating):
        largest = np.finfo(theirs.dtype).max
        low, high = np.where(low == -largest, -np.inf, low), np.where(high == largest, np.inf, high)
    return specs.BoundedArray(theirs.shape, theirs.dtype, low, high, theirs.name)


def to_py_environment(environment: Environment) -> PyEnvironment:
    """`environment` for tf-agents' drivers and agents, as an environment that is not batched.

    A terminated episode ends with discount 0, a truncated one with 1. `seed` takes effect with the next `reset`.
    """
    from tf_agents.environments import py_environment
    from tf_agents.environments.dm_control_wrapper import convert_spec
    from tf_agents.trajectories import time_step

    class Ours(py_environment.PyEnvironment):
        def __init__(self) -> None:
            super().__init__(handle_auto_reset=True)
            self._next_seed: int | None = None

        def observation_spec(self) -> Any:
            return tree.map_structure(convert_spec, environment.observation_spec)

        def action_spec(self) -> Any:
            return tree.map_structure(convert_spec, environment.action_spec)

        def seed(self, seed: int) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            self._next_seed = seed

        def _reset(self) -> TimeStep:
            seed, self._next_seed = self._next_seed, None
            return time_step.restart(environment.reset(seed))

        def _step(self, action: Nest) -> TimeStep:
            state, reward, done = environment.step(action)
            if done == Done.TERMINATED:
                return time_step.termination(state, reward)
            if done == Done.TRUNCATED:
                return time_step.truncation(state, reward)
            return time_step.transition(state, reward)

        def render(self, mode: str = "rgb_array") -> Any:
            return environment.render() if mode == "rgb_array" else super().render(mode)

        def close(self) -> None:
            environment.close()

    return Ours()
