"""One registry a folder: a file's classes are known by name, and its module is imported when one is asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import gin

from pipeline import index
from pipeline.types import UserError

C = TypeVar("C", bound=type)

_listeners: list[Callable[[], None]] = []


def call_when_loaded(listener: Callable[[], None]) -> None:
    """From now on `listener` is called whenever a registry has loaded a class, before that class is configured."""
    _listeners.append(listener)


class Registry:
    """The classes of one kind, e.g. `ALGOS = Registry("algorithm", "agents.algos")`. It never holds instances."""

    def __init__(self, kind: str, package: str):
        self.kind = kind
        self.package = package
        self._imported: dict[str, type] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: makes the class known as `name` here, and as its own name to gin."""

        def decorate(cls: C) -> C:
            self._imported[name] = cls
            gin.register(cls)
            return cls

        return decorate

    def names(self) -> list[str]:
        """Every name, imported or not."""
        return sorted({entry.name for entry in index.scan(self.package)} | set(self._imported))

    def _check_takes(self, name: str, takes: str) -> None:
        every = {entry.name: entry.constants.get("takes") for entry in index.scan(self.package)}
        every |= {known: getattr(cls, "takes", None) for known, cls in self._imported.items()}
        if takes and every[name] != takes:
            fit = " or ".join(sorted(known for known, kind in every.items() if kind == takes))
            raise UserError(f"The {self.kind} '{name}' takes {every[name]}, and {takes} are what there is: use {fit}.")

    def check(self, name: str) -> None:
        """Raises UserError with the near names where `name` is unknown; imports nothing."""
        if name not in self.names():
            raise UserError(f"There is no {self.kind} '{name}'; {index.near(name, self.names())}")

    def get(self, name: str, takes: str = "") -> Callable[..., Any]:
        """The class with gin's bindings as defaults; called with the remaining arguments it makes an instance.

        `takes`: what it must say that it is called with, where the registry's classes differ in that.
        """
        self.check(name)
        self._check_takes(name, takes)
        return gin.get_configurable(self.load(name))

    def configured(self, name: str) -> dict[str, Any]:
        """What the class's constructor would be given, without making an instance: gin's bindings over its defaults."""
        cls = self.load(name)
        parameters = inspect.signature(cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty} | gin.get_bindings(cls)

    def load(self, name: str) -> type:
        """The class itself; raises UserError as `check`."""
        self.check(name)
        if name not in self._imported:
            importlib.import_module(next(e.module for e in index.scan(self.package) if e.name == name))
        for listener in _listeners:
            listener()
        return self._imported[name]
