"""The base of every wrapper."""

from __future__ import annotations

import pickle

import numpy as np

from pipeline.envs.environment import Done, Environment, pickled
from pipeline.types import Nest


class Wrapper(Environment):
    """An environment that does what another one does; subclasses change one thing.

    `Experiment.wrappers` names them, the innermost first. Rewards are changed in the learner instead
    (`Learner.reward_augmentation`), so that reported returns stay true, and observations are normalised there
    (`PPO.normalize_observations`), so that actors and evaluators see the same numbers.
    """

    def __init__(self, environment: Environment):
        self.environment = environment
        self.observation_spec = environment.observation_spec
        self.action_spec = environment.action_spec
        self.frame_rate = environment.frame_rate

    def _begin(self, seed: int | None) -> Nest:
        return self.environment.reset(seed)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        return self.environment.step(action)

    def _read(self, state: Nest, /) -> Nest:
        return state  # read already

    def own_observation(self) -> Nest:
        # States of another spec are the wrapper's making.
        same = self.observation_spec is self.environment.observation_spec
        return self.environment.own_observation() if same else super().own_observation()

    def own_action(self) -> Nest:
        same = self.action_spec is self.environment.action_spec
        return self.environment.own_action() if same else super().own_action()

    def render(self) -> np.ndarray:
        return self.environment.render()

    def close(self) -> None:
        self.environment.close()

    def state(self) -> bytes | None:
        inner = self.environment.state()
        if inner is None:
            return None
        own = {name: value for name, value in vars(self).items() if name != "environment"}
        return pickled((inner, own))

    def restore(self, state: bytes) -> None:
        inner, own = pickle.loads(state)
        self.environment.restore(inner)
        vars(self).update(own)
