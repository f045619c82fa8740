"""Imports run one way, gin is parsed in one place, and what a command line is checked with needs no TensorFlow."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.index import ROOT

LAYERS = (
    ("pipeline.types", "pipeline.registry", "pipeline.index", "pipeline.source", "pipeline.checks"),
    (
        "pipeline",
        "servers",
        "configs",
        "agents.advantages",
        "agents.losses",
        "agents.lr_schedules",
        "agents.models",
        "agents.reward_augmentation",
        "agents.schedules",
    ),
    ("agents.algos.act_select", "agents.algos.grad_comp"),
    ("agents.algos",),
    ("agents",),
    ("binaries",),
    ("tests", "examples", "benchmarks"),
)
"""from the bottom up; a module belongs to the longest name that it begins with, and imports from its layer and below"""
PACKAGES = sorted({name.partition(".")[0] for layer in LAYERS for name in layer})

HEAVY = ("tensorflow", "tensorflow_probability", "tf_agents", "reverb", "keras")
LIGHT = (
    "pipeline.types",
    "pipeline.index",
    "pipeline.source",
    "pipeline.registry",
    "pipeline.checks",
    "pipeline.envs",
    "configs",
    "binaries.flags",
    "binaries.settings",
    "binaries.run_folder",
    "binaries.console",
    "binaries.network",
    "binaries.experiment",
    "binaries.train",
    "servers.ports",
    "servers.checkpoint",
)
"""modules, and packages with all of their modules, that a command line is checked with"""


class Import(NamedTuple):
    """One import of `target` (a module, or a name in one) by `module`."""

    module: str
    target: str
    line: int
    on_import: bool
    """whether it runs as soon as the module is imported: not in a function, not for type checkers only"""

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def sources(root: Path = ROOT) -> dict[str, str]:
    """Every module of ours by its dotted name, with its text."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


@functools.cache
def imports(module: str, text: str) -> tuple[Import, ...]:
    """What `module` imports, anywhere in its text."""
    return tuple(_imports(module, ast.parse(text), on_import=True))


