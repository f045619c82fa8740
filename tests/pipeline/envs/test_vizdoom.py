"""ViZDoom: it plays as the game itself, ends as it should, and leaves nothing behind; a killed game is one crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dm_env.specs as specs
import numpy as np
import psutil
import pytest

from pipeline.envs import vizdoom as adapter
from pipeline.envs.block import InProcess
from pipeline.envs.crashes import Crashes
from pipeline.envs.environment import Done
from pipeline.envs.lanes import Lanes
from pipeline.envs.processes import Processes
from pipeline.envs.vizdoom import VizDoom
from pipeline.types import UserError
from tests.limits import LIMIT_S, wait_until

vizdoom: Any = pytest.importorskip("vizdoom")

MACHINE = Path(tempfile.gettempdir()) / "encore-vizdoom.lock"
NOTHING, LEFT, RIGHT, ATTACK = range(4)
"""actions of 'basic'"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The current folder and the one for temporary files, both empty; at the end nothing may be left of a game."""
    here, temporary = tmp_path / "here", tmp_path / "a folder's temporary files"
    for folder in (here, temporary):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    # Shared memory is the whole machine's: games of these tests' other processes come and go in it.
    with MACHINE.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = shared_memory()
        yield here, temporary
        assert [*here.iterdir(), *temporary.iterdir()] == []
        assert games() == []
        wait_until(lambda: shared_memory() - before <= of_others(), "the games' shared memory to be gone")


@pytest.fixture
def make() -> Iterator[Any]:
    """Makes environments that are closed after the test."""
    made: list[VizDoom] = []

    def make(name: str = "basic", **parameters: Any) -> VizDoom:
        made.append(VizDoom(name, **parameters))
        return made[-1]

    yield make
    for environment in made:
        environment.close()


def games() -> list[psutil.Process]:
    """Processes of games that this one started."""
    return [child for child in psutil.Process().children(recursive=True) if child.name() == "vizdoom"]


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("ViZDoom*"))


def of_others() -> set[Path]:
    """What processes hold of shared memory that neither are this one nor were started by it: other tests' games."""
    own = {process.pid for process in (psutil.Process(), *psutil.Process().children(recursive=True))}
    held: set[Path] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in own:
                held |= {Path(area.path) for area in process.memory_maps()}
    return held


def play(environment: VizDoom, action: int, seed: int = 0) -> tuple[list[np.ndarray], list[float], Done]:
    """The states and rewards of an episode of one action, and how it ended."""
    states, rewards, done = [environment.reset(seed)], [], Done.NO
    while not done:
        state, reward, done = environment.step(action)
        states.append(state)
        rewards.append(reward)
        assert len(rewards) < 1000
    return states, rewards, done


def trajectory(environment: VizDoom, seed: int | None, steps: int = 60) -> list[tuple[bytes, float, Done]]:
    generator = np.random.default_rng(0)
    environment.reset(seed)
    actions = generator.integers(environment.action_spec.num_values, size=steps)
    return [(state.tobytes(), reward, done) for state, reward, done in map(environment.step, actions)]


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("basic", 4),
        ("my_way_home", 6),
        ("health_gathering", 4),
        ("deadly_corridor", 8),
        ("take_cover", 3),
        ("basic_audio", 4),
        ("freedoom1", 20),
        ("deathmatch", 18),  # and three that take an amount
    ],
)
def test_steps_match_their_specs(make: Any, name: str, actions: int) -> None:
    environment = make(name)
    assert environment.action_spec == specs.DiscreteArray(actions, np.int32)
    environment.observation_spec.validate(environment.reset(0))
    generator = np.random.default_rng(0)
    states = []
    for action in generator.integers(actions, size=200, dtype=np.int32):
        state, reward, done = environment.step(action)
        environment.observation_spec.validate(state)
        assert type(reward) is float
        assert type(done) is Done
        states.append(state)
    assert len({state.tobytes() for state in states}) > 10


