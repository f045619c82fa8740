"""The Agent of the seed's loop: act, observe, update."""

from __future__ import annotations

from typing import Any

import numpy as np
import tree

from agents.actor import Actor
from agents.algos.algo import Algo
from agents.learner import ADVICE, Learner, LearnerError
from pipeline.types import Nest


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

    def __init__(self, algo: Algo, actor: Actor, learner: Learner, lanes: int | None):
        self.algo = algo
        self.actor = actor
        self.learner = learner
        self._single = lanes is None
        self.metrics: dict[str, float] = {}
        """of the latest updates"""

    def act(self, state: Nest) -> Nest:
        """The action for `state`. Raises LearnerError where what it is chosen from is not finite."""
        self.actor.weights_updates = self.learner.updates
        action = self.actor.act(_one_lane(state) if self._single else state)
        if self.actor.not_finite:
            self.learner.check_parameters()
            raise LearnerError(
                f"What the policy says at environment step {self.actor.env_steps} is not finite (nan or inf), though"
                f" its parameters are: the run stops, and the last checkpoint stands. {ADVICE}"
            )
        return tree.map_structure(lambda a: a[0], action) if self._single else action

    def observe(self, last_state: Nest, action: Nest, reward: Any, done: Any, state: Nest) -> None:
        """Remembers a transition; `done` is a `Done`, or True for terminated. See `Actor.observe`."""
        if self._single:
            last_state, action, state = _one_lane(last_state), _one_lane(action), _one_lane(state)
            reward, done = np.array([reward], np.float32), np.array([done], np.int8)
        self.actor.observe(last_state, action, reward, done, state, self.learner.max_priority)

    def cut(self) -> None:
        """Ends the episodes under way, as truncated: the environments begin anew."""
        self.actor.cut(self.learner.max_priority)

    def update(self) -> int:
        """Learns as much as the replay ratio allows; returns the number of updates."""
        before = self.learner.updates
        if self.learner.due(self.actor.env_steps, self.actor.items):
            self.actor.flush()
        while self.learner.due(self.actor.env_steps, self.actor.items):
            self.metrics = self.learner.run(self.actor.env_steps)
        return self.learner.updates - before


def _one_lane(nest: Nest) -> Nest:
    return tree.map_structure(lambda leaf: np.asarray(leaf)[None], nest)
