"""What can be configured, read from the source text: it is known before TensorFlow is imported."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.types import UserError

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
    registry: str
    """the package whose registry it is in, e.g. 'servers.memory'; '' where it is in none"""


_added: dict[str, list[Entry]] = {}


def add(module: str) -> Path:
    """Makes the configurable classes of a module outside this repository known; returns its file.

    Raises UserError where there is no such module. Its parent packages are imported, itself it is not.
    """
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"There is no module '{module}' to import ({error}).") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"There is no module '{module}' to import: it must lie in the current folder or on PYTHONPATH.")
    path = Path(spec.origin)
    try:
        _added[module] = read(path.read_text(), module)
    except SyntaxError as error:
        raise UserError(f"Module '{module}' is no Python: line {error.lineno} of {path}.") from error
    return path


def scan(package: str) -> tuple[Entry, ...]:
    """The configurable classes in the files of `package` (dotted, below the repository root), in order of module.

    With them come those that added modules put into its registry.
    """
    return _files(package) + tuple(e for entries in _added.values() for e in entries if e.registry == package)


def added() -> tuple[Entry, ...]:
    """The configurable classes of the added modules."""
    return tuple(entry for entries in _added.values() for entry in entries)


@functools.cache
def _files(package: str) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for path in sorted(ROOT.joinpath(*package.split(".")).glob("*.py")):
        entries += read(path.read_text(), f"{package}.{path.stem}")
    return tuple(entries)


def read(source: str, module: str) -> list[Entry]:
    """The classes in `source` that carry `@gin.register` or `@SOME_REGISTRY.register('name')`."""
    body = ast.parse(source).body
    # from agents.algos.registry import ALGOS
    homes = {
        alias.asname or alias.name: node.module.rpartition(".")[0]
        for node in body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    entries = []
    for node in body:
        if isinstance(node, ast.ClassDef):
            name, registry = next((n for n in map(_registered_name, node.decorator_list) if n is not None), (None, ""))
            if name is not None:
                home = homes.get(registry, "")
                entries.append(Entry(name or node.name, node.name, module, _parameters(node), _constants(node), home))
    return entries


def _registered_name(decorator: ast.expr) -> tuple[str, str] | None:
    """The name given to `.register`, '' where none is given, and whose it is; None for any other decorator."""
    if isinstance(decorator, ast.Call):
        inner = _registered_name(decorator.func)
        return None if inner is None else (ast.literal_eval(decorator.args[0]), inner[1])
    if isinstance(decorator, ast.Attribute) and decorator.attr == "register":
        return "", ast.unparse(decorator.value)
    return None


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
