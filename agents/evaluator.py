"""Evaluation in environments of its own, with the same seeds every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agents.actor import Policy
from agents.algos.algo import Algo
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes, episode_seeds
from pipeline.types import Params


class Evaluator:
    """Plays whole episodes, each with a seed of its own; learns nothing."""

    def __init__(
        self,
        algo: Algo,
        params: Params,
        make_lanes: Callable[[], Lanes],
        episodes: int,
        seed: int,
        *,
        greedy: bool = True,
        episode_steps: int | None = None,
        keep_lanes: bool = True,
    ):
        """`make_lanes`, called when they are needed, makes lanes that wait for each other (`together`).

        `episodes`: how many each evaluation plays. `seed`: of environments and actions. Not `greedy`: actions are
        chosen as in training. `episode_steps`: an episode is cut after so many; None: never. Without `keep_lanes` an
        evaluation closes its environments.
        """
        self._algo = algo
        self._params = params
        self._make_lanes = make_lanes
        self._seed = seed
        self._greedy = greedy
        self._episode_steps = episode_steps
        self._keep_lanes = keep_lanes
        self._seeds = episode_seeds(seed, episodes)
        self._lanes: Lanes | None = None
        self._policy: Policy | None = None
        self.cut = 0
        """episodes of the latest evaluation that were cut after `episode_steps`"""

    def run(self, env_steps: int = 0) -> np.ndarray:
        """The episodes' undiscounted returns, f64 [episodes], in the order of their seeds.

        `env_steps`: how far the training is, for exploration that depends on it. Every episode that began is played
        to its end, or to its limit: taking the first to finish would favour short ones. Raises Stopped where the
        process is asked to stop.
        """
        if self._lanes is None:
            self._lanes = self._make_lanes()
        count = len(self._lanes)
        if self._policy is None:
            spec = self._lanes.observation_spec
            self._policy = Policy(self._algo, self._params, spec, count, self._seed, training=not self._greedy)
        self._policy.calls = 0
        self.cut = 0
        returns: list[float] = []
        for begin in range(0, len(self._seeds), count):
            seeds = self._seeds[begin : begin + count]
            # Lanes of the last round that are left over repeat an episode, which is not counted.
            total, over = self._round(self._lanes, self._policy, [*seeds, *seeds[:1] * (count - len(seeds))], env_steps)
            returns += total[: len(seeds)].tolist()
            self.cut += int(np.count_nonzero(~over[: len(seeds)]))
        if not self._keep_lanes:
            self.close()
        return np.array(returns)

    def close(self) -> None:
        """Closes the environments, which the next `run` makes anew."""
        if self._lanes is not None:
            self._lanes.close()
            self._lanes = None

    def _round(self, lanes: Lanes, policy: Policy, seeds: list[int], env_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """An episode in every lane: the returns [E], and whether each came to its end."""
        total, over = np.zeros(len(seeds)), np.zeros(len(seeds), bool)
        state, first = lanes.reset(seeds), ~over
        steps = 0
        while not over.all() and steps != self._episode_steps:
            action, _ = policy(state, first, env_steps)
            state, reward, done = lanes.step(action)
            # A lane that is over waits, and earns nothing.
            total += reward
            over = done != Done.NO
            first = np.zeros(len(seeds), bool)
            steps += 1
        return total, over
