"""The seed's loop with a replay: what its first calls learn from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents.agent import Agent
from agents.algos.dqn import DQN
from servers import tables
from servers.memory.prioritized import FRESH, Prioritized
from tests.configs.test_conformance import learn, parts_of
from tests.limits import wait_until

SETTINGS = {
    "dqn_cartpole": ("DQN.min_replay_size=400", "DQN.batch_size=64", "Learner.updates_per_call=8"),
    "dqn_cartpole_uniform": ("DQN.min_replay_size=1_600", "DQN.batch_size=64", "Learner.updates_per_call=16"),
    "ddpg_pendulum": ("DDPG.min_replay_size=1_200", "DDPG.batch_size=64", "Learner.updates_per_call=16"),
}


def act(agent: Agent, environment: Any, enough: Callable[[], bool]) -> None:
    """Acts until there is `enough`, which the table then holds."""
    state = environment.reset(0)
    while not enough():
        last_state = state
        action = agent.act(state)
        state, reward, done = environment.step(action)
        agent.observe(last_state, action, reward, done, state)
    agent.actor.flush()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_call_draws_every_item_alike(name: str, tmp_path: Path) -> None:
    with parts_of(name, "inline_without_xla", tmp_path / "replay", *SETTINGS[name]) as (_, parts):
        agent, environment, learner = parts.agent, parts.environment, parts.agent.learner
        act(agent, environment, lambda: learner.due(agent.actor.env_steps, agent.actor.items))
        keys, counts = np.unique(learner.next_draw().keys.numpy(), return_counts=True)
        drawn, items = counts.sum(), agent.actor.items
        # Of `drawn` balls in `items` bins: how many are hit, and its standard deviation.
        missed = math.exp(-drawn / items)
        expected = items * (1 - missed)
        deviation = math.sqrt(items * missed * (1 - (1 + drawn / items) * missed))
        assert abs(len(keys) - expected) < 6 * deviation
        assert counts.max() < 12


@pytest.mark.parametrize("name", ["ppo_cartpole", "vpg_cartpole"])
def test_two_hundred_actions_at_once_are_learnt(name: str, tmp_path: Path) -> None:
    wide = ("Experiment.environment='tests.binaries.habits:Wide'",)
    more = {"ppo_cartpole": ("PPO.epochs=10", "PPO.rollout_length=32", "PPO.batch_size=32", "PPO.learning_rate=1e-2")}
    with parts_of(name, "inline_without_xla", tmp_path / "replay", *wide, *more.get(name, ())) as (_, parts):
        # An episode of ten steps ends in every rollout.
        learn(parts, calls=8)


@pytest.mark.parametrize(("inline", "late"), [(True, Prioritized.workers * FRESH), (False, 1024)])
def test_which_draws_know_the_priorities_of_the_calls_before(
    inline: bool, late: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call learnt from has no priority any more, so that a draw which has it was made before it was written."""
    loss = DQN.loss
    monkeypatch.setattr(
        DQN, "loss", lambda *args: (made := loss(*args))._replace(priorities=tf.zeros_like(made.priorities))
    )
    settings = ("DQN.min_replay_size=400", "DQN.batch_size=64", "Learner.updates_per_call=16")
    with parts_of("dqn_cartpole", "inline_without_xla", tmp_path / "replay", *settings) as (plan, parts):
        agent, learner = parts.agent, parts.agent.learner
        act(agent, parts.environment, lambda: agent.actor.items >= 1_500)
        if not inline:
            plan.connect(learner, [f"localhost:{parts.server.port}"])
        drawn: list[np.ndarray] = []

        def sampled() -> int:
            info: Any = parts.client.server_info()[tables.TABLE].rate_limiter_info
            return info.sample_stats.completed

        def await_what_is_in_flight(keys: tf.Tensor) -> np.ndarray:
            drawn.append(keys.numpy())
            wait_until(lambda: sampled() >= 1024 * len(drawn) + FRESH, "draws in flight")
            before = -1
            while before != (before := sampled()):
                time.sleep(0.1)
            return keys.numpy()

        write = learner._write_priorities
        assert write is not None

        def write_late(keys: tf.Tensor, *others: tf.Tensor) -> None:
            write(tf.ensure_shape(tf.py_function(await_what_is_in_flight, [keys], tf.uint64), keys.shape), *others)

        learner._write_priorities = write_late
        for _ in range(3):
            learner.run(0)
    first, second, third = drawn
    of_the_first = np.isin(second, first)
    # The first call had about 0.4 of the items.
    assert late / 16 < of_the_first.sum() < 0.75 * late
    assert not of_the_first[late:].any()
    assert not np.isin(third, first).any()
    assert not np.isin(third, second)[late:].any()
