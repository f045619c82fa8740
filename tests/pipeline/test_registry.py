"""A registry knows its names from the text, imports a class when it is asked for, and helps where a name is wrong."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import pytest

from agents.algos.act_select.registry import ACTION_SELECTORS
from agents.algos.grad_comp.registry import GRADIENT_FUNCTIONS
from agents.algos.registry import ALGOS
from agents.models.registry import MODELS
from pipeline import index
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.registry import Registry
from pipeline.types import UserError
from servers.memory.registry import MEMORIES

NUMBERS = itertools.count()
BOXES = """
from pipeline.registry import Registry
BOXES = Registry("box", "{package}")
"""
ROUND = """
from {package}.registry import BOXES

@BOXES.register("round")
class Round{package}:
    def __init__(self, size: int, colour: str = "red"):
        self.size, self.colour = size, colour
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a registry, one class that works and one whose import ends everything."""
    name = f"boxes{next(NUMBERS)}"
    folder = tmp_path / name
    folder.mkdir()
    texts = {
        "__init__": "",
        "registry": BOXES,
        "round_box": ROUND,
        "bomb": "from {package}.registry import BOXES\nraise SystemExit\n@BOXES.register('bomb')\nclass Bomb: ...\n",
    }
    for module, text in texts.items():
        folder.joinpath(f"{module}.py").write_text(text.format(package=name))
    monkeypatch.setattr(index, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    gin.clear_config()


@pytest.fixture
def boxes(package: str) -> Registry:
    return getattr(__import__(f"{package}.registry").registry, "BOXES")  # noqa: B009


def test_names_are_known_before_anything_is_imported(package: str, boxes: Registry) -> None:
    assert boxes.names() == ["bomb", "round"]
    boxes.check("bomb")
    assert f"{package}.round_box" not in sys.modules


def test_only_the_module_that_is_asked_for_is_imported(package: str, boxes: Registry) -> None:
    made = boxes.get("round")(3)
    assert (made.size, made.colour) == (3, "red")
    assert f"{package}.round_box" in sys.modules
    assert f"{package}.bomb" not in sys.modules


def test_gin_bindings_are_defaults(package: str, boxes: Registry) -> None:
    boxes.get("round")
    gin.parse_config(f"Round{package}.colour = 'blue'")
    assert boxes.get("round")(1).colour == "blue"
    assert boxes.get("round")(1, colour="green").colour == "green"


def test_it_makes_a_new_instance_each_time(boxes: Registry) -> None:
    assert boxes.get("round")(1) is not boxes.get("round")(1)


@pytest.mark.parametrize("ask", [Registry.check, Registry.get])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rund", r"There is no box 'rund'; did you mean round\?"),
        ("xxxxxxxx", r"There is no box 'xxxxxxxx'; there are: bomb, round\."),
    ],
)
def test_unknown_names_raise_with_the_near_ones(
    boxes: Registry, ask: Callable[[Registry, str], object], name: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=f"^{sentence}$"):
        ask(boxes, name)


def test_classes_registered_elsewhere_are_known_too(boxes: Registry) -> None:
    @boxes.register("flat")
    class Flat:
        """Registered without a file of the package."""

    assert boxes.names() == ["bomb", "flat", "round"]
    assert isinstance(boxes.get("flat")(), Flat)


@pytest.mark.parametrize(
    "registry", [ALGOS, ACTION_SELECTORS, GRADIENT_FUNCTIONS, MODELS, ENVIRONMENTS, MEMORIES], ids=lambda r: r.kind
)
def test_every_name_of_every_registry_can_be_had(registry: Registry) -> None:
    assert registry.names()
    for name in registry.names():
        [entry] = [e for e in index.scan(registry.package) if e.name == name]
        assert registry.get(name).__name__ == entry.class_name
