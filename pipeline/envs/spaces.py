"""Spaces of gym and gymnasium, as specs, and what translates their states and actions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import dm_env.specs as specs
import numpy as np

from pipeline.envs.choices import check_choices, choices
from pipeline.envs.notices import say_once
from pipeline.envs.own import Own, narrow
from pipeline.envs.states import Counts, Leaf, Place, Read, read_dict, read_tuple
from pipeline.types import Nest, UserError

LONGEST = 2**31 - 1
"""values that a state's integer may have"""


class States(NamedTuple):
    """How a space's states become ours."""

    spec: Nest
    own: Nest
    """an `Own` for each array of `spec`"""
    read: Read


class Actions(NamedTuple):
    """How our actions become a space's."""

    spec: Nest
    own: Nest
    write: Callable[[Nest], Any]


def states(space: Any, place: Place) -> States:
    """The translation of states of `space`.

    What a Dict or a Tuple holds that is no array of numbers, as a text, is left out and told. Raises UserError where
    nothing is left.
    """
    kind = _kind(space)
    if kind in ("Dict", "Tuple"):
        return _nested_states(space, kind, place)
    if kind == "Box":
        own = Own(np.dtype(space.dtype), 0, space.low, space.high)
        spec = _bounded(space)
        return States(spec, own, Leaf(spec, own, place))
    if kind is None:
        raise UserError(_unsupported(space, f"the {place}"))
    start, counts = _counts(space, kind)
    if np.max(counts, initial=0) > LONGEST:
        raise UserError(f"The {place} is {space}, and integers have at most 32 bits: make it a Box of np.float32.")
    if kind == "Discrete":
        spec = specs.DiscreteArray(int(counts), np.int32)
    else:
        spec = specs.BoundedArray(counts.shape, np.int32, 0, counts - 1)
    own = Own(np.dtype(space.dtype), start)
    return States(spec, own, Counts(spec, own, place, counts))


def actions(space: Any, owner: str) -> Actions:
    """The translation of actions of `space`: integers count from 0, and reals are clipped to their bounds.

    Raises UserError where they cannot be served.
    """
    kind = _kind(space)
    if kind in ("Dict", "Tuple"):
        parts = {name: actions(part, owner) for name, part in _items(space, kind)}
        spec, own = ({name: part[i] for name, part in parts.items()} for i in range(2))
        if kind == "Dict":
            return Actions(spec, own, lambda action: {name: part.write(action[name]) for name, part in parts.items()})
        return Actions(
            tuple(spec.values()),
            tuple(own.values()),
            lambda action: tuple(part.write(action[index]) for index, part in parts.items()),
        )
    if kind is None:
        raise UserError(_unsupported(space, f"actions of '{owner}'"))
    dtype = np.dtype(space.dtype)
    if kind == "Box" and dtype.kind == "f":
        own = Own(dtype, 0, space.low, space.high)
        return Actions(_bounded(space), own, own.to_own())
    if kind == "Box":
        spec = choices(space.low, space.high, space.shape, owner)
        own = Own(dtype, space.low)
        return Actions(spec, own, own.to_own())
    start, counts = _counts(space, kind)
    if kind == "Discrete":
        own = Own(dtype, start)
        spec = choices(0, int(counts) - 1, (), owner)
        return Actions(spec, own, lambda action: int(action) + start)
    spec = specs.BoundedArray(counts.shape, np.int32, 0, counts - 1)
    check_choices(spec, owner)
    own = Own(dtype, start)
    return Actions(spec, own, own.to_own())


KINDS = ("Discrete", "MultiDiscrete", "MultiBinary", "Box", "Dict", "Tuple")


def _kind(space: Any) -> str | None:
    """Which of `KINDS` it is, in either library; None: of none."""
    return next((cls.__name__ for cls in type(space).__mro__ if cls.__name__ in KINDS), None)


def _unsupported(space: Any, what: str) -> str:
    *others, last = KINDS
    kind = type(space).__name__
    return f"Spaces of kind {kind} are not supported; use {', '.join(others)} or {last} ({what})."


def _items(space: Any, kind: str) -> Iterable[tuple[Any, Any]]:
    """The parts of a Dict by name, or of a Tuple by index."""
    return space.spaces.items() if kind == "Dict" else enumerate(space.spaces)


def _is_supported(space: Any) -> bool:
    """Whether anything in it can be learnt from."""
    kind = _kind(space)
    if kind in ("Dict", "Tuple"):
        return any(_is_supported(part) for _, part in _items(space, kind))
    return kind is not None and 0 not in space.shape


def _nested_states(space: Any, kind: str, place: Place) -> States:
    parts: dict[Any, States] = {}
    for name, part in _items(space, kind):
        if _is_supported(part):
            parts[name] = states(part, place.at(name))
        else:
            what = f"{type(part).__name__}{'' if _kind(part) is None else ' without numbers'}"
            say_once(f"The {place.at(name)} is a {what}, which no network takes: it is left out.")
    if not parts:
        raise UserError(f"The {place} is {space}: nothing in it is {', '.join(KINDS[:3])} or {KINDS[3]} with numbers.")
    spec, own, read = ({name: part[i] for name, part in parts.items()} for i in range(3))
    if kind == "Dict":
        return States(spec, own, read_dict(read, place))
    return States(tuple(spec.values()), tuple(own.values()), read_tuple(read, len(space.spaces), place))


def _counts(space: Any, kind: str) -> tuple[Any, np.ndarray]:
    """What the integers of a space begin with, and how many values each has."""
    if kind == "Discrete":
        return int(getattr(space, "start", 0)), np.array(int(space.n), np.int64)
    if kind == "MultiBinary":
        return 0, np.full(space.shape, 2, np.int64)
    return np.asarray(getattr(space, "start", np.zeros_like(space.nvec)), space.dtype), space.nvec.astype(np.int64)


def _bounded(space: Any) -> specs.BoundedArray:
    """The spec of a Box, with numbers of 32 bits for those of other widths than rows hold."""
    low, high = space.low, space.high
    dtype = narrow(space.dtype)
    if dtype.kind in "iu":
        low, high = (np.clip(bound, np.iinfo(dtype).min, np.iinfo(dtype).max) for bound in (low, high))
    with np.errstate(over="ignore"):  # float64's largest numbers become infinite
        return specs.BoundedArray(space.shape, dtype, low, high)
