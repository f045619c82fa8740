"""An environment by its name."""

from __future__ import annotations

from pipeline.envs.environment import Environment
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import UserError


def make(name: str, render_mode: str | None = None) -> Environment:
    """Makes the environment that `name` says; raises UserError, with the near names, where there is none.

    `render_mode`: 'rgb_array' for one that can `render`, 'human' for one that shows itself in a window.

    'scripted' or another name of the registry is that class with its gin bindings; anything else is an id of gym
    or gymnasium: 'CartPole-v1', 'gymnasium:Acrobot-v1', 'module:Id-v0'.
    """
    if name in ENVIRONMENTS.names() and name != "gym":
        if render_mode == "human":
            raise UserError(f"Environment '{name}' has no window of its own: use --record_video.")
        return ENVIRONMENTS.get(name)()
    return ENVIRONMENTS.get("gym")(name, render_mode)
