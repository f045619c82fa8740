"""An environment by its name."""

from __future__ import annotations

from pipeline.envs.environment import Environment
from pipeline.envs.registry import ENVIRONMENTS


def make(name: str) -> Environment:
    """Makes the environment that `name` says; raises UserError, with the near names, where there is none.

    'scripted' or another name of the registry is that class with its gin bindings; anything else is an id of gym
    or gymnasium: 'CartPole-v1', 'gymnasium:Acrobot-v1', 'module:Id-v0'.
    """
    if name in ENVIRONMENTS.names() and name != "gym":
        return ENVIRONMENTS.get(name)()
    return ENVIRONMENTS.get("gym")(name)
