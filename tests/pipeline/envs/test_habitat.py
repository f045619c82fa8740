"""Habitat by the real habitat-lab, over a stand-in for its simulator: states, rewards, endings, seeds, and errors."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dm_env.specs as specs
import gin
import numpy as np
import pytest

from pipeline.envs.environment import Done, action_kind
from pipeline.envs.habitat import Habitat, Task
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import UserError
from tests.pipeline.envs import habitat_stand_in

POINTNAV = "benchmark/nav/pointnav/pointnav_habitat_test.yaml"
SENSORS = "habitat.simulator.agents.main_agent.sim_sensors"
SMALL = tuple(f"{SENSORS}.{sensor}_sensor.{size}" for sensor in ("rgb", "depth") for size in ("width=32", "height=24"))
STOP, FORWARD, LEFT, RIGHT = range(4)
GOAL = "pointgoal_with_gps_compass"

Make = Callable[..., Task]


@pytest.fixture
def episodes(tmp_path: Path) -> tuple[str, ...]:
    """Overrides for five episodes, their goals 1, 2, 3, 4 and 5 m ahead; each may take six steps."""
    path = habitat_stand_in.write_episodes(tmp_path, [1.0, 2.0, 3.0, 4.0, 5.0])
    return (f"habitat.dataset.data_path={path}", "habitat.environment.max_episode_steps=6", *SMALL)


@pytest.fixture
def make(episodes: tuple[str, ...]) -> Make:
    """Makes the task in this process, with overrides beside the above."""
    habitat_stand_in.install()
    return lambda *overrides: Task(POINTNAV, (*episodes, *overrides))


def distance(state: Any) -> float:
    """Metres to the goal."""
    return float(state[GOAL][0])


def test_states_are_the_sensors_and_actions_the_tasks(make: Make) -> None:
    task = make()
    assert {name: (spec.shape, spec.dtype) for name, spec in task.observation_spec.items()} == {
        "rgb": ((24, 32, 3), np.uint8),
        "depth": ((24, 32, 1), np.float32),
        GOAL: ((2,), np.float32),
    }
    assert task.action_spec == specs.DiscreteArray(4, np.int32)
    for state in (task.reset(0), task.step(np.int32(LEFT))[0]):
        assert state.keys() == task.observation_spec.keys()
        for name, spec in task.observation_spec.items():
            spec.validate(state[name])


def test_the_agent_sees_where_it_stands_and_what_it_turns_to(make: Make) -> None:
    task = make()
    first = task.reset(0)
    # The wall in the north is 9 m away, and 10 m are the depth 1.
    np.testing.assert_allclose(first["depth"][:, 16], 0.9, rtol=1e-6)
    assert first["rgb"][12, 16].tolist() == [200, 0, 0]
    ahead, _, _ = task.step(np.int32(FORWARD))
    np.testing.assert_allclose(ahead["depth"][:, 16], 0.875, rtol=1e-6)
    assert distance(ahead) == pytest.approx(distance(first) - 0.25)
    left, _, _ = task.step(np.int32(LEFT))
    np.testing.assert_allclose(left[GOAL][1], -np.deg2rad(10), rtol=1e-6)
    np.testing.assert_allclose(first["depth"][:, 16], 0.9, rtol=1e-6)


def test_rewards_are_the_configurations(make: Make) -> None:
    task = make()
    task.reset(0)
    assert task.step(np.int32(FORWARD))[1] == pytest.approx(0.25 - 0.01)
    assert task.step(np.int32(RIGHT))[1] == pytest.approx(-0.01)
    other = make("habitat.task.slack_reward=-1", "habitat.task.reward_measure=distance_to_goal")
    start = distance(other.reset(0))
    assert other.step(np.int32(RIGHT))[1] == pytest.approx(start - 1)


@pytest.mark.parametrize("steps", [3, 6], ids=["before the limit", "at the limit"])
def test_stopping_terminates(make: Make, steps: int) -> None:
    task = make()
    task.reset(0)
    for _ in range(steps - 1):
        assert task.step(np.int32(LEFT))[2] is Done.NO
    _, reward, done = task.step(np.int32(STOP))
    assert done is Done.TERMINATED
    assert reward == pytest.approx(-0.01)


def test_stopping_at_the_goal_earns_the_success_reward(make: Make) -> None:
    task = make()
    seed = next(seed for seed in range(100) if distance(task.reset(seed)) == 1.0)
    task.reset(seed)
    for _ in range(4):
        task.step(np.int32(FORWARD))
    _, reward, done = task.step(np.int32(STOP))
    assert done is Done.TERMINATED
    assert reward == pytest.approx(2.5 - 0.01)


def test_the_limit_truncates_and_the_next_episode_follows(make: Make) -> None:
    task = make()
    first = task.reset(0)
    results = [task.step(np.int32(LEFT)) for _ in range(7)]
    assert [done for _, _, done in results] == [Done.NO] * 5 + [Done.TRUNCATED, Done.NO]
    assert results[-1][1] == 0.0
    assert distance(results[-1][0]) != distance(first)


def test_success_terminates_where_it_is_to_end_the_episode(make: Make) -> None:
    """A measure that is true from the start on stands for a task that is done without a stop."""
    always = ("habitat.task.success_measure=distance_to_goal", "habitat.environment.max_episode_steps=1")
    for ends, done in ((True, Done.TERMINATED), (False, Done.TRUNCATED)):
        task = make(*always, f"habitat.task.end_on_success={ends}")
        task.reset(0)
        assert task.step(np.int32(LEFT))[2] is done


def test_a_seed_makes_the_order_of_episodes(make: Make) -> None:
    task, other = make(), make()

    def order(task: Task, seed: int) -> list[float]:
        states = [task.reset(seed)]
        for _ in range(9):
            task.step(np.int32(STOP))
            states.append(task.step(np.int32(STOP))[0])
        return [distance(state) for state in states]

    once = order(task, 7)
    assert sorted(once[:5]) == sorted(once[5:]) == [1, 2, 3, 4, 5]
    assert order(task, 7) == once
    assert order(other, 7) == once
    assert order(task, 0) == order(other, 0)
    assert len({tuple(order(task, seed)) for seed in range(4)}) > 1
    assert task._core.habitat_env.sim.seeds[-4:] == [0, 1, 2, 3]


def test_a_reset_without_a_seed_goes_on_to_the_next_episode(make: Make) -> None:
    task = make()
    assert len({distance(task.reset(seed)) for seed in (0, None, None, None, None)}) == 5


def test_pictures_show_every_sensor_that_sees(make: Make) -> None:
    task = make()
    task.reset(0)
    frame = task.render()
    assert (frame.shape, frame.dtype) == ((24, 64, 3), np.uint8)
    assert frame[12, 16].tolist() == [200, 0, 0]
    assert frame[12, 48].tolist() == [int(0.9 * 255)] * 3
    assert task.frame_rate == 10


def test_overrides_choose_sensors(make: Make) -> None:
    task = make(f"habitat.gym.obs_keys=[{GOAL}]")
    assert list(task.observation_spec) == list(task.reset(0)) == [GOAL]
    assert task.render().shape == (24, 64, 3)


def test_a_file_of_ones_own_says_what_differs(episodes: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - /benchmark/nav/pointnav/pointnav_habitat_test\n"
        "  - _self_\n"
        "habitat:\n"
        "  gym: {obs_keys: [depth]}\n"
    )
    habitat_stand_in.install()
    assert list(Task(str(file), episodes).observation_spec) == ["depth"]


def test_a_blind_agent_has_no_pictures(make: Make) -> None:
    task = make(f"~{SENSORS}.rgb_sensor", f"~{SENSORS}.depth_sensor")
    task.reset(0)
    with pytest.raises(UserError, match=r"cannot be drawn here .*visual sensor"):
        task.render()


def test_actions_that_take_amounts_are_clipped_to_their_bounds(make: Make) -> None:
    make()
    core: Any = importlib.import_module("habitat.core.embodied_task")
    spaces: Any = importlib.import_module("gym.spaces")
    amounts = []

    class Glide(core.SimulatorTaskAction):
        @property
        def action_space(self) -> Any:
            return spaces.Dict({"by": spaces.Box(0, 2, (1,), np.float32), "turn": spaces.Box(-1, 1, (1,), np.float32)})

        def step(self, *, by: np.ndarray, turn: np.ndarray, **others: Any) -> None:
            amounts.append((by.tolist(), turn.tolist()))

    importlib.import_module("habitat").registry.register_task_action(Glide)
    task = make("habitat/task/actions=[velocity_control]", "habitat.task.actions.velocity_control.type=Glide")
    assert action_kind(task.action_spec) == "continuous"
    np.testing.assert_array_equal(task.action_spec.minimum, [0, -1])
    np.testing.assert_array_equal(task.action_spec.maximum, [2, 1])
    task.reset(0)
    task.step(np.array([1.5, 0.5], np.float32))
    task.step(np.array([3.0, -4.0], np.float32))
    assert amounts == [([1.5], [0.5]), ([2.0], [-1.0])]


def test_an_unknown_configuration_lists_the_near_ones() -> None:
    habitat_stand_in.install()
    with pytest.raises(
        UserError, match=r"no configuration '.*/pointnav_gibbon\.yaml'; did .*/pointnav_gibson\.yaml.*\?"
    ):
        Task("benchmark/nav/pointnav/pointnav_gibbon.yaml")


@pytest.mark.parametrize("override", ["habitat.no_such_key=1", "habitat.seed=many", "=="])
def test_overrides_that_do_not_fit_are_refused(make: Make, override: str) -> None:
    with pytest.raises(UserError, match=r"Habitat.overrides \(.*\) do not fit 'benchmark/.*' \(.+\)\."):
        make(override)


def test_missing_data_is_named(make: Make) -> None:
    with pytest.raises(
        UserError, match=r"data of Habitat's .* is missing \(.*/nowhere.json.gz'\): see docs/habitat.md"
    ):
        make("habitat.dataset.data_path=/nowhere.json.gz")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("habitat_sim", "needs habitat_sim, which is not installed .* docs/habitat.md tells of an image"),
        ("habitat", r"needs habitat.*\./setup.sh --with=habitat installs it"),
    ],
)
def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, module: str, message: str) -> None:
    habitat_stand_in.install()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=message):
        Task(POINTNAV)


def test_it_lives_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, episodes: tuple[str, ...], make: Make
) -> None:
    habitat_stand_in.write_importable(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    gin.bind_parameter("Habitat.overrides", episodes)
    apart, here = ENVIRONMENTS.get("habitat")(POINTNAV), make()
    assert isinstance(apart, Habitat)
    assert (apart.observation_spec.keys(), apart.action_spec) == (here.observation_spec.keys(), here.action_spec)
    assert apart.frame_rate == 10
    np.testing.assert_equal(apart.reset(3), here.reset(3))
    for action in (FORWARD, LEFT, STOP, STOP):
        np.testing.assert_equal(apart.step(np.int32(action)), here.step(np.int32(action)))
    np.testing.assert_array_equal(apart.render(), here.render())
    assert apart.state() is None

    os.kill(apart._process.pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match="its process ended with code -9"):
        apart.reset()
    apart.close()


def test_a_simulator_that_is_missing_is_told_from_its_process() -> None:
    with pytest.raises(UserError, match="This environment needs habitat_sim, which is not installed"):
        Habitat(POINTNAV)
