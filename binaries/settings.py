"""A run's settings: gin files, overrides and flags, merged and checked. Imports no TensorFlow.

Later settings win: the files of --hparams from left to right (each after the files it includes), then
--hparam_override, then flags.
"""

from __future__ import annotations

import collections.abc
import importlib
import math
import re
import sys
import tokenize
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import gin
import typeguard
from gin import config_parser

from configs import registry as configs
from pipeline import index, registry
from pipeline.types import UserError

PACKAGES = (
    "pipeline.envs",
    "pipeline.envs.wrappers",
    "servers.memory",
    "agents",
    "agents.models",
    "agents.advantages",
    "agents.lr_schedules",
    "agents.reward_augmentation",
    "agents.algos",
    "agents.algos.act_select",
    "agents.algos.grad_comp",
    "binaries",
)
"""where configurable classes live"""


class Binding(NamedTuple):
    """One setting."""

    owner: str
    """the class, as gin writes it: 'DQN'"""
    parameter: str
    value: Any
    """a Python literal, or a `Reference`"""
    origin: str
    """where it was set: 'dqn.gin:4', '--hparam_override', '--env'"""
    base: str = ""
    """the setting of a class that `owner` inherits from, where it is that one: 'DQN.gamma'"""

    @property
    def name(self) -> str:
        """'DQN.gamma'"""
        return f"{self.owner}.{self.parameter}"


class Reference(str):
    """A gin reference (@Class, %macro); only gin knows its value."""

    def __repr__(self) -> str:
        return str(self)


