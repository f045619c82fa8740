"""Wrappers of any environment: time limit, action repeat, sticky actions, one-hot observations."""

from __future__ import annotations

import dm_env.specs as specs
import numpy as np
import tree

from pipeline.checks import check_fraction, check_positive
from pipeline.envs.environment import Done, Environment
from pipeline.envs.wrappers.registry import WRAPPERS
from pipeline.envs.wrappers.wrapper import Wrapper
from pipeline.types import Nest


@WRAPPERS.register("time_limit")
class TimeLimit(Wrapper):
    """Truncates episodes after `steps` steps."""

    def __init__(self, environment: Environment, steps: int = 1_000):
        super().__init__(environment)
        check_positive("TimeLimit", steps=steps)
        self._limit = steps
        self._steps = 0

    def _begin(self, seed: int | None) -> Nest:
        self._steps = 0
        return super()._begin(seed)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        state, reward, done = super()._advance(action)
        self._steps += 1
        cut = self._steps >= self._limit and not done
        return state, reward, Done.TRUNCATED if cut else done


@WRAPPERS.register("action_repeat")
class ActionRepeat(Wrapper):
    """Takes every action `times` times, or until the episode ends; rewards add up."""

    def __init__(self, environment: Environment, times: int = 4):
        super().__init__(environment)
        check_positive("ActionRepeat", times=times)
        self._times = times
        self.frame_rate = environment.frame_rate / times

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        total = 0.0
        for _ in range(self._times):
            state, reward, done = super()._advance(action)
            total += reward
            if done:
                break
        return state, total, done  # pyright: ignore[reportPossiblyUnboundVariable] times is positive


@WRAPPERS.register("sticky_actions")
class StickyActions(Wrapper):
    """With `probability` the action before is taken again (Machado et al. 2018, section 5.2); one coin a step."""

    def __init__(self, environment: Environment, probability: float = 0.25):
        super().__init__(environment)
        check_fraction("StickyActions", probability=probability)
        self._probability = probability
        self._generator = np.random.default_rng()
        self._before: Nest = None

    def _begin(self, seed: int | None) -> Nest:
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        self._before = tree.map_structure(lambda spec: np.zeros(spec.shape, spec.dtype), self.action_spec)
        return super()._begin(seed)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        if self._generator.random() >= self._probability:
            self._before = action
        return super()._advance(self._before)


@WRAPPERS.register("one_hot")
class OneHot(Wrapper):
    """Every Discrete leaf of the state, of n values, as n numbers of which one is 1."""

    def __init__(self, environment: Environment):
        super().__init__(environment)
        discrete = lambda spec: isinstance(spec, specs.DiscreteArray)  # noqa: E731
        self._sizes = tree.map_structure(lambda spec: spec.num_values if discrete(spec) else 0, self.observation_spec)
        self.observation_spec = tree.map_structure(
            lambda spec: specs.BoundedArray((spec.num_values,), np.float32, 0, 1) if discrete(spec) else spec,
            self.observation_spec,
        )

    def _begin(self, seed: int | None) -> Nest:
        return self._seen(super()._begin(seed))

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        state, reward, done = super()._advance(action)
        return self._seen(state), reward, done

    def _seen(self, state: Nest) -> Nest:
        one_hot = lambda size, leaf: np.eye(size, dtype=np.float32)[leaf] if size else leaf  # noqa: E731
        return tree.map_structure(one_hot, self._sizes, state)
