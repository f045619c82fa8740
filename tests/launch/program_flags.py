"""Which flags each program takes, from its source text, and whether a command line holds to them."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.index import ROOT

ABSL = ("flagfile",)
"""what absl brings itself"""
NUMBER = re.compile(r"\d+|\$\(\w+\)")
"""a number, or one that Kubernetes fills in"""


class Flag(NamedTuple):
    """As a module defines it."""

    name: str
    kind: str
    """absl's name of it: 'string', 'integer', 'bool', 'enum', 'multi_string'"""
    choices: tuple[str, ...]
    """of an enum"""


def _calls(text: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a function of some module, with the function's name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def defined(text: str) -> dict[str, Flag]:
    """The flags that a module's text defines, by name."""
    found = {}
    for function, call in _calls(text):
        if function.startswith("DEFINE_"):
            name = ast.literal_eval(call.args[0])
            kind = function.removeprefix("DEFINE_")
            found[name] = Flag(name, kind, tuple(ast.literal_eval(call.args[2])) if kind == "enum" else ())
    return found


def declared(text: str) -> list[str]:
    """The flags of other modules that a module's text declares to be its own too."""
    return [ast.literal_eval(call.args[0]) for function, call in _calls(text) if function == "declare_key_flag"]


@functools.cache
def flags_of(program: str) -> dict[str, Flag]:
    """The flags of `./run PROGRAM`, by name."""
    texts = {path.stem: path.read_text() for path in (ROOT / "binaries").glob("*.py")}
    everywhere = {name: flag for text in texts.values() for name, flag in defined(text).items()}
    own = {name: everywhere[name] for name in declared(texts[program])}
    return {name: Flag(name, "string", ()) for name in ABSL} | defined(texts["flags"]) | own | defined(texts[program])


def wrong(program: str, words: Iterable[str]) -> list[str]:
    """The words that `./run PROGRAM` would refuse, each with the reason."""
    flags = flags_of(program)
    found = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        flag = flags.get(name)
        if not word.startswith("--") or flag is None:
            found.append(f"{program} has no flag {word}")
        elif not equals and flag.kind != "bool":
            found.append(f"{program}'s {word} lacks a value")
        elif (flag.kind == "integer" and not NUMBER.fullmatch(value)) or (flag.choices and value not in flag.choices):
            found.append(f"{program}'s {word} has a value that it cannot have")
    return found