def test_it_plays_as_the_game_itself(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make("health_gathering")
    monkeypatch.chdir(tmp_path)
    game = vizdoom.DoomGame()
    game.load_config(f"{vizdoom.scenarios_path}/health_gathering.cfg")
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_seed(3)
    game.init()
    environment.reset(3)
    done = Done.NO
    for action in np.random.default_rng(0).integers(4, size=1000):
        np.testing.assert_array_equal(environment.render(), game.get_state().screen_buffer)
        _, reward, done = environment.step(action)
        assert reward == game.make_action([action == 1, action == 2, action == 3], 4)
        assert bool(done) == game.is_episode_finished()
        if done:
            break
    assert done is Done.TERMINATED
    assert game.is_player_dead()
    game.close()


def test_an_action_lasts_for_its_tics(make: Any) -> None:
    environment = make(frame_skip=4)
    environment.reset(0)
    assert environment.frame_rate == 35 / 4
    # A tic costs 1 and a shot 5.
    assert [environment.step(action)[1] for action in (NOTHING, ATTACK, ATTACK)] == [-4, -4, -9]
    environment = make(frame_skip=10)
    environment.reset(0)
    assert environment.step(NOTHING)[1] == -10


def test_left_and_right_are_different_ways(make: Any) -> None:
    environment = make()
    seen = []
    for action in (NOTHING, LEFT, RIGHT):
        environment.reset(0)
        seen.append([environment.step(action)[0] for _ in range(5)][-1].tobytes())
    assert len(set(seen)) == 3


@pytest.mark.parametrize(("grey", "height", "width"), [(True, 60, 80), (False, 60, 80), (False, 40, 80)])
def test_states_are_scaled_screens(make: Any, grey: bool, height: int, width: int) -> None:
    environment = make("my_way_home", grey=grey, height=height, width=width)
    state = environment.reset(0)
    screen = environment.render()
    assert (screen.shape, screen.dtype) == ((120, 160, 3), np.uint8)
    # Means over blocks of the screen's pixels; grey is ITU-R BT.601's luma.
    expected = screen.reshape(height, 120 // height, width, 160 // width, 3).astype(np.float64).mean((1, 3))
    if grey:
        expected = expected @ [[0.299], [0.587], [0.114]]
    assert state.shape == expected.shape
    np.testing.assert_allclose(state, expected, atol=1.01)
    assert state.std() > 5


def test_the_screen_has_the_chosen_resolution(make: Any) -> None:
    environment = make(resolution="320x240", height=84, width=96)
    assert environment.reset(0).shape == (84, 96, 1)
    assert environment.render().shape == (240, 320, 3)


def test_states_stay_as_they_were(make: Any) -> None:
    environment = make("my_way_home", height=120, width=160, grey=False)
    state = environment.reset(0)
    before = state.copy()
    for _ in range(20):
        environment.step(1)
    np.testing.assert_array_equal(state, before)


@pytest.mark.parametrize("name", ["basic", "deathmatch"])
def test_a_seed_reproduces_states_rewards_and_endings(make: Any, name: str) -> None:
    environment, other = make(name), make(name)
    once = trajectory(environment, 7)
    between = trajectory(environment, None)
    assert trajectory(environment, 7) == once
    assert trajectory(environment, None) == between != once
    other.reset(3)
    assert trajectory(other, 7) == once
    assert len({str(trajectory(environment, seed)) for seed in range(3)}) == 3


def test_without_a_seed_games_differ(make: Any) -> None:
    assert trajectory(make(), None) != trajectory(make(), None)


@pytest.mark.parametrize(("frame_skip", "steps"), [(4, 75), (7, 43), (300, 1), (1000, 1)])
def test_the_time_limit_of_300_tics_truncates(make: Any, frame_skip: int, steps: int) -> None:
    _, rewards, done = play(make(frame_skip=frame_skip), NOTHING)
    assert done is Done.TRUNCATED
    assert len(rewards) == steps
    assert sum(rewards) == -300


def test_a_truncated_episode_has_its_true_final_state(make: Any) -> None:
    turning = 1
    states, rewards, done = play(make("my_way_home", frame_skip=20), turning)
    assert (len(rewards), done) == (2100 // 20, Done.TRUNCATED)
    assert not np.array_equal(states[-1], states[-2])


def test_death_terminates(make: Any) -> None:
    states, rewards, done = play(make("health_gathering"), NOTHING)
    assert done is Done.TERMINATED
    assert rewards[-1] < -90
    # What was last drawn.
    np.testing.assert_array_equal(states[-1], states[-2])


def test_the_scenarios_own_end_terminates(make: Any) -> None:
    environment = make()
    for seed in range(20):
        _, rewards, done = play(environment, ATTACK, seed)
        hit = rewards[-1] > 0
        assert done is (Done.TERMINATED if hit else Done.TRUNCATED)
        if hit:
            return
    pytest.fail("a shot straight ahead never hit")


def test_after_an_ending_comes_the_next_first_state(make: Any) -> None:
    environment = make(frame_skip=300)
    environment.reset(5)
    environment.step(NOTHING)
    state, reward, done = environment.step(NOTHING)
    assert (reward, done) == (0.0, Done.NO)
    environment.reset(5)
    environment.step(NOTHING)
    np.testing.assert_array_equal(environment.reset(), state)


def test_its_state_cannot_be_had(make: Any) -> None:
    environment = make()
    environment.reset(0)
    assert environment.state() is None


def test_a_game_runs_from_reset_to_close(folders: tuple[Path, Path]) -> None:
    here, temporary = folders
    environment = VizDoom("basic")
    assert games() == []
    environment.reset(0)
    environment.reset()
    assert len(games()) == 1
    assert list(here.iterdir()) == []
    assert len(list(temporary.iterdir())) == 1
    environment.close()
    assert [*games(), *temporary.iterdir()] == []
    environment.close()


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("os.kill(os.getpid(), 9)", -9), ("os._exit(3)", 3)])
def test_a_game_ends_with_its_program(folders: tuple[Path, Path], ending: str, code: int) -> None:
    _, temporary = folders
    program = (
        "import os\n"
        "from pipeline.envs.vizdoom import VizDoom\n"
        "environment = VizDoom('basic')\n"
        "environment.reset(0)\n"
        f"print('begun', flush=True)\n{ending}\n"
    )
    root = Path(adapter.__file__).parents[2]
    # A game that lived on would hold the pipe that it has from the program, and this would wait for it.
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"TMPDIR": str(temporary), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "begun\n", "")
    if code:
        # Nobody was left to do it.
        for path in [*shared_memory(), *temporary.rglob("*")]:
            if path.is_file():
                path.unlink()
        for path in sorted(temporary.rglob("*"), reverse=True):
            path.rmdir()


