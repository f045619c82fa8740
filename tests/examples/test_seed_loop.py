"""The seed's loop runs as written, and learns on the same objects as `train`."""

from __future__ import annotations

import inspect

import gin
import pytest

from examples import seed_loop

AS_WRITTEN = """
        last_state = state
        action = agent.act(state)
        state, reward, done = env.step(action)
        agent.observe(last_state, action, reward, done, state)
        agent.update()
"""


@pytest.fixture(autouse=True)
def no_settings_left_behind():
    yield
    gin.clear_config()


def test_the_loop_is_the_seeds() -> None:
    assert AS_WRITTEN in inspect.getsource(seed_loop.loop)


def test_the_loop_acts_observes_and_updates(capsys: pytest.CaptureFixture[str]) -> None:
    agent = seed_loop.main(max_steps=2_000)
    # Every step but those that the environment spends on its resets is counted; an update each past the first 1,000.
    assert agent.actor.env_steps + agent.actor.episodes in (2_000, 2_001)
    due = agent.actor.env_steps - 1_000
    assert due - agent.learner.batches < agent.learner.updates <= due
    assert agent.metrics["loss"] > 0
    assert "step 2000: mean return" in capsys.readouterr().out
