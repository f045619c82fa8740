"""Numbers that are not finite are seen where actions are chosen, whatever hides them, and never given to anybody."""

from __future__ import annotations

from functools import partial
from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
import tensorflow as tf

from agents.actor import Actor, Policy
from agents.agent import Agent
from agents.algos.algo import networks
from agents.algos.ddpg import DDPG
from agents.algos.dqn import DQN
from agents.algos.ppo import PPO
from agents.algos.registry import ALGOS
from agents.evaluator import Evaluator, FirstSeen
from agents.finite import are_finite
from agents.learner import LOOKED_AT, Learner, LearnerError, make_strategy
from pipeline.envs.block import InProcess
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.agents.helpers import ACTION, OBSERVATION, feed, make_learner, random_draw

BOX = specs.BoundedArray((2,), np.float32, -1.0, 1.0)
MULTI = specs.BoundedArray((2,), np.int32, 0, [1, 2])
E, K, B = 3, 4, 16
LATE = 1_000_000
"""environment steps, when nobody explores any more"""
ACTING: dict[str, tuple[str, dict[str, Any], Any]] = {
    "dqn": ("dqn", {}, ACTION),
    "ppo": ("ppo", {}, ACTION),
    "ppo, several": ("ppo", {}, MULTI),
    "ppo, continuous": ("ppo", {}, BOX),
    "vpg": ("vpg", {"value_model": ""}, ACTION),
    "ddpg": ("ddpg", {}, BOX),
    "ddpg, discrete": ("ddpg", {"act_select": "non_uniform_random"}, ACTION),
    "tf_agents_dqn": ("tf_agents_dqn", {}, ACTION),
    "tf_agents_ppo": ("tf_agents_ppo", {}, ACTION),
    "tf_agents_sac": ("tf_agents_sac", {}, BOX),
}


def acting(name: str) -> tuple[Any, Any, Any]:
    algo, settings, action_spec = ACTING[name]
    made = ALGOS.get(algo)(**settings)
    return made, networks(made, OBSERVATION, action_spec), action_spec


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ACTING)
def test_what_actions_are_chosen_from_is_looked_at(name: str, training: bool) -> None:
    algo, params, action_spec = acting(name)
    policy = Policy(algo, params, OBSERVATION, E, 1, training)
    states, first = np.ones((E, 4), np.float32), np.zeros(E, bool)
    policy(states, first, LATE)
    assert policy.not_finite == 0
    variables = [v for model in params.online.values() for v in model.trainable_variables]
    sound = [v.numpy() for v in variables]
    # The values of finite weights may be infinite.
    for value in (np.nan, 3e38):
        for variable, own in zip(variables, sound, strict=True):
            variable.assign(np.full_like(own, value))
        before = policy.not_finite
        action, extras = policy(states, first, LATE)
        assert policy.not_finite == before + 1
        assert action.shape == (E, *action_spec.shape)
        assert action.dtype == action_spec.dtype
        np.testing.assert_array_equal(action, 0)
        assert all(np.isnan(leaf).all() for leaf in extras.values() if leaf.dtype.kind == "f")


def cartpole(algo: Any) -> tuple[Any, Any]:
    """Parameters for it, and a maker of its lanes."""
    tf.keras.utils.set_random_seed(2)
    one = make("CartPole-v1")
    lanes = lambda: Lanes(InProcess([partial(make, "CartPole-v1")] * 2), together=True)  # noqa: E731
    return networks(algo, one.observation_spec, one.action_spec), lanes


def test_an_evaluation_counts_its_steps_by_weights_that_a_rectifier_hides() -> None:
    params, lanes = cartpole(DQN())
    evaluators = [Evaluator(DQN(), params, lanes, count, seed=5) for count in (3, 2)]
    play = evaluators[0]
    play.run()
    assert play.not_finite == 0
    bias = params.online["q"].variables[1]
    # A rectifier makes 0 of it.
    bias.assign(np.full(bias.shape, -np.inf))
    assert np.isfinite(params.online["q"](tf.ones([1, 4]))).all()
    returns = play.run()
    # Two episodes at once, then the third beside one that is played again.
    assert play.not_finite == max(returns[:2]) + returns[2]
    whole = FirstSeen(*evaluators)
    whole.run()
    assert whole.not_finite == sum(each.not_finite for each in evaluators) > play.not_finite


def test_an_evaluation_counts_its_steps_by_values_that_are_not_finite_though_weights_are() -> None:
    params, lanes = cartpole(DQN())
    play = Evaluator(DQN(), params, lanes, 2, seed=5)
    for variable in params.online["q"].variables:
        variable.assign(np.full(variable.shape, 3e38))
    assert are_finite(params.online["q"].variables)
    assert play.run().max() <= play.not_finite <= 500


