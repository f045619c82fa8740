"""Where states enter: each becomes arrays of its spec's shapes and dtypes, checked, and shared with nobody.

Environments write their next state into the arrays of the last one, and give other arrays than their spaces declare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import dm_env.specs as specs
import numpy as np

from pipeline.envs.notices import say_once
from pipeline.envs.own import Own, as_it_is
from pipeline.types import Nest, UserError

Read = Callable[[Any], Nest]
"""what an environment gave -> arrays of our own; raises StateError"""


class StateError(UserError):
    """A state that is not what the environment declares."""


class Place(NamedTuple):
    """A part of an environment's states, for messages."""

    owner: str
    path: tuple[Any, ...] = ()

    def at(self, part: Any) -> Place:
        """A part of this part."""
        return self._replace(path=(*self.path, part))

    def __str__(self) -> str:
        within = "".join(f"[{part!r}]" for part in self.path)
        return f"state{within} of '{self.owner}'"


class Leaf:
    """Reads one array. It may come in another type of numbers than declared, if that loses no values."""

    def __init__(self, spec: specs.Array, own: Own, place: Place):
        """`own`: how it is declared. What is read has the shape and dtype of `spec`."""
        self._shape, self._dtype, self._own, self._place = spec.shape, spec.dtype, own, place

    def __call__(self, given: Any) -> np.ndarray:
        if type(given) is np.ndarray and given.dtype == self._dtype and given.shape == self._shape:
            return given.copy()
        return self._converted(self._checked(given))

    def _checked(self, given: Any) -> np.ndarray:
        """`given` as an array of numbers of the declared shape."""
        try:
            array = np.asarray(given)
        except ValueError as error:
            raise self.error(f"is no array ({error})") from error
        if array.dtype.kind not in "biuf":
            raise self.error(f"is of type {type(given).__name__}")
        if array.shape != self._shape:
            raise self.error(f"has the shape {array.shape}")
        return array

    def _converted(self, array: np.ndarray) -> np.ndarray:
        """A copy of `array` in the spec's dtype."""
        if self._dtype.kind == "f":
            with np.errstate(over="ignore"):  # what becomes infinite is found where states are looked at
                return array.astype(self._dtype)
        if np.can_cast(array.dtype, self._dtype):
            return array.astype(self._dtype)
        with np.errstate(invalid="ignore"):
            converted = array.astype(self._dtype)
        lost = converted != array
        if lost.any():
            self._lose(array, array[lost], np.abs(converted[lost] - array[lost].astype(np.float64)))
        return converted

    def _lose(self, array: np.ndarray, lost: np.ndarray, by: np.ndarray) -> None:
        """Says what a conversion loses, or raises StateError where that is more than fractions."""
        is_fraction = array.dtype.kind == "f" and bool((by < 1).all())
        if is_fraction and np.abs(array).max() > 1:
            say_once(
                f"The {self._place} has fractions ({lost[0]:.6g}) and is declared as {self.declared}: they are cut."
            )
        elif is_fraction:
            raise self.error(
                f"has fractions ({lost[0]:.6g}) and nothing beyond 1, of which integers keep nothing",
                "declare it as np.float32, or give whole numbers",
            )
        else:
            narrowed = self._dtype != self._own.dtype
            beyond = f", beyond the {self._dtype} that is kept of it" if narrowed else ""
            mend = "declare and give it as np.float32" if narrowed else "make the two agree"
            raise self.error(f"has the {array.dtype} {lost[0]}{beyond}", mend)

    @property
    def declared(self) -> str:
        """What the environment says it gives."""
        return f"{self._own.dtype} {self._shape}"

    def error(self, what: str, mend: str = "make the two agree") -> StateError:
        """The error of an array that is not as declared."""
        return StateError(f"The {self._place} {what}, and is declared as {self.declared}: {mend}.")


class Counts(Leaf):
    """Reads integers that count from `own.offset`, as ones that count from 0 and are fewer than `counts`."""

    def __init__(self, spec: specs.Array, own: Own, place: Place, counts: Any):
        super().__init__(spec, own, place)
        self._offset = np.asarray(own.offset).astype(np.int64)
        self._counts = np.asarray(counts).astype(np.int64)
        self._single = (int(own.offset), int(counts)) if spec.shape == () else None

    def __call__(self, given: Any) -> np.ndarray:
        if self._single is not None and isinstance(given, int | np.integer):
            offset, count = self._single
            if 0 <= int(given) - offset < count:
                return np.array(int(given) - offset, self._dtype)
        array = self._checked(given)
        counted = array - self._offset
        if not ((counted >= 0) & (counted < self._counts)).all():
            raise self.error(f"is {array.tolist()}", "it counts beyond that")
        converted = counted.astype(self._dtype)
        if array.dtype.kind == "f" and (converted != counted).any():
            raise self.error(f"is {array.tolist()}", "give whole numbers")
        return converted

    @property
    def declared(self) -> str:
        last = (self._offset + self._counts - 1).tolist()
        return f"integers {self._shape} from {self._offset.tolist()} to {last}"


def read_dict(parts: Mapping[str, Read], place: Place) -> Read:
    """Reads dicts of `parts`; what else they hold is left out."""

    def read(given: Any) -> Nest:
        try:
            return {name: part(given[name]) for name, part in parts.items()}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(given, Mapping) and parts.keys() <= given.keys():
                raise
            has = f"has the keys {sorted(given)}" if isinstance(given, Mapping) else f"is a {type(given).__name__}"
            raise StateError(
                f"The {place} {has}, and is declared as a dict of {', '.join(map(repr, parts))}: make the two agree."
            ) from error

    return read


def read_tuple(parts: Mapping[int, Read], length: int, place: Place) -> Read:
    """Reads tuples of `length`, of which `parts` are kept, by their index."""

    def read(given: Any) -> Nest:
        if not isinstance(given, Sequence | np.ndarray) or len(given) != length:
            has = f"{len(given)} parts" if isinstance(given, Sequence | np.ndarray) else f"a {type(given).__name__}"
            raise StateError(f"The {place} is {has}, and is declared as a tuple of {length}: make the two agree.")
        return tuple(part(given[index]) for index, part in parts.items())

    return read


def reader(spec: Nest, place: Place, own: Nest = None) -> Read:
    """Reads states of a nest of specs; `own`: an `Own` for each of them, where the environment has others.

    Several times as fast as a walk through both nests.
    """
    if isinstance(spec, Mapping):
        parts = {k: reader(part, place.at(k), None if own is None else own[k]) for k, part in spec.items()}
        return read_dict(parts, place)
    if isinstance(spec, list | tuple):
        items = {k: reader(part, place.at(k), None if own is None else own[k]) for k, part in enumerate(spec)}
        return read_tuple(items, len(spec), place)
    how = as_it_is(spec) if own is None else own
    return (
        Counts(spec, how, place, spec.num_values) if isinstance(spec, specs.DiscreteArray) else Leaf(spec, how, place)
    )
