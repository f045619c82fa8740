"""Every world that installs, held to the same rules: specs, seeds, endings, videos, processes, crashes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gin
import imageio_ffmpeg
import numpy as np
import psutil
import pytest
import tree

from pipeline.envs.block import InProcess
from pipeline.envs.crashes import Crashes
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import has_held_out, make, make_block
from pipeline.envs.recorder import Recorder, Videos
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.wrappers.registry import WRAPPERS
from pipeline.frames import Frames
from pipeline.types import UserError

LANES = 2
STEPS = 1_000
"""random steps, of all lanes together"""
SLOW = pytest.mark.slow
GAMES = [
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
]  # fmt: skip
WORLDS: list[Any] = [
    "CartPole-v1",
    "gymnasium:CartPole-v1",
    "Pendulum-v1",
    "atari:pong",
    "ALE/Pong-v5",
    *(f"procgen:{game}" for game in GAMES),
    "gymnasium:LunarLander-v3",
    "gymnasium:LunarLanderContinuous-v3",
    "gymnasium:BipedalWalker-v3",
    pytest.param("gymnasium:CarRacing-v3", marks=SLOW),
    "HalfCheetah-v4",
    "HalfCheetah-v5",
    "dm_control:cheetah-run",
    "vizdoom:basic",
    "envpool:CartPole-v1",
    "envpool:Pong-v5",
    "envpool:CoinrunEasy-v0",
    "envpool:HalfCheetah-v4",
]
WITHOUT_PICTURES = "envpool:"
"""worlds whose library draws none"""


@pytest.fixture
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    made = Lanes(make_block(request.param, LANES))
    yield made
    made.close()


def random_actions(spec: Any, generator: np.random.Generator, lanes: int) -> Any:
    """[lanes, ...], uniform in the bounds of a spec of actions."""

    def draw(leaf: Any) -> np.ndarray:
        shape = (lanes, *leaf.shape)
        if np.issubdtype(leaf.dtype, np.integer):
            return generator.integers(leaf.minimum, np.asarray(leaf.maximum) + 1, shape).astype(leaf.dtype)
        return generator.uniform(leaf.minimum, leaf.maximum, shape).astype(leaf.dtype)

    return tree.map_structure(draw, spec)


def check(spec: Any, states: Any) -> None:
    """That states [lanes, ...] are what their spec says."""

    def check_leaf(leaf: Any, array: np.ndarray) -> None:
        assert array.shape == (LANES, *leaf.shape)
        assert array.dtype == leaf.dtype
        for state in array:
            leaf.validate(state)

    tree.map_structure(check_leaf, spec, states)


def processes() -> set[int]:
    """The children of this process, but for those that pytest and Python keep."""
    return {p.pid for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())}


@pytest.mark.parametrize("lanes", WORLDS, indirect=True)
def test_states_are_what_the_specs_say_and_no_final_state_is_lost(lanes: Lanes) -> None:
    generator = np.random.default_rng(0)
    state = lanes.reset(1)
    check(lanes.observation_spec, state)
    ended = np.zeros(LANES, bool)
    for _ in range(STEPS // LANES):
        state, reward, done = lanes.step(random_actions(lanes.action_spec, generator, LANES))
        check(lanes.observation_spec, state)
        assert (reward.shape, reward.dtype) == ((LANES,), np.float32)
        assert (done.shape, done.dtype) == ((LANES,), np.int8)
        assert np.isfinite(reward).all()
        # The step after an ending begins an episode, and earns nothing.
        assert not (ended & (done != Done.NO)).any()
        assert not reward[ended].any()
        ended = done != Done.NO


@pytest.mark.parametrize("world", WORLDS)
def test_the_same_seed_gives_the_same_and_another_does_not(world: str) -> None:
    def played(seed: int) -> list[Any]:
        made = Lanes(make_block(world, LANES))
        generator = np.random.default_rng(0)
        results = [(made.reset(seed), 0, 0)]
        results += [made.step(random_actions(made.action_spec, generator, LANES)) for _ in range(30)]
        made.close()
        return tree.flatten(results)

    def same(one: list[Any], other: list[Any]) -> bool:
        return all(map(np.array_equal, one, other))

    once = played(3)
    assert same(once, played(3))
    assert not same(once, played(4))


@pytest.mark.parametrize("world", WORLDS)
def test_closing_leaves_no_process(world: str) -> None:
    before = processes()
    made = Lanes(make_block(world, LANES))
    made.reset(0)
    made.step(random_actions(made.action_spec, np.random.default_rng(0), LANES))
    made.close()
    assert processes() <= before


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_that_fails_begins_anew(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block(world, LANES)
    made = Lanes(block, crashes=Crashes(1.0, 60.0))
    before = made.reset(0)

    def fail(*_: Any) -> Any:
        monkeypatch.undo()
        raise RuntimeError("the simulator fell over")

    monkeypatch.setattr(block, "step", fail)
    actions = random_actions(made.action_spec, np.random.default_rng(0), LANES)
    state, reward, done = made.step(actions)
    assert done.tolist() == [Done.TRUNCATED] * LANES
    assert reward.tolist() == [0] * LANES
    assert all(map(np.array_equal, tree.flatten(state), tree.flatten(before)))
    state, reward, done = made.step(actions)
    check(made.observation_spec, state)
    assert not done.any()
    # Every lane begins.
    assert not reward.any()
    made.step(actions)
    made.close()


@pytest.mark.parametrize("world", [world for world in WORLDS if WITHOUT_PICTURES not in str(world)])
def test_a_recorded_video_plays(world: str, tmp_path: Path) -> None:
    WRAPPERS.load("time_limit")
    gin.parse_config("pipeline.envs.wrappers.basic.TimeLimit.steps = 6")
    videos = Videos(tmp_path, "libx264")
    videos.start()
    maker = partial(make, world, "rgb_array", True, ["time_limit"])
    recorder = Recorder(maker, videos, "test", 0, 1, 1)
    recorder.reset(0)
    generator = np.random.default_rng(0)
    done = Done.NO
    while not done:
        action = tree.map_structure(lambda leaf: leaf[0], random_actions(recorder.action_spec, generator, 1))
        _, _, done = recorder.step(action)
    recorder.close()
    frames = imageio_ffmpeg.read_frames(str(videos.finished[0].path))
    width, height = next(frames)["size"]
    pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
    assert 2 <= len(pictures) <= 7
    assert len(pictures[0]) == width * height * 3
    assert pictures[0].std() > 0  # not one colour


def test_envpool_says_that_it_draws_nothing() -> None:
    with pytest.raises(UserError, match="EnvPool draws no pictures"):
        make("envpool:CartPole-v1", "rgb_array").render()


@pytest.mark.parametrize(
    ("world", "sentence"),
    [
        ("atari:pongg", "There is no Atari game 'pongg'; did you mean pong"),
        ("procgen:coinrn", "There is no Procgen game 'coinrn'; did you mean coinrun"),
        ("procgen-coinrn-v0", "There is no Procgen game 'coinrn'; did you mean coinrun"),
        ("envpool:Pong-v4", "EnvPool has no task 'Pong-v4'; did you mean"),
        ("procgen:", "There is no Procgen game ''; there are: bigfish"),
        ("vizdoom", "ViZDoom has no scenario ''"),
        ("dm_control", "there are: "),
    ],
)
def test_an_unknown_name_lists_the_near_ones(world: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_block(world, 1)


@pytest.mark.parametrize(
    ("world", "package", "extra"),
    [
        ("atari:pong", "ale_py", "atari"),
        ("procgen:coinrun", "procgen.env", "procgen"),
        ("envpool:Pong-v5", "envpool", "envpool"),
        ("vizdoom:basic", "vizdoom", "vizdoom"),
        ("dm_control:cheetah-run", "dm_control", "mujoco"),
        ("ALE/Pong-v5", "ale_py", "atari"),
    ],
)
def test_a_world_that_is_not_installed_names_the_command(
    world: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"\./setup\.sh --with={extra}\b"):
        make(world)


# What is particular to a world.


@pytest.mark.parametrize("name", ["procgen-coinrun-v0", "procgen:procgen-coinrun-v0", "procgen:coinrun"])
def test_coinruns_names_are_one_world(name: str) -> None:
    one, other = (Lanes(make_block(world, LANES)) for world in (name, "procgen:coinrun"))
    np.testing.assert_array_equal(one.reset(5), other.reset(5))
    one.close()
    other.close()


def first_pictures(training: bool, levels: int) -> set[bytes]:
    gin.parse_config(f"Procgen.num_levels = {levels}")
    made = Lanes(make_block("procgen:coinrun", 64, training))
    pictures = {picture.tobytes() for seed in range(4) for picture in made.reset(seed)}
    made.close()
    return pictures


def test_training_sees_its_levels_only_and_evaluation_others() -> None:
    trained = first_pictures(training=True, levels=5)
    assert len(trained) == 5
    assert len(first_pictures(training=False, levels=5)) > 200
    assert has_held_out("procgen:coinrun")
    assert not has_held_out("CartPole-v1")


def test_a_coinrun_level_is_cut_after_its_time() -> None:
    made = Lanes(make_block("procgen:coinrun", 4))
    made.reset(0)
    wait = np.full(4, 4, np.int32)
    for _ in range(999):
        assert Done.TRUNCATED not in made.step(wait)[2]
    assert Done.TRUNCATED in made.step(wait)[2]
    made.close()


def test_procgen_goes_on_from_its_state() -> None:
    one, other = (Lanes(make_block("procgen:coinrun", LANES)) for _ in range(2))
    one.reset(0)
    generator = np.random.default_rng(0)
    for _ in range(50):
        one.step(random_actions(one.action_spec, generator, LANES))
    state = one.state()
    assert state is not None
    other.restore(state)
    for _ in range(50):
        actions = random_actions(one.action_spec, generator, LANES)
        for a, b in zip(one.step(actions), other.step(actions), strict=True):
            np.testing.assert_array_equal(a, b)
    one.close()
    other.close()


def test_atari_stacks_its_frames_oldest_first() -> None:
    made = Lanes(make_block("atari:pong", LANES))
    assert isinstance(made.observation_spec, Frames)
    before = made.reset(0)
    for _ in range(20):
        state, _, _ = made.step(np.full(LANES, 2, np.int32))
        np.testing.assert_array_equal(state[:, :-1], before[:, 1:])
        before = state
    made.close()


def actions_of(**settings: Any) -> int:
    gin.parse_config([f"Atari.{name} = {value!r}" for name, value in settings.items()])
    environment = make("atari:pong")
    environment.close()
    return environment.action_spec.num_values


def test_ataris_full_action_set_is_an_option() -> None:
    assert actions_of() == 6
    assert actions_of(full_action_set=True) == 18


def returns_of_breakout(training: bool, steps: int) -> list[Done]:
    gin.parse_config("Atari.life_loss_ends = True\nAtari.fire_at_start = True\nAtari.sticky_actions = 0.0")
    made = Lanes(make_block("atari:breakout", 1, training))
    made.reset(0)
    fire, dones = np.array([1], np.int32), []
    for _ in range(steps):
        dones.append(Done(int(made.step(fire)[2][0])))
    made.close()
    return dones


def test_a_lost_life_ends_an_episode_of_training_only_where_asked() -> None:
    training, evaluation = (returns_of_breakout(mode, 200).count(Done.TERMINATED) for mode in (True, False))
    # Breakout has five lives.
    assert training >= 4 * max(1, evaluation)


def episodes(made: Lanes, steps: int) -> list[Any]:
    """States, rewards and endings of one lane with random actions."""
    generator = np.random.default_rng(0)
    results = [(made.reset(7), np.zeros(1), np.zeros(1))]
    results += [made.step(random_actions(made.action_spec, generator, 1)) for _ in range(steps)]
    made.close()
    return results


@pytest.mark.parametrize(("world", "steps"), [("atari:breakout", 400), ("procgen:starpilot", 600)])
def test_a_lane_alone_plays_as_in_its_library(world: str, steps: int) -> None:
    """After a lost life too: the next episode goes on with the game."""
    ENVIRONMENTS.load("atari")
    gin.parse_config("Atari.life_loss_ends = True\nAtari.sticky_actions = 0.0\nAtari.fire_at_start = True")
    inside = episodes(Lanes(make_block(world, 1)), steps)
    alone = episodes(Lanes(InProcess([partial(make, world)])), steps)
    assert sum(int(done[0] != Done.NO) for _, _, done in inside) > 1
    for one, other in zip(inside, alone, strict=True):
        assert all(map(np.array_equal, one, other))


def test_sticky_actions_make_the_game_random() -> None:
    def states(probability: float) -> list[bytes]:
        gin.parse_config(f"Atari.sticky_actions = {probability}")
        made = Lanes(make_block("atari:pong", 8))
        state = made.reset(0)
        for step in range(80):
            state, _, _ = made.step(np.full(8, 2 + step // 4 % 2, np.int32))
        made.close()
        return [lane.tobytes() for lane in state]

    assert len(set(states(0.0))) == 1
    assert len(set(states(0.25))) > 4
