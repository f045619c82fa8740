"""What can be configured, read from the source text: it is known before TensorFlow is imported."""

from __future__ import annotations

import ast
import difflib
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parent.parent


class Entry(NamedTuple):
    """A class that gin can configure."""

    name: str
    """as settings write it, e.g. 'prioritized'; the class's own name where it has no other"""
    class_name: str
    """as gin writes it, e.g. 'Prioritized'"""
    module: str
    parameters: Mapping[str, str]
    """annotations of the constructor's configurable parameters, as text"""
    constants: Mapping[str, object]
    """literal class attributes"""


@functools.cache
def scan(package: str) -> tuple[Entry, ...]:
    """The configurable classes in the files of `package` (dotted, below the repository root), in order of module."""
    entries: list[Entry] = []
    for path in sorted(ROOT.joinpath(*package.split(".")).glob("*.py")):
        entries += read(path.read_text(), f"{package}.{path.stem}")
    return tuple(entries)


def read(source: str, module: str) -> list[Entry]:
    """The classes in `source` that carry `@gin.register` or `@SOME_REGISTRY.register('name')`."""
    entries = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            name = next((n for n in map(_registered_name, node.decorator_list) if n is not None), None)
            if name is not None:
                entries.append(Entry(name or node.name, node.name, module, _parameters(node), _constants(node)))
    return entries


def _registered_name(decorator: ast.expr) -> str | None:
    """The name given to `.register`, '' where none is given, None for any other decorator."""
    if isinstance(decorator, ast.Call) and _registered_name(decorator.func) == "":
        return ast.literal_eval(decorator.args[0])
    return "" if isinstance(decorator, ast.Attribute) and decorator.attr == "register" else None


def _parameters(node: ast.ClassDef) -> dict[str, str]:
    """The constructor's parameters that have a default: the others are handed over by the code."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            plain = item.args.args[len(item.args.args) - len(item.args.defaults) :]
            named = [a for a, d in zip(item.args.kwonlyargs, item.args.kw_defaults, strict=True) if d is not None]
            return {a.arg: ast.unparse(a.annotation) if a.annotation else "object" for a in plain + named}
    # A dataclass or NamedTuple: its fields are its constructor's parameters.
    return {
        item.target.id: ast.unparse(item.annotation)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None
    }


def _constants(node: ast.ClassDef) -> dict[str, object]:
    constants = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            try:
                constants[item.targets[0].id] = ast.literal_eval(item.value)
            except ValueError:
                continue
    return constants


def near(name: str, known: Iterable[str]) -> str:
    """'did you mean A or B?', or the whole list where nothing is near."""
    known = sorted(known)
    folded = {k.lower(): k for k in known}
    close = [folded[k] for k in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known) or 'none'}."
