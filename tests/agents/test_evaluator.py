"""Evaluation plays whole episodes, as many as asked, the same ones every time, and learns nothing."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from agents.algos.algo import networks
from agents.algos.dqn import DQN
from agents.evaluator import Evaluator
from pipeline.envs.make import make
from pipeline.envs.scripted import Scripted


def evaluator(episodes: int, environment: str | None = None) -> Evaluator:
    tf.keras.utils.set_random_seed(2)
    algo = DQN()
    maker = Scripted if environment is None else lambda: make(environment)
    one = maker()
    return Evaluator(algo, networks(algo, one.observation_spec, one.action_spec), maker, episodes, seed=5)


def test_every_lane_plays_its_share_so_that_short_episodes_are_not_favoured() -> None:
    # 100 lanes play the script's episodes (returns 6, 1, 15) in turn: two each, and fifty of them a third.
    returns = evaluator(250).run()
    assert {value: int(np.sum(returns == value)) for value in (6, 1, 15)} == {6: 100, 1: 100, 15: 50}


def test_the_same_episodes_every_time() -> None:
    play = evaluator(8, "CartPole-v1")
    first = play.run()
    assert len(set(first.tolist())) > 1
    np.testing.assert_array_equal(np.sort(play.run()), np.sort(first))
