"""Environments by the class that makes them: 'my_package.worlds:Maze'."""

from __future__ import annotations

import functools
import inspect
import sys

import dm_env

from pipeline.envs.environment import Environment
from pipeline.envs.gym import LIBRARIES, GymAdapter, cannot_be_made, errors, import_module, prepare, takes
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import UserError


def is_class(name: str) -> bool:
    """Whether `name` is 'module:Class', or a function of a module; else it may be an id, as 'module:Id-v0' is.

    Raises UserError where the module cannot be imported.
    """
    module, _, attribute = name.rpartition(":")
    if not module or module in LIBRARIES or not attribute.isidentifier():
        return False
    return callable(getattr(import_module(name), attribute, None))


@ENVIRONMENTS.register("class")
class EnvironmentClass:
    """Calling this makes the environment of 'module:Class', which may be a function too.

    What it gives is taken as it is where it is one of ours, and adapted where it is one of gym, gymnasium or dm_env.
    """

    render_mode: str | None = None
    """handed on where the class takes it; see `make`"""
    options: dict[str, object] | None = None
    """the class's keyword arguments"""

    def __new__(
        cls, name: str, render_mode: str | None = None, options: dict[str, object] | None = None
    ) -> Environment:
        """Raises UserError where the class does not take the `options`, or gives something else."""
        if not is_class(name):
            raise UserError(f"There is no environment class '{name}': it is written 'module:Class'.")
        made_by = getattr(import_module(name), name.rpartition(":")[2])
        keywords = dict(options or {})
        if render_mode and takes(made_by, "render_mode"):
            keywords["render_mode"] = render_mode
        try:
            inspect.signature(made_by).bind(**keywords)
        except TypeError as error:
            raise UserError(f"'{name}' cannot be called ({error}): EnvironmentClass.options is {options}.") from error
        prepare(render_mode)
        make = functools.partial(made_by, **keywords)
        try:
            made = make()
        except (ImportError, *errors()) as error:
            raise cannot_be_made(name, error) from error
        if any(isinstance(made, sys.modules[library].Env) for library in LIBRARIES if library in sys.modules):
            return GymAdapter(name, made, make, render_mode)
        if render_mode == "human" and "render_mode" not in keywords:
            raise UserError(f"Environment '{name}' has no window of its own: use --record_video.")
        if isinstance(made, dm_env.Environment):
            from pipeline.envs.dm import DmEnvironment

            return DmEnvironment(made)
        if not isinstance(made, Environment):
            raise UserError(
                f"'{name}' gives something of type {type(made).__name__}: it must give an environment of gym,"
                " gymnasium, dm_env or pipeline.envs."
            )
        return made
