"""Classes as source text has them, with the classes they inherit from, across modules. Nothing is imported."""

from __future__ import annotations

import ast
import contextlib
import functools
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parent.parent


class Parameter(NamedTuple):
    """A constructor's parameter."""

    annotation: str
    """its text; 'object' where there is none"""
    default: ast.expr | None
    forwarded: bool = False
    """whether it is not in the constructor's own signature, but goes to a base's through **kwargs"""
    seen: bool = False
    """whether a constructor does more with these **kwargs than to hand them on: its default may be another one"""


class Module:
    """A module's text: its classes, and what its names stand for."""

    def __init__(self, name: str, source: str, is_package: bool = False):
        """Raises SyntaxError where `source` is no Python."""
        self.name = name
        self.classes: list[Class] = []
        """those at its top level, in order"""
        self._names: dict[str, str] = {}
        """what imports and plain assignments make of a name: 'agents.algos.dqn.DQN'"""
        self._stars: list[str] = []
        parents = name.split(".") if is_package else name.split(".")[:-1]
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                self.classes.append(Class(self, node))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    self._names |= {alias.asname or alias.name.partition(".")[0]: _imported(alias)}
            elif isinstance(node, ast.ImportFrom):
                above = parents[: len(parents) - node.level + 1] if node.level else []
                home = ".".join([*above, *filter(None, [node.module])])
                self._names |= {alias.asname or alias.name: f"{home}.{alias.name}" for alias in node.names}
                self._stars += [home for alias in node.names if alias.name == "*"]
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute):
                aliases = [target.id for target in node.targets if isinstance(target, ast.Name)]
                self._names |= dict.fromkeys(aliases, self.full_name(ast.unparse(node.value)))

    def full_name(self, name: str) -> str:
        """'agents.algos.dqn.DQN' for the 'dqn.DQN' of this module."""
        first, dot, rest = name.partition(".")
        return self._names.get(first, f"{self.name}.{first}") + dot + rest

    def find(self, name: str, before: int = sys.maxsize, asked: tuple[str, ...] = ()) -> Class | None:
        """The class that `name` ('DQN', 'dqn.DQN') stands for in this module, above line `before`.

        `asked`: full names that led here, of modules that import it from each other.
        """
        own = [c for c in self.classes if c.node.name == name and c.node.lineno < before]
        if own:
            return own[-1]
        if name.partition(".")[0] in self._names:
            return _at(self.full_name(name), asked)
        return next((found for home in self._stars if (found := _at(f"{home}.{name}", asked))), None)


class Class:
    """A class at the top level of a module."""

    def __init__(self, module: Module, node: ast.ClassDef):
        self.module = module
        self.node = node

    @functools.cached_property
    def lineage(self) -> tuple[Class, ...]:
        """The class and those that it inherits from, in the order in which Python looks for attributes."""
        found: list[Class] = [self]
        for base in self.node.bases:
            name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
            cls = self.module.find(name, self.node.lineno)
            found += () if cls is None else cls.lineage
        # A base of several of them comes after all of these.
        return tuple(cls for place, cls in enumerate(found) if cls not in found[place + 1 :])

    def parameters(self) -> dict[str, str]:
        """Annotations of the constructor's parameters that have a default: the others are handed over by the code."""
        return {name: p.annotation for name, p in self._constructor.items() if p.default is not None}

    def forwarded_defaults(self) -> dict[str, object]:
        """Literal defaults of the parameters that the constructor's signature does not show, because of **kwargs."""
        hidden = {name: p.default for name, p in self._constructor.items() if p.forwarded and not p.seen}
        return _literals(hidden.items())

    @property
    def _constructor(self) -> dict[str, Parameter]:
        return _constructor(self.lineage)

    def constants(self) -> dict[str, object]:
        """Literal class attributes, inherited ones too."""
        constants: dict[str, object] = {}
        for cls in reversed(self.lineage):
            own = dict(_assigned(cls.node))
            constants = {k: v for k, v in constants.items() if k not in own} | _literals(own.items())
        return constants


def _literals(values: Iterable[tuple[str, ast.expr | None]]) -> dict[str, object]:
    """The values of those that are literals."""
    found: dict[str, object] = {}
    for name, value in values:
        if value is not None:
            with contextlib.suppress(ValueError):
                found[name] = ast.literal_eval(value)
    return found


