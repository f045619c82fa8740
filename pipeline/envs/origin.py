"""Which library makes an environment."""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import NamedTuple

from pipeline.envs.gym import LIBRARIES, find, import_module, knows
from pipeline.envs.make import resolve
from pipeline.envs.registry import ENVIRONMENTS

DISTRIBUTIONS = {
    "atari": "ale-py",
    "dm": "dm-control",
    "envpool": "envpool",
    "habitat": "habitat-lab",
    "procgen": "procgen",
    "vizdoom": "vizdoom",
}
"""of the worlds of this folder, by their modules"""


class Origin(NamedTuple):
    """Who makes an environment."""

    name: str
    """as it was asked for"""
    library: str
    """a package; for a class of one's own, the one whose API it has, or its module"""
    version: str
    """'' where it is not known"""
    other: str
    """how one of the same id is asked for that another library has; '' where there is none"""

    def __str__(self) -> str:
        other = f" ({self.other} asks for {self.other.partition(':')[0]}'s)" if self.other else ""
        return f"{self.name} of {self.library} {self.version}".rstrip() + other


def origin(name: str) -> Origin:
    """Of the environment that `name` chooses, as `pipeline.envs.make.make` takes it; raises UserError as that does."""
    cls, rest = resolve(name)
    other = ""
    if cls is ENVIRONMENTS.load("gym"):
        library, known_id = find(rest)
        rival = next(each for each in LIBRARIES if each != library)
        if not name.startswith(f"{library}:") and knows(rival, known_id):
            other = f"{rival}:{known_id}"
    elif cls is ENVIRONMENTS.load("class"):
        library = _api(rest)
    else:
        library = DISTRIBUTIONS.get(cls.__module__.rpartition(".")[2], cls.__module__)
    return Origin(name, library, _version(library), other)


def _api(name: str) -> str:
    """The package whose API the class 'module:Class' has; its module, where that does not tell."""
    module, _, attribute = name.rpartition(":")
    made_by = getattr(import_module(name), attribute)
    bases = [cls.__module__.partition(".")[0] for cls in inspect.getmro(made_by)] if inspect.isclass(made_by) else []
    return next((base for base in bases if base in (*LIBRARIES, "dm_env")), module)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
