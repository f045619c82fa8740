"""Environments of gymnasium whose `reset` leaves out `seed` or `options`, as a beginner's does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium

from pipeline.envs.gym import takes
from pipeline.envs.notices import say_once
from pipeline.types import UserError

ARGUMENTS = ("seed", "options")


class Reset(gymnasium.Wrapper):
    """Hands to `reset` the arguments that it takes.

    Where that is not `seed`, `np_random` is seeded, which gymnasium's environments draw from, and `seed` is called if
    there is such a method, as there was in gym.
    """

    def __init__(self, env: gymnasium.Env, taken: list[str]):
        super().__init__(env)
        self._taken = taken

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None and "seed" not in self._taken:
            gymnasium.Env.reset(self.unwrapped, seed=seed)
            if _has_seed(self.unwrapped):
                self.unwrapped.seed(seed)  # pyright: ignore[reportAttributeAccessIssue]
        given = {"seed": seed, "options": options}
        return self.env.reset(**{name: given[name] for name in self._taken})  # pyright: ignore[reportArgumentType]


def fitted(environment: gymnasium.Env, name: str) -> gymnasium.Env:
    """`environment`, whose `reset` takes both arguments; `name` is for messages.

    Raises UserError where its `reset` or `step` asks for other arguments.
    """
    layers: list[Any] = [environment]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    _check(layers[-1].step, [], 1, f"step of '{name}'", "the action")
    inner: Any = None
    for layer in reversed(layers):
        if inner is not None:
            layer.env = inner
        taken = [argument for argument in ARGUMENTS if takes(layer.reset, argument)]
        _check(layer.reset, taken, 0, f"reset of '{name}'", "seed and options, by name")
        if "seed" not in taken and not _has_seed(environment.unwrapped):
            say_once(
                f"The reset of '{name}' takes no seed: what it draws from self.np_random repeats with the run's seed,"
                " and nothing else that it draws does."
            )
        parameters = inspect.signature(layer.reset).parameters
        required = any(parameters[a].default is inspect.Parameter.empty for a in taken if a in parameters)
        inner = Reset(layer, taken) if required or len(taken) < len(ARGUMENTS) else layer
    return inner


def _has_seed(core: Any) -> bool:
    return callable(getattr(core, "seed", None))


def _check(function: Callable[..., Any], named: list[str], count: int, what: str, given: str) -> None:
    """Raises UserError where `function` cannot be called with `named` arguments and `count` without a name."""
    signature = inspect.signature(function)
    try:
        signature.bind(*[None] * count, **dict.fromkeys(named))
    except TypeError as error:
        raise UserError(f"The {what} is {signature} ({error}): it is called with {given}.") from error