def _constructor(lineage: Sequence[Class]) -> dict[str, Parameter]:
    """Parameters of the first constructor in `lineage`, `self` excluded, and of those that its **kwargs reach."""
    for place, cls in enumerate(lineage):
        methods = {item.name: item for item in cls.node.body if isinstance(item, ast.FunctionDef)}
        init = methods.get("__init__", methods.get("__new__"))
        if init is not None:
            own = _own(init.args)
            return own | {k: p for k, p in _forwarded(init, lineage[place + 1 :]).items() if k not in own}
        if _is_record(cls.node):
            fields: dict[str, Parameter] = {}
            for base in reversed(lineage[place:]):
                fields |= _fields(base.node) if _is_record(base.node) else {}
            return fields
    return {}


def _own(args: ast.arguments) -> dict[str, Parameter]:
    plain = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(plain) - len(args.defaults)), *args.defaults]
    every = [*zip(plain, defaults, strict=True), *zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return {a.arg: Parameter(_text(a.annotation), default) for a, default in every[1:]}


def _text(annotation: ast.expr | None) -> str:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return ast.unparse(annotation) if annotation else "object"


def _forwarded(init: ast.FunctionDef, bases: Sequence[Class]) -> dict[str, Parameter]:
    """The parameters of the next constructor that `super().__init__(..., **kwargs)` leaves to the caller."""
    if init.args.kwarg is None:
        return {}
    rest = init.args.kwarg.arg
    fixed, reaches = set(), False
    for node in ast.walk(init):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            if any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == rest for k in node.keywords):
                reaches = True
                # `Base.__init__(self, ...)` names the instance first.
                named = not isinstance(node.func.value, ast.Call)
                fixed |= {*list(_constructor(bases))[: len(node.args) - named], *(k.arg for k in node.keywords)}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == rest:
            fixed |= {node.slice.value} if isinstance(node.slice, ast.Constant) else set()
    if not reaches:
        return {}
    seen = sum(isinstance(node, ast.Name) and node.id == rest for node in ast.walk(init)) > 1
    free = {name: p for name, p in _constructor(bases).items() if name not in fixed}
    return {name: p._replace(forwarded=True, seen=seen or p.seen) for name, p in free.items()}


def _is_record(node: ast.ClassDef) -> bool:
    """Whether it is a dataclass or a NamedTuple: its fields are its constructor's parameters."""
    decorators = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list]
    names = [*decorators, *map(ast.unparse, node.bases)]
    return any(name.rpartition(".")[2] in ("dataclass", "NamedTuple") for name in names)


def _fields(node: ast.ClassDef) -> dict[str, Parameter]:
    return {
        item.target.id: Parameter(_text(item.annotation), item.value)
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and "ClassVar" not in ast.unparse(item.annotation)
        and not (isinstance(item.value, ast.Call) and "init=False" in ast.unparse(item.value))
    }


def _assigned(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for item in node.body:
        if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
            yield item.targets[0].id, item.value
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            yield item.target.id, item.value


def _imported(alias: ast.alias) -> str:
    """What `import a.b` or `import a.b as c` makes its name stand for."""
    return alias.name if alias.asname else alias.name.partition(".")[0]


def _at(name: str, asked: tuple[str, ...]) -> Class | None:
    """The class of a full name, 'agents.algos.dqn.DQN', wherever its module got it from."""
    if name in asked:
        return None
    words = name.split(".")
    for length in range(len(words) - 1, 0, -1):
        module = _load(".".join(words[:length]))
        if module is not None:
            return module.find(".".join(words[length:]), asked=(*asked, name))
    return None


def _load(name: str) -> Module | None:
    """The module of a full name; None where its source is not to be had, or is Python's own."""
    path = _locate(name)
    if path is None:
        return None
    try:
        return _parsed(name, path.read_text(), path.name == "__init__.py")
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


_parsed = functools.cache(Module)


def _folders(name: str) -> list[str] | None:
    """Where the modules of a package are searched for; None where there is no such package."""
    if not name:
        return [str(ROOT), *sys.path]
    parent = _folders(name.rpartition(".")[0])
    spec = None if parent is None else PathFinder.find_spec(name, parent)
    return None if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)


def _locate(name: str) -> Path | None:
    if name.partition(".")[0] in sys.stdlib_module_names:
        return None
    folders = _folders(name.rpartition(".")[0])
    spec = None if folders is None else PathFinder.find_spec(name, folders)
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
