"""What can be configured is read from source text, and the text says what the imported classes are."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from binaries.settings import PACKAGES
from pipeline import index

SOURCE = '''
import gin
from somewhere import REGISTRY

@REGISTRY.register("fast")
class Fast(Base):
    kind = "discrete"
    metrics = ("loss", "q")
    computed = len(metrics)
    unset: int

    def __init__(self, spec, width: int, depth: int = 2, *, rate: float | None = None, seed: int, plain=3):
        self.inner: int = 4

@gin.register
class Plain:
    pass

@gin.register
@dataclasses.dataclass(frozen=True)
class Fields:
    required: str
    lanes: int = 8
    """doc"""
    name: str = ""

@gin.register
class Row(NamedTuple):
    first: int
    second: float = 0.5

class NotConfigurable:
    def __init__(self, depth: int = 2): ...

@functools.cache
@other.registered("no")
class NorThis: ...

@gin.register
def function(a=1): ...
'''


def test_registered_classes_are_found_with_their_names() -> None:
    entries = index.read(SOURCE, "package.module")
    assert [(e.name, e.class_name) for e in entries] == [
        ("fast", "Fast"),
        ("Plain", "Plain"),
        ("Fields", "Fields"),
        ("Row", "Row"),
    ]
    assert {e.module for e in entries} == {"package.module"}


@pytest.mark.parametrize(
    ("class_name", "parameters"),
    [
        ("Fast", {"depth": "int", "rate": "float | None", "plain": "object"}),
        ("Plain", {}),
        ("Fields", {"lanes": "int", "name": "str"}),
        ("Row", {"second": "float"}),
    ],
)
def test_parameters_are_those_with_a_default(class_name: str, parameters: dict[str, str]) -> None:
    [entry] = [e for e in index.read(SOURCE, "m") if e.class_name == class_name]
    assert entry.parameters == parameters
    assert list(entry.parameters) == list(parameters)


def test_constants_are_the_literal_class_attributes() -> None:
    assert index.read(SOURCE, "m")[0].constants == {"kind": "discrete", "metrics": ("loss", "q")}


def test_scanning_reads_a_package_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "worlds" / "flat"
    folder.mkdir(parents=True)
    folder.joinpath("b.py").write_text("raise SystemExit\n@R.register('one')\nclass One: ...\n")
    folder.joinpath("a.py").write_text("@R.register('two')\nclass Two: ...\n")
    folder.joinpath("notes.txt").write_text("no source")
    monkeypatch.setattr(index, "ROOT", tmp_path)
    entries = index.scan("worlds.flat")
    assert [(e.name, e.module) for e in entries] == [("two", "worlds.flat.a"), ("one", "worlds.flat.b")]


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("prioritised", ["uniform", "prioritized", "queue"], "did you mean prioritized?"),
        ("UNIFORM", ["uniform", "queue"], "did you mean uniform?"),
        ("dqm", ["DQN", "dqn_atari", "ppo"], "did you mean DQN?"),
        ("lane", ["lanes", "planes"], "did you mean lanes or planes?"),
        ("xyz", ["uniform", "queue"], "there are: queue, uniform."),
        ("xyz", [], "there are: none."),
    ],
)
def test_near_names(name: str, known: list[str], sentence: str) -> None:
    assert index.near(name, known) == sentence


ENTRIES = [entry for package in PACKAGES for entry in index.scan(package)]


def test_the_packages_hold_configurable_classes() -> None:
    names = {entry.class_name for entry in ENTRIES}
    assert {"Scripted", "GymEnvironment", "Uniform", "Prioritized", "DQN", "Learner"} <= names
    assert len(names) == len(ENTRIES)  # gin knows a class by its own name


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.class_name for entry in ENTRIES])
def test_the_text_says_what_the_class_is(entry: index.Entry) -> None:
    cls = getattr(importlib.import_module(entry.module), entry.class_name)
    signature = inspect.signature(cls).parameters.values()
    defaults = {p.name: p.annotation for p in signature if p.default is not inspect.Parameter.empty}
    assert entry.parameters == {name: str(annotation) for name, annotation in defaults.items()}
    assert all(getattr(cls, name) == value for name, value in entry.constants.items())
