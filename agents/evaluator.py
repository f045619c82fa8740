"""Evaluation in environments of its own, with the same seeds every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agents.actor import Policy
from agents.algos.algo import Algo, acting_variables
from agents.finite import are_finite
from pipeline.envs import generators
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes, episode_seeds
from pipeline.types import Params

Told = Callable[[int, float], None]
"""what hears of each episode when it is over: its number among those of the evaluation, and its return"""


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
        first: int = 0,
    ):
        """`make_lanes`, called when they are needed, makes lanes that wait for each other (`together`).

        `episodes`: how many each evaluation plays. `seed`: of environments and actions. Not `greedy`: actions are
        chosen as in training. `episode_steps`: an episode is cut after so many; None: never. Without `keep_lanes` an
        evaluation closes its environments. `first`: the number of its first episode among those of `seed`.
        """
        self._algo = algo
        self._params = params
        self._make_lanes = make_lanes
        self._seed = seed
        self._greedy = greedy
        self._episode_steps = episode_steps
        self._keep_lanes = keep_lanes
        self._first = first
        self._seeds = episode_seeds(seed, first + episodes)[first:]
        self._lanes: Lanes | None = None
        self._policy: Policy | None = None
        self.cut = 0
        """episodes of the latest evaluation that were cut after `episode_steps`"""
        self.not_finite = 0
        """steps of the latest evaluation at which weights, or what actions were chosen from, were not finite"""

    def run(self, env_steps: int = 0, told: Told | None = None) -> np.ndarray:
        """The episodes' undiscounted returns, f64 [episodes], in the order of their seeds, of which `told` hears.

        `env_steps`: how far the training is, for exploration that depends on it. Every episode that began is played
        to its end, or to its limit: taking the first to finish would favour short ones. Raises Stopped where the
        process is asked to stop.
        """
        # So that training does not depend on when it was evaluated, nor an evaluation on when it comes.
        with generators.lent(self._seed):
            if self._lanes is None:
                self._lanes = self._make_lanes()
            if self._policy is None:
                spec, count = self._lanes.observation_spec, len(self._lanes)
                self._policy = Policy(self._algo, self._params, spec, count, self._seed, training=not self._greedy)
            returns = self._play(self._lanes, self._policy, env_steps, told)
        if not self._keep_lanes:
            self.close()
        return np.array(returns)

    def _play(self, lanes: Lanes, policy: Policy, env_steps: int, told: Told | None) -> list[float]:
        """Every episode's return, in rounds."""
        count = len(lanes)
        policy.calls = policy.not_finite = 0
        self.cut = 0
        returns: list[float] = []
        for begin in range(0, len(self._seeds), count):
            seeds = self._seeds[begin : begin + count]
            # Lanes of the last round that are left over repeat an episode, which is not counted.
            numbers = range(self._first + begin, self._first + begin + len(seeds))
            seeds = [*seeds, *seeds[:1] * (count - len(seeds))]
            total, over = self._round(lanes, policy, seeds, env_steps, numbers, told)
            returns += total[: len(numbers)].tolist()
            self.cut += int(np.count_nonzero(~over[: len(numbers)]))
        # A rectifier makes 0 of NaN: what weights of NaN say may look sound.
        sound = bool(are_finite(acting_variables(self._params)))
        self.not_finite = policy.not_finite if sound else policy.calls
        return returns

    def close(self) -> None:
        """Closes the environments, which the next `run` makes anew."""
        if self._lanes is not None:
            self._lanes.close()
            self._lanes = None

    def _round(
        self, lanes: Lanes, policy: Policy, seeds: list[int], env_steps: int, numbers: range, told: Told | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """An episode in every lane: the returns [E], and whether each came to its end.

        `numbers`: of the first lanes' episodes; of the others `told` hears nothing.
        """
        total, over = np.zeros(len(seeds)), np.zeros(len(seeds), bool)
        state, first = lanes.reset(seeds), ~over
        steps = 0
        while not over.all() and steps != self._episode_steps:
            action, _ = policy(state, first, env_steps)
            state, reward, done = lanes.step(action)
            # A lane that is over waits, and earns nothing.
            total += reward
            before, over = over, done != Done.NO
            first = np.zeros(len(seeds), bool)
            steps += 1
            ended = over & ~before if steps != self._episode_steps else ~before
            if told is not None:
                for lane in np.flatnonzero(ended[: len(numbers)]):
                    told(numbers[lane], float(total[lane]))
        return total, over


class FirstSeen:
    """An evaluator of a test whose first episodes somebody sees, and the others nobody."""

    def __init__(self, seen: Evaluator, unseen: Evaluator):
        """The episodes of `unseen` follow those of `seen`."""
        self._seen = seen
        self._unseen = unseen

    @property
    def cut(self) -> int:
        """As an `Evaluator`'s."""
        return self._seen.cut + self._unseen.cut

    @property
    def not_finite(self) -> int:
        """As an `Evaluator`'s."""
        return self._seen.not_finite + self._unseen.not_finite

    def run(self, env_steps: int = 0, told: Told | None = None) -> np.ndarray:
        """As an `Evaluator`'s; `told` hears of the episodes that are seen."""
        first = self._seen.run(env_steps, told)
        self._seen.close()
        return np.concatenate([first, self._unseen.run(env_steps)])

    def close(self) -> None:
        """Closes all environments."""
        self._seen.close()
        self._unseen.close()
