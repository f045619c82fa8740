"""Environments by class: every kind that there is, its options, its pictures, and errors that help."""

from __future__ import annotations

import importlib
from pathlib import Path

import dm_env.specs as specs
import gin
import numpy as np
import pytest

from binaries import settings
from pipeline.envs import gym
from pipeline.envs.dm import DmEnvironment
from pipeline.envs.environment import Done, Environment
from pipeline.envs.gym import GymAdapter
from pipeline.envs.named import EnvironmentClass, is_class
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.scripted import Scripted
from pipeline.types import UserError

WORLDS = '''
import dm_env
import dm_env.specs
import gym
import gymnasium
import numpy as np

from pipeline.envs.scripted import Scripted

SIZE = 3


class New(gymnasium.Env):
    """The reward is its size."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}
    observation_space = gymnasium.spaces.Box(0, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size=3, render_mode=None):
        self.size = size
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        return np.ones(2), self.size, True, False, {}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8) if self.render_mode == "rgb_array" else None


class Old(gym.Env):
    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size=3):
        self.size = size

    def reset(self):
        return np.zeros(2)

    def step(self, action):
        return np.ones(2), self.size, True, {}

    def render(self, mode="human"):
        self.shown = mode
        return np.zeros((4, 4, 3), np.uint8)


class Mind(dm_env.Environment):
    def __init__(self, size=3):
        self.size = size

    def observation_spec(self):
        return dm_env.specs.Array((2,), np.float32)

    def action_spec(self):
        return dm_env.specs.DiscreteArray(2)

    def reset(self):
        return dm_env.restart(np.zeros(2, np.float32))

    def step(self, action):
        return dm_env.termination(float(self.size), np.ones(2, np.float32))


class Ours(Scripted):
    def __init__(self, size=3):
        super().__init__((size,), (False,))


def function(size=3):
    return New(size)


def demanding(size):
    return New(size)


def unfinished():
    return gymnasium.make("Unknown-v0")


def number():
    return 3
'''


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_worlds_by_class.py").write_text(WORLDS)
    monkeypatch.syspath_prepend(tmp_path)


def made(attribute: str, render_mode: str | None = None, **options: object) -> Environment:
    return EnvironmentClass(f"my_worlds_by_class:{attribute}", render_mode, options)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_worlds_by_class:New", True),
        ("my_worlds_by_class:function", True),
        ("my_worlds_by_class:SIZE", False),
        ("my_worlds_by_class:Other", False),
        ("my_worlds_by_class:New-v0", False),
        ("no_such_module:World-v0", False),
        ("gymnasium:make", False),
        ("CartPole-v1", False),
        ("CartPole", False),
    ],
)
def test_a_class_is_what_can_be_called_in_a_module(name: str, expected: bool) -> None:
    assert is_class(name) is expected


def test_a_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(UserError, match="Environment 'no_such_worlds:World': No module named 'no_such_worlds'"):
        is_class("no_such_worlds:World")


def test_what_mujoco_draws_with_is_chosen_before_a_module_imports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gym, "_has_egl", lambda: True)
    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "my_physics.py").write_text("import os\n\ndef world(): ...\n\nCHOSEN = os.environ['MUJOCO_GL']\n")
    assert is_class("my_physics:world")
    assert importlib.import_module("my_physics").CHOSEN == "egl"


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [("New", GymAdapter), ("Old", GymAdapter), ("function", GymAdapter), ("Mind", DmEnvironment), ("Ours", Scripted)],
)
def test_every_kind_of_environment_is_played(attribute: str, kind: type) -> None:
    environment = made(attribute, size=1)
    assert isinstance(environment, kind)
    assert environment.action_spec == specs.DiscreteArray(2, np.int32)
    first = environment.reset(0)
    assert (first.shape, first.dtype) == ((2,), np.float32)
    _, reward, done = environment.step(np.int32(0))
    assert (reward, done) == (1.0, Done.TERMINATED)
    assert environment.step(np.int32(0))[1:] == (0.0, Done.NO)


def test_options_come_from_gin_and_are_checked() -> None:
    bound = settings.read("dqn_cartpole", ["EnvironmentClass.options={'size': 7}"], {})
    try:
        settings.apply({name: b for name, b in bound.items() if b.owner == "EnvironmentClass"})
        environment = ENVIRONMENTS.get("class")("my_worlds_by_class:New")
        environment.reset()
        assert environment.step(0)[1] == 7.0
        assert "EnvironmentClass.options" in gin.operative_config_str()
    finally:
        gin.clear_config()


def test_options_that_do_not_fit_are_told() -> None:
    with pytest.raises(
        UserError, match=r"got an unexpected keyword argument 'sise'\): EnvironmentClass.options is \{'s"
    ):
        made("New", sise=4)
    with pytest.raises(
        UserError, match=r"'my_worlds_by_class:demanding' cannot be called \(missing a required arg.*'si"
    ):
        made("demanding")


def test_pictures_are_asked_for_where_the_class_takes_the_word() -> None:
    for attribute in ("New", "Old"):
        environment = made(attribute, "rgb_array")
        environment.reset()
        assert environment.render().shape == (4, 4, 3)
    assert made("New").frame_rate == 7.0
    with pytest.raises(UserError, match="my_worlds_by_class:New has no pictures to record"):
        made("New").render()


@pytest.mark.parametrize("attribute", ["function", "Mind", "Ours"])
def test_a_window_is_refused_where_there_is_none(attribute: str) -> None:
    with pytest.raises(UserError, match=f"'my_worlds_by_class:{attribute}' has no window of its own"):
        made(attribute, "human")


def test_an_old_environment_is_shown_with_every_step() -> None:
    environment = made("Old", "human")
    environment.reset()
    assert environment._environment.shown == "human"  # pyright: ignore[reportAttributeAccessIssue]


def test_what_a_class_cannot_give_is_told() -> None:
    with pytest.raises(
        UserError, match="'my_worlds_by_class:number' gives something of type int: it must give an environment of gym"
    ):
        made("number")
    with pytest.raises(UserError, match=r"'my_worlds_by_class:unfinished' cannot be made \(.*Unknown.*\)\.$"):
        made("unfinished")
    with pytest.raises(UserError, match="There is no environment class 'CartPole-v1': it is written 'module:Class'"):
        EnvironmentClass("CartPole-v1")
