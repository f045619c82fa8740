"""Greedy evaluation in environments of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agents.actor import Policy
from agents.algos.algo import Algo
from pipeline.envs.crashes import Crashes
from pipeline.envs.environment import Done, Environment
from pipeline.envs.lanes import Lanes
from pipeline.types import Params

MAX_LANES = 100


class Evaluator:
    """Plays whole episodes greedily."""

    def __init__(
        self,
        algo: Algo,
        params: Params,
        make: Callable[[], Environment],
        episodes: int,
        seed: int,
        crashes: Crashes | None = None,
    ):
        """`episodes`: how many each evaluation plays; `seed`: of environments and actions.

        With `crashes` an episode ends where its environment fails; without, the failure is raised.
        """
        self._lanes = Lanes.make(make, min(episodes, MAX_LANES), crashes=crashes)
        self._policy = Policy(algo, params, self._lanes.observation_spec, len(self._lanes), seed, training=False)
        self._episodes = episodes
        self._seed = seed

    def run(self) -> np.ndarray:
        """The episodes' undiscounted returns, f64 [episodes]; the same seeds every time.

        Every lane plays its share to the end: taking the first episodes to finish would favour short ones.
        """
        count = len(self._lanes)
        share = np.full(count, self._episodes // count) + (np.arange(count) < self._episodes % count)
        returns, total = [], np.zeros(count)
        state = self._lanes.reset(self._seed)
        first, ended = np.ones(count, bool), np.zeros(count, bool)
        while share.any():
            action, _ = self._policy(state, first, 0)
            state, reward, done = self._lanes.step(action)
            first, ended = ended, done != Done.NO
            total += reward
            for lane in np.flatnonzero(done):
                if share[lane]:
                    returns.append(total[lane])
                    share[lane] -= 1
                total[lane] = 0
        return np.array(returns)
