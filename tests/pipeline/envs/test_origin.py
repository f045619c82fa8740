"""Which library makes an environment, and how the other's is asked for."""

from __future__ import annotations

import importlib.metadata

import pytest

from pipeline.envs.origin import origin

GYM, GYMNASIUM = (importlib.metadata.version(library) for library in ("gym", "gymnasium"))
HERE = "tests.pipeline.envs"


@pytest.mark.parametrize(
    ("name", "library", "version", "other"),
    [
        ("CartPole-v1", "gym", GYM, "gymnasium:CartPole-v1"),
        ("gymnasium:CartPole-v1", "gymnasium", GYMNASIUM, ""),
        ("gym:CartPole-v1", "gym", GYM, ""),
        ("Taxi-v3", "gymnasium", GYMNASIUM, "gym:Taxi-v3"),
        ("LunarLander-v3", "gymnasium", GYMNASIUM, ""),
        (f"{HERE}.flaky:FlakyCartPole-v0", "gym", GYM, ""),
        (f"{HERE}.flaky:FlakyCartPole", "gym", GYM, ""),
        (f"{HERE}.quitters:Quitter", "gymnasium", GYMNASIUM, ""),
        (f"{HERE}.test_dm:World", "dm_env", importlib.metadata.version("dm_env"), ""),
        (f"{HERE}.flaky:Flaky", f"{HERE}.flaky", "", ""),
        ("scripted", "pipeline.envs.scripted", "", ""),
        ("atari:pong", "ale-py", importlib.metadata.version("ale-py"), ""),
        ("dm_control:cheetah-run", "dm-control", importlib.metadata.version("dm-control"), ""),
    ],
)
def test_the_library_is_known(name: str, library: str, version: str, other: str) -> None:
    assert origin(name) == (name, library, version, other)


def test_it_is_told_with_the_prefix_that_chooses_the_other() -> None:
    said = f"CartPole-v1 of gym {GYM} (gymnasium:CartPole-v1 asks for gymnasium's)"
    assert str(origin("CartPole-v1")) == said
    assert str(origin("scripted")) == "scripted of pipeline.envs.scripted"
