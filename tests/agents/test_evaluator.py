"""Evaluation plays whole episodes, as many as asked, the same ones every time, and learns nothing."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.dqn import DQN
from agents.evaluator import Evaluator
from pipeline.envs.block import InProcess
from pipeline.envs.lanes import Lanes, episode_seeds
from pipeline.envs.make import make
from pipeline.envs.scripted import Scripted
from pipeline.types import Nest

RETURNS = (6, 1, 15)
"""of the script's episodes"""


class Seeded(Scripted):
    """Its seed says which episode is played."""

    def _begin(self, seed: int | None) -> Nest:
        state = super()._begin(seed)
        assert seed is not None
        self._episode = seed % len(RETURNS)
        return state


def evaluator(episodes: int, lanes: int, environment: str | None = None) -> Evaluator:
    tf.keras.utils.set_random_seed(2)
    algo = DQN()
    maker = Seeded if environment is None else partial(make, environment)
    one = maker()
    params = networks(algo, one.observation_spec, one.action_spec)
    return Evaluator(algo, params, lambda: Lanes(InProcess([maker] * lanes), together=True), episodes, seed=5)


def test_every_episode_that_begins_counts_so_that_short_ones_are_not_favoured() -> None:
    expected = [RETURNS[seed % 3] for seed in episode_seeds(5, 25)]
    assert len(set(expected)) == 3
    assert evaluator(25, lanes=4).run().tolist() == expected


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_the_same_episodes_every_time_however_many_are_played_at_once(lanes: int) -> None:
    first = evaluator(8, 8, "CartPole-v1").run()
    assert len(set(first.tolist())) > 1
    play = evaluator(8, lanes, "CartPole-v1")
    np.testing.assert_array_equal(play.run(), first)
    np.testing.assert_array_equal(play.run(), first)
