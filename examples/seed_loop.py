"""The seed's loop, by hand: the same agent as `train`, on one environment.

PYTHONPATH=. .venv/bin/python examples/seed_loop.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from agents.agent import Agent
from binaries import settings
from binaries.experiment import Plan
from pipeline.envs.environment import Environment


def loop(agent: Agent, env: Environment, max_steps: int) -> None:
    """Acts and learns for `max_steps` steps; the environment starts each next episode by itself."""
    state = env.reset()
    for step in range(max_steps):
        last_state = state
        action = agent.act(state)
        state, reward, done = env.step(action)
        agent.observe(last_state, action, reward, done, state)
        agent.update()
        if step % 1000 == 999:
            finished, agent.actor.finished = agent.actor.finished, []
            print(f"step {step + 1}: mean return {sum(r for r, _ in finished) / max(len(finished), 1):.1f}")


def main(hparams: str = "dqn_cartpole", max_steps: int = 10_000) -> Agent:
    """Puts the parts of `hparams` together and runs the loop."""
    settings.apply(settings.read(hparams, [], {}))
    with tempfile.TemporaryDirectory() as scratch:
        parts = Plan("local", single=True).build(Path(scratch))
        assert isinstance(parts.environment, Environment)
        loop(parts.agent, parts.environment, max_steps)
        parts.close()
    return parts.agent


if __name__ == "__main__":
    main()
