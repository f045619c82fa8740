"""What acting leaves behind: rows of whole episodes, for lanes that restart by themselves and by hand."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import dm_env.specs as specs
import numpy as np

from agents.actor import Actor, Policy
from agents.algos.algo import networks
from agents.algos.dqn import DQN
from agents.learner import AGE
from pipeline.envs.block import InProcess
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes
from pipeline.envs.scripted import Scripted
from pipeline.types import Data, Step
from pipeline.writer import Writer
from tests.agents.helpers import ACTION, OBSERVATION


class Rows:
    """Stands in for a Writer: keeps what it is given."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def append(self, step: Step, priority: float) -> None:
        assert priority == 2.0
        self.steps.append(step)

    def lane(self, index: int, field: str) -> list[Any]:
        return [np.asarray(getattr(step, field))[index].tolist() for step in self.steps]


def always_one(observation: np.ndarray, first: np.ndarray, env_steps: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return np.ones(len(observation), np.int32), {}


def make_actor(lanes: int) -> tuple[Actor, Rows]:
    rows = Rows()
    data = Data("uniform", 2, 1, 1, 1)
    return Actor(cast(Policy, always_one), cast(Writer, rows), specs.DiscreteArray(2, np.int32), lanes, data), rows


def play(actor: Actor, lanes: Lanes, state: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        last_state, action = state, actor.act(state)
        state, reward, done = lanes.step(action)
        actor.observe(last_state, action, reward, done, state, 2.0)
    return state


def test_an_episode_is_its_rows_and_one_last_row_with_the_true_final_observation() -> None:
    lanes = Lanes(InProcess([partial(Scripted, (2,), (False,)), partial(Scripted, (3,), (True,))]))
    actor, rows = make_actor(2)
    play(actor, lanes, lanes.reset(0), 5)
    assert rows.lane(0, "observation") == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    assert rows.lane(0, "last") == [False, False, True, False, False]
    assert rows.lane(0, "first") == [True, False, False, True, False]
    assert rows.lane(0, "reward") == [1, 2, 0, 1, 2]
    assert rows.lane(0, "discount") == [1, 0, 1, 1, 0]
    assert rows.lane(0, "action") == [1, 1, 0, 1, 1]
    assert rows.lane(1, "observation") == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert rows.lane(1, "discount") == [1, 1, 1, 1, 1]


def test_steps_spent_on_resets_are_not_counted() -> None:
    lanes = Lanes(InProcess([partial(Scripted, (2,), (False,)), partial(Scripted, (3,), (True,))]))
    actor, rows = make_actor(2)
    play(actor, lanes, lanes.reset(0), 5)
    assert actor.env_steps == 8
    assert actor.finished == [(3.0, 2), (6.0, 3), (3.0, 2)]
    assert [step.extras[AGE][0] for step in rows.steps] == [0, 2, 4, 5, 6]


def test_a_reset_by_hand_cuts_the_episode_as_truncated() -> None:
    lanes = Lanes(InProcess([partial(Scripted, (5,), (False,))]))
    actor, rows = make_actor(1)
    play(actor, lanes, lanes.reset(0), 2)
    play(actor, lanes, lanes.reset(), 1)
    assert rows.lane(0, "observation") == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert rows.lane(0, "last") == [False, False, True, False]
    assert rows.lane(0, "first") == [True, False, False, True]
    assert rows.lane(0, "discount") == [1, 1, 1, 1]
    assert actor.finished == []


def test_a_reset_by_hand_after_the_end_writes_the_last_row_once() -> None:
    lanes = Lanes(InProcess([partial(Scripted, (2,), (False,))]))
    actor, rows = make_actor(1)
    play(actor, lanes, lanes.reset(0), 2)
    play(actor, lanes, lanes.reset(), 1)
    assert rows.lane(0, "observation") == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert rows.lane(0, "last") == [False, False, True, False]
    assert rows.lane(0, "discount")[:2] == [1, 0]


def test_done_tells_termination_from_truncation() -> None:
    assert not Done.NO
    assert Done.TERMINATED
    assert Done.TRUNCATED
    assert Done.TERMINATED == True  # noqa: E712 the seed's plain done


def test_every_call_of_a_policy_has_fresh_randomness_and_a_restored_one_repeats_it() -> None:
    algo = DQN()
    params = networks(algo, OBSERVATION, ACTION)
    observation = np.zeros((64, 4), np.float32)
    policy = Policy(algo, params, OBSERVATION, 64, seed=3, training=True)
    begin = np.zeros(64, bool)
    first, second = policy(observation, begin, 0)[0], policy(observation, begin, 0)[0]
    assert np.any(first != second)
    again = Policy(algo, params, OBSERVATION, 64, seed=3, training=True)
    again.calls = 1
    np.testing.assert_array_equal(again(observation, begin, 0)[0], second)
