"""An environment, or a block of them, by its name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gin
import tree

from pipeline.envs.block import Alone, Block, InProcess
from pipeline.envs.choices import check_choices
from pipeline.envs.closing import keep
from pipeline.envs.environment import Environment
from pipeline.envs.guard import Quit, guarded
from pipeline.envs.gym import located
from pipeline.envs.named import is_class
from pipeline.envs.own import narrow
from pipeline.envs.processes import Processes
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.wrappers.registry import WRAPPERS
from pipeline.types import RunError, UserError


def make(name: str, render_mode: str | None = None, training: bool = True, wrappers: Sequence[str] = ()) -> Environment:
    """Makes the environment that `name` says; raises UserError, with the near names, where there is none.

    'scripted' or another name of the registry is that class with its gin bindings; 'procgen:coinrun' is the class
    'procgen' called with 'coinrun'; anything else is an id of gym or gymnasium, or an environment's class:
    'CartPole-v1', 'gymnasium:Acrobot-v1', 'module:Id-v0', 'module:Class'.

    `render_mode`: 'rgb_array' for one that can `render`, 'human' for one that shows itself in a window. `training`:
    whether it is for training, where the world tells that from evaluation (levels held out, lives that end episodes).
    `wrappers`: names of pipeline/envs/wrappers, the innermost first.
    """
    base, *around = _recipe(name, render_mode, training, wrappers)
    try:
        environment = _assemble([part._replace(make=gin.get_configurable(part.make)) for part in (base, *around)])
    except Quit as error:
        raise UserError(f"Environment '{name}' cannot be made ({error}).") from error
    _check_specs(environment, name)
    return environment


def check_begins(environment: Environment) -> None:
    """Raises UserError where an environment's first state is not what its specs say.

    What else goes wrong in it counts when the run begins.
    """
    try:
        environment.reset(0)
    except (UserError, RunError):
        raise
    except Exception:
        return


def maker(name: str, training: bool = True, wrappers: Sequence[str] = ()) -> Callable[[], Environment]:
    """`make` with these arguments, for later and for another process: gin's bindings travel with it."""
    parts = _recipe(name, None, training, wrappers)
    bound = [part._replace(named={**gin.get_bindings(part.make), **part.named}) for part in parts]
    return functools.partial(_assemble, bound)


def make_block(
    name: str,
    lanes: int,
    training: bool = True,
    wrappers: Sequence[str] = (),
    processes: int = 0,
    timeout: float = 60.0,
    stop: Callable[[], bool] | None = None,
) -> Block:
    """`lanes` environments as `make` has them.

    In `processes` of their own, where that is not 0 (`timeout`: seconds that a step may take there); else inside the
    library of their world, where it steps many at once and there are no `wrappers`; else in this process (`stop`: see
    `InProcess`).
    """
    if processes:
        return Processes([maker(name, training, wrappers)] * lanes, processes, timeout)
    cls, rest = resolve(name)
    if issubclass(cls, Block) and not wrappers:
        return gin.get_configurable(cls)(rest, lanes, training)
    return InProcess([functools.partial(make, name, None, training, wrappers)] * lanes, stop)


def has_held_out(name: str) -> bool:
    """Whether the world of `name` tells what is trained on from what is held out for evaluation."""
    return getattr(resolve(name)[0], "held_out", False)


def _check_specs(environment: Environment, name: str) -> None:
    """Raises UserError where states or actions hold no number, what rows cannot hold, or what agents do not choose."""
    for kind, spec in (("observation_spec", environment.observation_spec), ("action_spec", environment.action_spec)):
        leaves = tree.flatten_with_path(spec)
        for path, leaf in leaves:
            if leaf.dtype != narrow(leaf.dtype) or leaf.dtype.kind not in "biuf":
                within = "".join(f"[{part!r}]" for part in path)
                raise UserError(
                    f"'{name}' has the {kind}{within} {leaf}: use np.float32, or integers of at most 32 bits."
                )
        if not leaves or any(0 in leaf.shape for _, leaf in leaves):
            what, instead = (
                ("states", "a constant will do") if kind == "observation_spec" else ("actions", "Discrete(1) will do")
            )
            shapes = ", ".join(f"{leaf.dtype} {list(leaf.shape)}" for _, leaf in leaves) or "nothing at all"
            raise UserError(f"'{name}' has {what} without numbers ({shapes}), and agents need one: {instead}.")
    check_choices(environment.action_spec, name)


class _Part(NamedTuple):
    """An environment's class, or a wrapper's, and what it is called with."""

    make: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]


def resolve(name: str) -> tuple[type, str]:
    """The class that `name` chooses, and what is left of the name."""
    prefix, colon, rest = name.partition(":")
    if name.startswith("procgen-"):  # as the library registers its games with gym
        prefix, colon, rest = "procgen", ":", name
    if prefix in ENVIRONMENTS.names() and prefix != "gym":
        return ENVIRONMENTS.load(prefix), rest if colon else ""
    if is_class(name):
        return ENVIRONMENTS.load("class"), name
    return ENVIRONMENTS.load("gym"), located(name)


def _recipe(name: str, render_mode: str | None, training: bool, wrappers: Sequence[str]) -> list[_Part]:
    cls, rest = resolve(name)
    if cls in (ENVIRONMENTS.load("gym"), ENVIRONMENTS.load("class")):
        base = _Part(cls, (rest, render_mode), {})
    elif render_mode == "human":
        raise UserError(f"Environment '{name}' has no window of its own: use --record_video.")
    elif issubclass(cls, Block):
        base = _Part(cls, (rest, 1, training, render_mode is not None), {})
    else:
        needed = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
        # Without the name that it needs it says which ones there are.
        base = _Part(cls, (rest,) if rest or needed else (), {})
    return [base, *(_Part(WRAPPERS.load(wrapper), (), {}) for wrapper in wrappers)]


def _assemble(parts: Sequence[_Part]) -> Environment:
    base, *around = parts
    with guarded():
        made = base.make(*base.arguments, **base.named)
        environment = Alone(made) if isinstance(made, Block) else made
        for part in around:
            environment = part.make(environment, **part.named)
    keep(environment)
    return environment