def _imports(module: str, node: ast.AST, on_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(module, alias.name, node.lineno, on_import)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{module}:{node.lineno} imports relatively"
        for alias in node.names:
            yield Import(module, f"{node.module}.{alias.name}", node.lineno, on_import)
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for child in node.body:
            yield from _imports(module, child, on_import=False)
        for child in node.orelse:
            yield from _imports(module, child, on_import)
    else:
        inside = on_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _imports(module, child, inside)


def all_imports(modules: Mapping[str, str]) -> list[Import]:
    return [found for module, text in modules.items() for found in imports(module, text)]


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer_of(name: str) -> int | None:
    """The layer of a module or of a name in one; None where it is not ours."""
    places = [(len(package), n) for n, layer in enumerate(LAYERS) for package in layer if is_in(name, package)]
    return max(places)[1] if places else None


def wrong_way(modules: Mapping[str, str]) -> list[str]:
    """The imports that go up."""
    found = []
    for item in all_imports(modules):
        own, other = layer_of(item.module), layer_of(item.target)
        assert own is not None, item.module
        if other is not None and other > own:
            found.append(str(item))
    return found


def loaded_with(module: str, modules: Mapping[str, str]) -> dict[str, str]:
    """What importing `module` imports, by name, with the import that asks for it; our own modules to the end."""
    loaded: dict[str, str] = {}
    waiting = {module: "itself"}
    while waiting:
        name, asked_by = waiting.popitem()
        # A module's packages are imported with it; a name that is no module is in the module before its last dot.
        prefixes = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
        for prefix in prefixes:
            if prefix in loaded:
                continue
            loaded[prefix] = asked_by
            if prefix in modules:
                waiting |= {i.target: str(i) for i in imports(prefix, modules[prefix]) if i.on_import}
    return loaded


MODULES = sources()


def test_every_layer_is_looked_at() -> None:
    for name in (package for layer in LAYERS for package in layer):
        assert any(is_in(module, name) for module in MODULES), name
    assert len(all_imports(MODULES)) > 100


def test_there_are_no_other_packages() -> None:
    # Bazel makes a package of the folder that its test mains are in.
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tools"}
    assert packages <= set(PACKAGES)


def test_imports_run_one_way() -> None:
    assert wrong_way(MODULES) == []


def test_pipeline_servers_and_configs_never_import_agents() -> None:
    lower = [i for i in all_imports(MODULES) if i.module.partition(".")[0] in ("pipeline", "servers", "configs")]
    assert [str(i) for i in lower if is_in(i.target, "agents")] == []


def test_types_import_nothing_of_ours() -> None:
    found = imports("pipeline.types", MODULES["pipeline.types"])
    assert [str(i) for i in found if layer_of(i.target) is not None] == []


def gin_parsers(modules: Mapping[str, str]) -> list[str]:
    """Where gin's parser is called or imported, and where bindings are made otherwise."""
    found = [
        str(i) for i in all_imports(modules) if i.target.startswith(("gin.parse", "gin.bind", "gin.config_parser"))
    ]
    for module, text in modules.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(
                ("gin.parse", "gin.bind", "gin.config.")
            ):
                found.append(f"{module}:{node.lineno} calls {ast.unparse(node)}")
    return found


def test_only_binaries_parse_gin() -> None:
    below_or_beside = {m: t for m, t in MODULES.items() if m.partition(".")[0] not in ("binaries", "tests")}
    assert gin_parsers(below_or_beside) == []
    assert gin_parsers({"binaries.settings": MODULES["binaries.settings"]})


@pytest.mark.parametrize("package", LIGHT)
def test_a_command_line_is_checked_without_tensorflow(package: str) -> None:
    light = [module for module in MODULES if is_in(module, package)]
    assert light
    for module in light:
        loaded = loaded_with(module, MODULES)
        assert [f"{loaded[name]}" for name in HEAVY if name in loaded] == [], f"{module} imports TensorFlow"


# That the checks see what they are for.


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pipeline.types", "from pipeline import rows"),
        ("pipeline.writer", "import agents.actor"),
        ("servers.tables", "from agents.algos.algo import Algo"),
        ("servers.tables", "def f():\n  import agents.learner"),
        ("agents.losses.values", "from agents.algos import dqn"),
        ("agents.algos.grad_comp.basic", "from agents.algos.algo import Loss"),
        ("agents.algos.dqn", "from agents.learner import Learner"),
        ("agents.actor", "from binaries.experiment import Plan"),
        ("binaries.train", "import benchmarks.throughput"),
    ],
)
def test_an_import_that_goes_up_is_found(module: str, line: str) -> None:
    assert len(wrong_way({module: line})) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("pipeline.writer", "from servers.memory.memory import Memory"),
        ("servers.tables", "from pipeline.rows import Rows"),
        ("agents.algos.dqn", "from agents.algos.act_select.registry import ACTION_SELECTORS"),
        ("agents.algos.act_select.basic", "from agents.schedules import linear"),
        ("agents.evaluator", "from agents.actor import Policy"),
        ("tests.test_x", "from examples import seed_loop"),
        ("pipeline.rows", "import numpy"),
    ],
)
def test_an_import_that_goes_down_is_not(module: str, line: str) -> None:
    assert wrong_way({module: line}) == []


@pytest.mark.parametrize(
    ("text", "loads"),
    [
        ("import tensorflow as tf", True),
        ("from tensorflow import keras", True),
        ("import tensorflow.keras.layers", True),
        ("from servers.deep import f", True),
        ("try:\n  import tensorflow\nexcept ImportError:\n  pass", True),
        ("class A:\n  import tensorflow", True),
        ("if TYPE_CHECKING:\n  import tensorflow", False),
        ("def f():\n  import tensorflow", False),
        ("import tensorboard", False),
    ],
)
def test_what_is_loaded_with_a_module_is_found(text: str, loads: bool) -> None:
    modules = {"servers.top": text, "servers.deep": "import tensorflow"}
    assert ("tensorflow" in loaded_with("servers.top", modules)) == loads


@pytest.mark.parametrize(
    "text", ["gin.parse_config('')", "from gin import parse_config_file", "gin.bind_parameter('a', 1)"]
)
def test_a_parse_of_gin_is_found(text: str) -> None:
    assert gin_parsers({"agents.learner": text})
