"""The seed's loop with a replay: what its first call learns from."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.configs.test_conformance import learn, parts_of

SETTINGS = {
    "dqn_cartpole": ("DQN.min_replay_size=400", "DQN.batch_size=64", "Learner.updates_per_call=8"),
    "dqn_cartpole_uniform": ("DQN.min_replay_size=1_600", "DQN.batch_size=64", "Learner.updates_per_call=16"),
    "ddpg_pendulum": ("DDPG.min_replay_size=1_200", "DDPG.batch_size=64", "Learner.updates_per_call=16"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_call_draws_every_item_alike(name: str, tmp_path: Path) -> None:
    with parts_of(name, "inline_without_xla", tmp_path / "replay", *SETTINGS[name]) as (_, parts):
        agent, environment, learner = parts.agent, parts.environment, parts.agent.learner
        state = environment.reset(0)
        while not learner.due(agent.actor.env_steps, agent.actor.items):
            last_state = state
            action = agent.act(state)
            state, reward, done = environment.step(action)
            agent.observe(last_state, action, reward, done, state)
        agent.actor.flush()
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