def agent_of(learner: Learner, algo: Any) -> Agent:
    policy = Policy(algo, learner.params, OBSERVATION, E, 0, training=True)
    return Agent(algo, Actor(policy, None, ACTION, E, algo.data()), learner, E)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("value", "said"),
    [(3e38, r"^What the policy says at environment step 0 is not finite"), (np.nan, "they were restored so")],
)
def test_an_agent_that_learns_stops_in_a_sentence_that_says_why(value: float, said: str) -> None:
    algo = DQN(batch_size=B)
    learner = make_learner(algo, Uniform(), make_strategy("local"), updates_per_call=K)
    agent = agent_of(learner, algo)
    agent.act(np.ones((E, 4), np.float32))
    for variable in learner.params.online["q"].variables:
        variable.assign(np.full(variable.shape, value))
    with pytest.raises(LearnerError, match=said):
        agent.act(np.ones((E, 4), np.float32))


@pytest.mark.parametrize("part", ["target", "slot"])
def test_targets_and_what_optimizers_keep_are_looked_at(part: str) -> None:
    algo = DQN(batch_size=B, learning_rate=1e-9)
    learner = make_learner(algo, Uniform(), make_strategy("local"), updates_per_call=K)
    draw = random_draw(K, B, 2)
    # All windows terminate: their target says nothing that the loss could show.
    feed(learner, draw._replace(steps=draw.steps._replace(discount=tf.zeros_like(draw.steps.discount))))
    learner.run(0)
    if part == "target":
        variable = learner.params.target["q"].variables[0]
    else:
        # An infinite second moment: this weight would never move again, and never be NaN.
        variable = next(v for v in learner._optimizers["q"].variables if v.name.startswith("v/"))
    variable.assign(np.full(variable.shape, np.inf))
    with pytest.raises(LearnerError, match=r"(Parameters, targets or the optimizer's own numbers are|loss is)"):
        learner.run(0)


def told(learner: Learner, calls: int = 2) -> list[str]:
    said: list[str] = []
    learner.warn = said.append
    for _ in range(calls):
        learner.run(700)
    return said


def only_bias(model: Any) -> None:
    """Lets `model` say 1, whatever it is given."""
    kernel, bias = model.variables[-2:]
    kernel.assign(tf.zeros_like(kernel))
    bias.assign(tf.ones_like(bias))


def test_one_value_for_every_state_is_said_once() -> None:
    algo = DQN(batch_size=B, learning_rate=1e-30)
    learner = make_learner(algo, Uniform(), make_strategy("local"), updates_per_call=K)
    draw = random_draw(K, B, 2)
    feed(learner, draw)
    assert not told(learner)
    only_bias(learner.params.online["q"])
    (line,) = told(learner)
    at = 3 * K
    assert line.startswith(
        f"WARNING: after update {at} (environment step 700) the values of {LOOKED_AT} different states"
    )


def test_states_that_are_the_same_may_have_one_value() -> None:
    learner = make_learner(DQN(batch_size=B), Uniform(), make_strategy("local"), updates_per_call=K)
    draw = random_draw(K, B, 2)
    feed(learner, draw._replace(steps=draw.steps._replace(observation=tf.ones_like(draw.steps.observation))))
    assert not told(learner)


def test_a_critic_of_actions_is_looked_at_too() -> None:
    tf.keras.utils.set_random_seed(0)
    algo = DDPG(batch_size=B, actor_learning_rate=1e-30, critic_learning_rate=1e-30)
    learner = Learner(
        algo, Uniform(), make_strategy("local"), OBSERVATION, BOX, train_steps=1000, seed=0, updates_per_call=K
    )
    draw = random_draw(K, B, 2)
    feed(learner, draw._replace(steps=draw.steps._replace(action=tf.zeros([K, B, 2, 2]))))
    assert not told(learner)
    only_bias(learner.params.online["critic"])
    assert len(told(learner)) == 1


def test_rollouts_are_looked_at_too() -> None:
    tf.keras.utils.set_random_seed(0)
    algo = PPO(rollout_length=LOOKED_AT, batch_size=2 * LOOKED_AT, learning_rate=1e-30)
    learner = Learner(algo, Queue(), make_strategy("local"), OBSERVATION, ACTION, train_steps=1000, seed=0)
    draw = random_draw(1, 2, LOOKED_AT + 1)
    extras = {**draw.steps.extras, "log_prob": tf.fill(draw.steps.reward.shape, -0.7)}
    feed(learner, draw._replace(steps=draw.steps._replace(extras=extras)))
    assert not told(learner)
    only_bias(learner.params.online["value"])
    (line,) = told(learner)
    assert "different states are one and the same number" in line