class _Delegate(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
        return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

    def macro(self, macro_name: str) -> Any:
        return Reference(f"%{macro_name}")


def read_bindings(text: str, origin: str, included: set[Path] | None = None, file: Path | None = None) -> list[Binding]:
    """The bindings in gin `text`, of `file`, those of included files first; a file is included once only."""
    bindings: list[Binding] = []
    parser: config_parser.ConfigParser | None = None
    try:
        parser = config_parser.ConfigParser(text, _Delegate())
        for statement in parser:
            if isinstance(statement, config_parser.IncludeStatement):
                path = configs.included(statement.filename, file)
                bindings += _read_file(path, set() if included is None else included)
            elif isinstance(statement, config_parser.BindingStatement):
                owner = "/".join(filter(None, [statement.scope, statement.selector]))
                place = _place(origin, statement.location.line_num)
                bindings.append(Binding(owner, statement.arg_name, statement.value, place))
            elif isinstance(statement, config_parser.ImportStatement):
                place = _place(origin, statement.location.line_num)
                raise UserError(f"{place}: imports do nothing here; write Class.name=value.")
    except (SyntaxError, ValueError, tokenize.TokenError) as error:
        # gin's own first line may show an object's address; its last one names the text.
        reason = str(error.args[0]).strip().splitlines()[-1].strip().rstrip(".")
        lines = text.splitlines()
        token = None if parser is None else parser.current_token
        number = 1 if token is None else min(token.start[0], len(lines))
        line = lines[number - 1].strip()
        raise UserError(f"{_place(origin, number)}: '{line}' is no setting ({reason}); {_should_be(line)}.") from error
    return bindings


def _should_be(line: str) -> str:
    """What to write in place of `line`, which gin does not understand."""
    name, equals, value = (part.strip() for part in line.partition("="))
    owner, _, parameter = name.rpartition(".")
    value = value.partition("#")[0].strip()
    if not equals or not re.fullmatch(r"[A-Za-z][\w.:/-]*", value):
        return "write Class.name=value"
    entry = entries().get(owner)
    annotation = "str" if entry is None else entry.parameters.get(parameter, "str")
    if "bool" in annotation or value.lower() in ("true", "false"):
        choices = [str(value.lower() == "true")] if value.lower() in ("true", "false") else ["True", "False"]
        return f"write {' or '.join(f'{name}={choice}' for choice in choices)}"
    if value.lower() in ("none", "null"):
        return f"write {name}=None"
    if "str" not in annotation:
        return f"it must be of type {annotation}"
    return f"write text in quotes that the shell leaves: \"{name}='{value}'\""


def _place(origin: str, line: int) -> str:
    return f"{origin}:{line}" if origin.endswith(".gin") else origin


def _read_file(path: Path, included: set[Path]) -> list[Binding]:
    if path in included:
        return []
    included.add(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    return read_bindings(text, path.name, included, path)


def split(line: str) -> list[str]:
    """The settings of one --hparam_override, which are joined by ';'; one within quotes is text."""
    return re.findall(r"""(?:[^;'"]|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|['"])+""", line)


def read(hparams: str, overrides: Iterable[str], flags: dict[str, Any]) -> dict[str, Binding]:
    """The merged settings by name ('DQN.gamma'), checked against the classes' parameters and types.

    `hparams`: names, or paths of .gin files, joined by '-'. `overrides`: 'Class.name=value' texts. `flags`:
    'Class.name' -> value, with the flag's own name as 'Class.name=flag'. Raises UserError with the near names for what
    does not exist.
    """
    included: set[Path] = set()
    bindings: list[Binding] = []
    for path in configs.paths(hparams):
        bindings += _read_file(path, included)
    for text in overrides:
        bindings += read_bindings(text, "--hparam_override")
    for key, value in flags.items():
        target, _, flag = key.partition("=")
        owner, parameter = target.split(".")
        bindings.append(Binding(owner, parameter, value, f"--{flag}"))
    bindings = [_checked(binding) for binding in bindings]
    # In the order in which they were last set.
    return {binding.name: binding for binding in _last_of_each(bindings)}


def _last_of_each(bindings: list[Binding]) -> list[Binding]:
    last = {binding.name: place for place, binding in enumerate(bindings)}
    return [binding for place, binding in enumerate(bindings) if last[binding.name] == place]


def entries() -> dict[str, index.Entry]:
    """Every configurable class by its name."""
    own = [entry for package in PACKAGES for entry in index.scan(package)]
    return {entry.class_name: entry for entry in (*own, *index.added())}


def _checked(binding: Binding) -> Binding:
    """The binding, with 1e5 as the whole number that it is where one is asked for; raises UserError as `read` does."""
    known = entries()
    owner = binding.owner.rpartition("/")[2]
    if owner not in known:
        raise UserError(f"{binding.origin}: there is no class '{owner}' to configure; {index.near(owner, known)}")
    parameters = known[owner].parameters
    if binding.parameter not in parameters:
        raise UserError(
            f"{binding.origin}: {owner} has no parameter '{binding.parameter}';"
            f" {index.near(binding.parameter, parameters)}"
        )
    if isinstance(binding.value, Reference):
        raise UserError(f"{binding.origin}: {binding.name} is {binding.value}: settings are plain values.")
    annotation = parameters[binding.parameter]
    if not all(map(math.isfinite, _numbers(binding.value))):
        raise UserError(f"{binding.origin}: {binding.name} is {binding.value!r}: a number must be finite.")
    if isinstance(binding.value, float) and binding.value.is_integer() and not _fits(binding.value, annotation):
        binding = binding._replace(value=int(binding.value))
    if not _fits(binding.value, annotation):
        raise UserError(f"{binding.origin}: {binding.name} is {binding.value!r}: it must be of type {annotation}.")
    return binding


def _numbers(value: Any) -> list[float]:
    """Every fraction in a value of numbers, texts, tuples, lists and dicts."""
    if isinstance(value, dict):
        value = (*value, *value.values())
    if isinstance(value, tuple | list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, float) else []


def _fits(value: Any, annotation: str) -> bool:
    if isinstance(value, list):
        value = tuple(value)
    if "bool" not in annotation and any(isinstance(v, bool) for v in (value if isinstance(value, tuple) else (value,))):
        return False
    every = typeguard.CollectionCheckStrategy.ALL_ITEMS
    # Annotations name built-in types, and those of typing: they are read without importing the class.
    names = {"__builtins__": __builtins__, **vars(collections.abc), **vars(typing), "typing": typing, "t": typing}
    try:
        kind = eval(annotation, names)
    except (NameError, AttributeError, TypeError, SyntaxError):
        # A type of a person's own; their class sees whether it gets it.
        return True
    try:
        typeguard.check_type(value, kind, collection_check_strategy=every)
    except typeguard.TypeCheckError:
        return False
    return True


def inherited(settings: dict[str, Binding]) -> dict[str, Binding]:
    """The settings that classes take from the classes they inherit from, the nearest first; their own come before."""
    known = entries()
    found: dict[str, Binding] = {}
    for entry in known.values():
        bases = _bases(entry, known)
        for parameter, annotation in entry.parameters.items():
            own = f"{entry.class_name}.{parameter}"
            base = next((s for name in bases if (s := settings.get(f"{name}.{parameter}"))), None)
            if base is not None and own not in settings and _fits(base.value, annotation):
                found[own] = Binding(
                    entry.class_name, parameter, base.value, f"{base.origin} ({base.owner})", base.name
                )
    return found


def _bases(entry: index.Entry, known: dict[str, index.Entry]) -> list[str]:
    """The configurable classes that a class inherits from, the nearest first."""
    return [name for module, name in entry.lineage if name in known and known[name].module == module]


def apply(settings: dict[str, Binding], package: str = "") -> None:
    """Imports the classes that are configured and hands the settings to gin: constructors read them from then on.

    With a `package`, only those of its classes, and of classes that were added to its registry.
    """
    known = entries()

    def chosen(owner: str) -> bool:
        places = (known[owner].module, known[owner].registry)
        return not package or any(f"{place}.".startswith(f"{package}.") for place in places)

    lines = []
    for binding in settings.values():
        scope, slash, owner = binding.owner.rpartition("/")
        if not chosen(owner):
            continue
        module = known[owner].module
        importlib.import_module(module)
        # With the module, because other packages register classes too: tf-agents has a Learner of its own.
        lines.append(f"{scope}{slash}{module}.{owner}.{binding.parameter} = {binding.value!r}")
    gin.clear_config()
    gin.parse_config(lines)
    _waiting.clear()
    for binding in inherited(settings).values():
        if chosen(binding.owner):
            module = known[binding.owner].module
            _waiting.setdefault(module, {})[f"{module}.{binding.name}"] = binding.value
    _bind_inherited()


_waiting: dict[str, dict[str, Any]] = {}
"""by module: 'module.Class.parameter' -> value that its classes inherit, until it is imported: a run may not need it"""


def _bind_inherited() -> None:
    for module in [name for name in _waiting if name in sys.modules]:
        for name, value in _waiting.pop(module).items():
            gin.bind_parameter(name, value)


registry.call_when_loaded(_bind_inherited)


def replaced(settings: dict[str, Binding], binding: Binding) -> bool:
    """Whether a later setting chose another class in place of the one that `binding` configures.

    So a file may choose 'max' for the 'epsilon' that the file it includes has configured.
    """
    known = entries()
    own = known[binding.owner.rpartition("/")[2]]
    alternatives = {e.name for e in known.values() if e.registry and e.registry == own.registry} - {own.name}
    later = list(settings.values())[list(settings).index(binding.name) + 1 :]
    return any(isinstance(b.value, str) and b.value in alternatives for b in later)


class Reading(NamedTuple):
    """What became of the settings in the run that was built."""

    held: dict[str, Binding]
    """those that its constructors were given, by the class that was given them"""
    unread: list[Binding]
    """those of classes that later settings replaced"""


def check_all_read(settings: dict[str, Binding]) -> Reading:
    """Raises UserError where a setting's class is no part of the run that was built, unless another replaced it."""
    given = {f"{b.owner}.{b.parameter}": b.value for b in read_bindings(operative(), "gin")}
    known = entries()
    held = {
        b.name: b._replace(value=given[b.name]) for b in (settings | inherited(settings)).values() if b.name in given
    }
    read = {b.base or b.name for b in held.values()}
    unread = []
    for place, binding in enumerate(settings.values()):
        # A class's own setting is as one that sets that of its base anew.
        anew = [b for b in list(settings.values())[place + 1 :] if b.name in read and b.parameter == binding.parameter]
        if binding.name in read or any(binding.owner in _bases(known[b.owner], known) for b in anew):
            continue
        if not replaced(settings, binding):
            raise UserError(
                f"{binding.origin}: nothing reads {binding.name}, because {binding.owner} is no part of this run;"
                f" {index.near(binding.name, given)}"
            )
        unread.append(binding)
    return Reading(held, unread)


def operative() -> str:
    """Every parameter, defaults included, of the classes that the run is built from, as a gin file."""
    # gin adds the module where another package has a class of the same name.
    text = re.sub(r"(?m)^((?:\w+/)*)(?:\w+\.)+(\w+\.\w+ =)", r"\1\2", gin.operative_config_str())
    said = read_bindings(text, "gin")
    hidden = {
        f"{owner}.{name} = {value!r}"
        for owner, entry in entries().items()
        for name, value in entry.forwarded.items()
        if owner in {b.owner for b in said} and f"{owner}.{name}" not in {b.name for b in said}
    }
    return (
        "\n".join([text, "# Parameters that constructors hand on by **kwargs:", *sorted(hidden), ""])
        if hidden
        else text
    )


def without_gin(text: str) -> str:
    """A UserError's sentence without what gin adds to it."""
    return re.sub(r"\s*\n\s*In call to configurable.*", "", text, flags=re.DOTALL)
