"""Evaluation in environments of its own, with the same seeds every time."""

from __future__ import annotations

import numpy as np

from agents.actor import Policy
from agents.algos.algo import Algo
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes, episode_seeds
from pipeline.types import Params


class Evaluator:
    """Plays whole episodes, each with a seed of its own; learns nothing."""

    def __init__(self, algo: Algo, params: Params, lanes: Lanes, episodes: int, seed: int, greedy: bool = True):
        """`lanes` wait for each other (`together`). `episodes`: how many each evaluation plays.

        `seed`: of environments and actions. Not `greedy`: actions are chosen as in training.
        """
        self._lanes = lanes
        self._policy = Policy(algo, params, lanes.observation_spec, len(lanes), seed, training=not greedy)
        self._seeds = episode_seeds(seed, episodes)

    def run(self, env_steps: int = 0) -> np.ndarray:
        """The episodes' undiscounted returns, f64 [episodes], in the order of their seeds.

        `env_steps`: how far the training is, for exploration that depends on it. Every episode that began is played
        to its end: taking the first to finish would favour short ones.
        """
        count = len(self._lanes)
        self._policy.calls = 0
        returns: list[float] = []
        for begin in range(0, len(self._seeds), count):
            seeds = self._seeds[begin : begin + count]
            # Lanes of the last round that are left over repeat an episode, which is not counted.
            returns += self._round([*seeds, *seeds[:1] * (count - len(seeds))], env_steps)[: len(seeds)]
        return np.array(returns)

    def _round(self, seeds: list[int], env_steps: int) -> list[float]:
        """An episode in every lane."""
        total, over = np.zeros(len(seeds)), np.zeros(len(seeds), bool)
        state, first = self._lanes.reset(seeds), ~over
        while not over.all():
            action, _ = self._policy(state, first, env_steps)
            state, reward, done = self._lanes.step(action)
            # A lane that is over waits, and earns nothing.
            total += reward
            over = done != Done.NO
            first = np.zeros(len(seeds), bool)
        return total.tolist()
