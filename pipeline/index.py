"""What can be configured, read from the source text: it is known before TensorFlow is imported."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.source import ROOT, Module
from pipeline.types import UserError


class Entry(NamedTuple):
    """A class that gin can configure."""

    name: str
    """as settings write it, e.g. 'prioritized'; the class's own name where it has no other"""
    class_name: str
    """as gin writes it, e.g. 'Prioritized'"""
    module: str
    parameters: Mapping[str, str]
    """annotations of the constructor's configurable parameters, inherited ones too, as text"""
    forwarded: Mapping[str, object]
    """defaults of the parameters among them that the constructor's own signature does not show, where they are known"""
    constants: Mapping[str, object]
    """literal class attributes, inherited ones too"""
    registry: str
    """the package whose registry it is in, e.g. 'servers.memory'; '' where it is in none"""
    lineage: tuple[tuple[str, str], ...]
    """module and name of the classes that it inherits from, the nearest first"""


_added: dict[str, list[Entry]] = {}


def add(module: str) -> Path:
    """Makes the configurable classes of a module outside this repository known; returns its file.

    Raises UserError where there is no such module. Its parent packages are imported, itself it is not.
    """
    check_not_hidden(module)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"There is no module '{module}' to import ({error}).") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"There is no module '{module}' to import: it must lie in the current folder or on PYTHONPATH.")
    path = Path(spec.origin)
    try:
        _added[module] = read(path.read_text(), module, path.name == "__init__.py")
    except SyntaxError as error:
        raise UserError(f"Module '{module}' is no Python: line {error.lineno} of {path}.") from error
    return path


def check_not_hidden(module: str) -> None:
    """Raises UserError where a person's own module `module` has the top-level name of a package of ours.

    Ours come first on the path, and hide it.
    """
    top, _, rest = module.partition(".")
    if not (ROOT / top / "__init__.py").exists():
        return
    for folder in {Path(name).resolve() for name in [*sys.path, "."]} - {ROOT.resolve()}:
        base = folder.joinpath(top, *rest.split("."))
        found = [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists()]
        if found:
            raise UserError(
                f"Encore's own package '{top}' hides the module '{module}' in {found[0]}: give yours another name."
            )


def scan(package: str) -> tuple[Entry, ...]:
    """The configurable classes in the files of `package` (dotted, below the repository root), in order of module.

    With them come those that added modules put into its registry.
    """
    return _files(package) + tuple(e for entries in _added.values() for e in entries if e.registry == package)


def added() -> tuple[Entry, ...]:
    """The configurable classes of the added modules."""
    return tuple(entry for entries in _added.values() for entry in entries)


def added_modules() -> tuple[str, ...]:
    """The names of the added modules."""
    return tuple(_added)


@functools.cache
def _files(package: str) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for path in sorted(ROOT.joinpath(*package.split(".")).glob("*.py")):
        entries += read(path.read_text(), f"{package}.{path.stem}")
    return tuple(entries)


def read(source: str, module: str, is_package: bool = False) -> list[Entry]:
    """The classes in `source` that carry `@gin.register` or `@SOME_REGISTRY.register('name')`."""
    entries = []
    read = Module(module, source, is_package)
    for cls in read.classes:
        node = cls.node
        name, registry = next((n for n in map(_registered_name, node.decorator_list) if n is not None), (None, ""))
        if name is None:
            continue
        # agents.algos.registry.ALGOS
        home = read.full_name(registry).rpartition(".")[0].rpartition(".")[0] if registry != "gin" else ""
        lineage = tuple((base.module.name, base.node.name) for base in cls.lineage[1:])
        about = (cls.parameters(), cls.forwarded_defaults(), cls.constants())
        entries.append(Entry(name or node.name, node.name, module, *about, home, lineage))
    return entries


def _registered_name(decorator: ast.expr) -> tuple[str, str] | None:
    """The name given to `.register`, '' where none is given, and whose it is; None for any other decorator."""
    if isinstance(decorator, ast.Call):
        inner = _registered_name(decorator.func)
        return None if inner is None else (ast.literal_eval(decorator.args[0]), inner[1])
    if isinstance(decorator, ast.Attribute) and decorator.attr == "register":
        return "", ast.unparse(decorator.value)
    return None


def near(name: str, known: Iterable[str]) -> str:
    """'did you mean A or B?', or the whole list where nothing is near."""
    known = sorted(known)
    folded = {k.lower(): k for k in known}
    close = [folded[k] for k in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known) or 'none'}."
