"""What a class inherits is read from the text of the modules that it comes from, however they are written."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from pipeline import index
from pipeline.source import Module

NUMBERS = itertools.count()
BASE = """
import abc, dataclasses
class Root(abc.ABC):
    metrics: tuple[str, ...] = ("loss",)
class Base(Root):
    action_kinds = ("discrete",)
    def __init__(self, spec, width: int = 2, *, rate: float = 0.5, name: str = ""): ...
@dataclasses.dataclass
class Fields:
    lanes: int = 8
    steps: int = dataclasses.field(default=3)
    made: int = dataclasses.field(default=3, init=False)
    needed: str
"""
ALL = {"width": "int", "rate": "float", "name": "str"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package on the path, with a base class in a module of its own that may not be imported."""
    name = f"bases{next(NUMBERS)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .base import Base as Renamed\nfrom .again import *\n")
    (tmp_path / name / "base.py").write_text(BASE + "raise SystemExit\n")
    (tmp_path / name / "again.py").write_text("from .base import *\nfrom . import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def parameters(package: str, text: str) -> dict[str, str]:
    """Of the last class of `text`, a module of the package."""
    read = Module(f"{package}.own", text)
    assert not any(module.startswith(package) for module in sys.modules)
    return read.classes[-1].parameters()


@pytest.mark.parametrize(
    "text",
    [
        "from {package}.base import Base\nclass Own(Base): ...",
        "from {package} import base\nclass Own(base.Base): ...",
        "import {package}.base\nclass Own({package}.base.Base): ...",
        "import {package}.base as b\nclass Own(b.Base): ...",
        "from .base import Base\nclass Own(Base): ...",
        "from . import base\nclass Own(base.Base): ...",
        "from . import Renamed\nclass Own(Renamed): ...",
        "from {package} import Base\nclass Own(Base): ...",
        "from .base import *\nclass Own(Base): ...",
        "from .base import Base\nParent = Base\nclass Own(Parent): ...",
        "from .base import Base\nclass Base(Base): ...",
        "from .base import Base\nclass Between(Base): ...\nclass Own(Between): ...",
        "from .base import Base\nclass Mixin:\n  x = 1\nclass Own(Mixin, Base): ...",
        "from .base import Base, Root\nclass Mixin(Root): ...\nclass Own(Mixin, Base): ...",
    ],
)
def test_a_class_without_a_constructor_has_its_bases_parameters(package: str, text: str) -> None:
    assert parameters(package, text.format(package=package)) == ALL


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def __init__(self, extra: int = 1): ...", {"extra": "int"}),
        ("def __init__(self, extra: int = 1, **kw): super().__init__(**kw)", {"extra": "int", **ALL}),
        ("def __init__(self, *a, **kw): super().__init__(*a, **kw)", ALL),
        ("def __init__(self, **kw): super(Own, self).__init__(**kw)", ALL),
        ("def __init__(self, spec, **kw): Base.__init__(self, spec, **kw)", ALL),
        ("def __init__(self, width: str = '', **kw): super().__init__(len(width), **kw)", {**ALL, "width": "str"}),
        ("def __init__(self, **kw): super().__init__(rate=1.0, **kw)", {"width": "int", "name": "str"}),
        ("def __init__(self, spec, **kw): super().__init__(spec, 3, **kw)", {"rate": "float", "name": "str"}),
        ("def __init__(self, spec, **kw): Base.__init__(self, spec, 3, **kw)", {"rate": "float", "name": "str"}),
        (
            "def __init__(self, **kw):\n    kw['rate'] = 1.0\n    super().__init__(**kw)",
            {"width": "int", "name": "str"},
        ),
        ("def __init__(self, **kw): super().__init__(3)", {}),
        ("def __init__(self, **kw): super().__init__(**{**kw, 'rate': 1.0})", {}),
    ],
)
def test_a_constructor_of_its_own_has_what_it_names_and_what_it_leaves_to_the_caller(
    package: str, text: str, expected: dict[str, str]
) -> None:
    assert parameters(package, f"from .base import Base\nclass Own(Base):\n  {text}") == expected


def test_keywords_pass_through_several_constructors(package: str) -> None:
    text = (
        "from .base import Base\n"
        "class Between(Base):\n  def __init__(self, more: int = 1, **kw): super().__init__(name='x', **kw)\n"
        "class Own(Between):\n  def __init__(self, most: int = 1, **kw): super().__init__(**kw)\n"
    )
    assert parameters(package, text) == {"most": "int", "more": "int", "width": "int", "rate": "float"}


def test_a_dataclass_has_its_bases_fields_and_its_own(package: str) -> None:
    own = "  lanes: float = 1.0\n  seed: int = 0\n"
    text = (
        f"import dataclasses\nfrom .base import Fields\n@dataclasses.dataclass(frozen=True)\nclass Own(Fields):\n{own}"
    )
    assert parameters(package, text) == {"lanes": "float", "steps": "int", "seed": "int"}
    assert parameters(package, "from .base import Fields\nclass Own(Fields):\n  seed: int = 0") == {
        "lanes": "int",
        "steps": "int",
    }


def test_literal_attributes_are_inherited_unless_the_class_has_its_own(package: str) -> None:
    cls = Module(f"{package}.own", "from .base import Base\nclass Own(Base):\n  x = 1").classes[-1]
    assert cls.constants() == {"action_kinds": ("discrete",), "metrics": ("loss",), "x": 1}
    cls = Module(
        f"{package}.own", "from .base import Base\nclass Own(Base):\n  metrics = (*Base.metrics, 'q')"
    ).classes[-1]
    assert cls.constants() == {"action_kinds": ("discrete",)}


@pytest.mark.parametrize(
    "base", ["Nowhere", "nowhere.Base", "tf.keras.Model", "make_base()", "Generic[T]", "Own", "t.X"]
)
def test_a_base_whose_text_is_not_to_be_had_gives_nothing(package: str, base: str) -> None:
    text = "import tensorflow as tf\nfrom typing import Generic\nfrom .again import *\nimport torch as t\n"
    text += f"class Own({base}): ..."
    assert parameters(package, text) == {}


def test_an_entry_says_whom_it_inherits_from(package: str) -> None:
    text = (
        "from agents.algos.registry import ALGOS\nfrom .base import Base\n@ALGOS.register('own')\nclass Own(Base): ..."
    )
    [entry] = index.read(text, f"{package}.own")
    assert entry.lineage == ((f"{package}.base", "Base"), (f"{package}.base", "Root"))
    assert entry.registry == "agents.algos"