def test_ctrl_c_is_not_for_the_game(make: Any) -> None:
    make().reset(0)
    (game,) = games()
    assert game.pid == os.getpgid(game.pid)


def test_a_killed_game_raises_and_another_one_runs(make: Any) -> None:
    environment = make()
    environment.reset(0)
    (game,) = games()
    game.kill()
    with pytest.raises(vizdoom.ViZDoomErrorException, match="Unexpected ViZDoom instance crash"):
        environment.step(NOTHING)
    environment.close()
    other = make()
    other.reset(0)
    assert other.step(NOTHING)[1] == -4


def test_lanes_outlive_a_killed_game(capsys: pytest.CaptureFixture[str]) -> None:
    crashes = Crashes(rate=1.0, timeout=LIMIT_S)
    lanes = Lanes(InProcess([partial(VizDoom, "basic")] * 2), crashes=crashes)
    lanes.reset(0)
    actions = np.full(2, NOTHING, np.int32)
    before, _, _ = lanes.step(actions)
    first = min(games(), key=lambda game: game.create_time())
    first.kill()
    state, reward, done = lanes.step(actions)
    assert crashes.count == 1
    assert sorted(done) == [Done.NO, Done.TRUNCATED]
    lost = int(done.argmax())
    np.testing.assert_array_equal(state[lost], before[lost])
    assert reward[lost] == 0
    for _ in range(3):
        state, reward, done = lanes.step(actions)
    assert reward.tolist() == [-4, -4]
    assert crashes.count == 1
    assert "Unexpected ViZDoom instance crash" in capsys.readouterr().out
    lanes.close()


def test_in_a_process_lanes_outlive_a_game_that_stands_still() -> None:
    crashes = Crashes(rate=1.0, timeout=LIMIT_S)
    lanes = Lanes(Processes([partial(VizDoom, "basic")] * 2, processes=2, timeout=5.0), crashes=crashes)
    lanes.reset(0)
    actions = np.full(2, NOTHING, np.int32)
    lanes.step(actions)
    frozen = games()[0]
    its = {Path(area.path) for area in frozen.memory_maps()} & shared_memory()
    assert its
    frozen.suspend()
    assert sorted(lanes.step(actions)[2]) == [Done.NO, Done.TRUNCATED]
    assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE
    lanes.step(actions)
    assert lanes.step(actions)[1].tolist() == [-4, -4]
    assert crashes.count == 1
    lanes.close()
    for left in its:  # a process that is killed cannot remove its game's
        left.unlink()


def test_an_unknown_scenario_lists_the_near_ones() -> None:
    with pytest.raises(UserError, match=r"no scenario 'my_way_hom' for one player; did you mean .*my_way_home"):
        VizDoom("my_way_hom")
    with pytest.raises(UserError, match=r"no scenario '' for one player; there are: basic, .*take_cover\."):
        VizDoom("")


@pytest.mark.parametrize("name", adapter.MULTIPLAYER)
def test_scenarios_for_several_players_are_none_for_one(name: str) -> None:
    assert Path(vizdoom.scenarios_path, f"{name}.cfg").exists()
    with pytest.raises(UserError, match=f"ViZDoom has no scenario '{name}' for one player"):
        VizDoom(name)


def test_levels_that_are_not_free_are_asked_for() -> None:
    with pytest.raises(UserError, match=r"ViZDoom's 'doom2' needs doom2.wad, which is not free: put yours at /.*doom2"):
        VizDoom("doom2")


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(UserError, match=r"VizDoom.resolution is '160x121'; did you mean 160x120"):
        VizDoom("basic", resolution="160x121")
    with pytest.raises(UserError, match=r"VizDoom.frame_skip is 0: it must be positive"):
        VizDoom("basic", frame_skip=0)
    with pytest.raises(UserError, match=r"VizDoom.height is -1: it must be positive"):
        VizDoom("basic", height=-1)


def test_a_folder_that_runs_no_programs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"starts a program in /.*, where none may run: set TMPDIR to another folder"):
        VizDoom("basic")


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(UserError, match=r"needs vizdoom, which is not installed .*\./setup.sh --with=vizdoom"):
        VizDoom("basic")
