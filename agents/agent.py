"""The Agent of the seed's loop: act, observe, update."""

from __future__ import annotations

from typing import Any

import gin
import numpy as np
import tree

from agents.actor import Actor
from agents.algos.algo import Algo
from agents.learner import Learner
from pipeline.checks import check_positive
from pipeline.types import Nest


@gin.register
class Agent:
    """An actor and a learner in one process; the loop that calls it decides nothing.

        state = env.reset()
        for step in range(max_steps):
            last_state = state
            action = agent.act(state)
            state, reward, done = env.step(action)
            agent.observe(last_state, action, reward, done, state)
            agent.update()

    `env` is one `Environment` (`lanes` None: states and actions have no leading dimension) or `Lanes` ([E, ...]).
    """

    def __init__(self, algo: Algo, actor: Actor, learner: Learner, lanes: int | None, *, updates_per_step: float = 1.0):
        """`updates_per_step`: updates per environment step, once the memory holds its `min_size`."""
        check_positive("Agent", updates_per_step=updates_per_step)
        self.algo = algo
        self.actor = actor
        self.learner = learner
        self._min_size = algo.data().min_size
        self._single = lanes is None
        self._updates_per_step = updates_per_step
        self.metrics: dict[str, float] = {}
        """of the latest updates"""

    def act(self, state: Nest) -> Nest:
        """The action for `state`."""
        if self._single:
            return tree.map_structure(lambda a: a[0], self.actor.act(_one_lane(state)))
        return self.actor.act(state)

    def observe(self, last_state: Nest, action: Nest, reward: Any, done: Any, state: Nest) -> None:
        """Remembers a transition; `done` is a `Done`, or True for terminated. See `Actor.observe`."""
        if self._single:
            last_state, action, state = _one_lane(last_state), _one_lane(action), _one_lane(state)
            reward, done = np.array([reward], np.float32), np.array([done], np.int8)
        self.actor.observe(last_state, action, reward, done, state, self.learner.max_priority)

    def update(self) -> int:
        """Learns as much as the replay ratio allows; returns the number of updates."""
        due = (self.actor.env_steps - self._min_size) * self._updates_per_step
        done = 0
        while self.learner.updates + self.learner.updates_per_call <= due:
            if done == 0:
                self.actor.flush()
            self.metrics = self.learner.run(self.actor.env_steps)
            done += self.learner.updates_per_call
        return done


def _one_lane(nest: Nest) -> Nest:
    return tree.map_structure(lambda leaf: np.asarray(leaf)[None], nest)
