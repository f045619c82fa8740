"""Evaluation plays whole episodes, as many as asked, the same ones every time, and learns nothing."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.dqn import DQN
from agents.evaluator import Evaluator, FirstSeen
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


@pytest.mark.parametrize("lanes", [1, 4])
def test_each_episode_is_told_once_as_it_ends(lanes: int) -> None:
    heard: list[tuple[int, float]] = []
    returns = evaluator(6, lanes).run(told=lambda number, episode_return: heard.append((number, episode_return)))
    assert sorted(heard) == list(enumerate(returns))
    if lanes > 1:
        # The shortest of the first four ends first; the last round has a lane that repeats an episode.
        assert heard[0][1] == min(returns[:4])


def test_episodes_that_are_cut_are_told_too() -> None:
    play = evaluator(2, 2, "CartPole-v1")
    play._episode_steps = 5
    heard: dict[int, float] = {}
    returns = play.run(told=heard.__setitem__)
    assert play.cut == 2
    assert [heard[0], heard[1]] == returns.tolist() == [5.0, 5.0]


def test_the_first_episodes_and_those_that_follow_are_those_of_one_evaluator() -> None:
    whole = evaluator(7, 3).run()
    seen, unseen = evaluator(2, 2), evaluator(5, 4)
    unseen._seeds = episode_seeds(5, 7)[2:]
    heard: dict[int, float] = {}
    both = FirstSeen(seen, unseen)
    assert both.run(told=heard.__setitem__).tolist() == whole.tolist()
    assert heard == dict(enumerate(whole[:2]))
    assert both.cut == 0
    assert seen._lanes is None, "A window is closed when its episodes are over."
    both.close()
    assert unseen._lanes is None
