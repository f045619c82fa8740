"""Habitat: first-person navigation in scanned buildings, by habitat-lab's configurations (docs/habitat.md)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from pipeline import index
from pipeline.envs import extras, gym
from pipeline.envs.apart import Apart
from pipeline.envs.environment import Done
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.types import Nest, UserError

QUIET = {"HABITAT_SIM_LOG": "quiet", "MAGNUM_LOG": "quiet", "HABITAT_LAB_LOG": "30"}
"""what its parts print: warnings and errors"""


@ENVIRONMENTS.register("habitat")
class Habitat(Apart):
    """A task of habitat-lab in a process of its own, since a process bears one of Habitat's simulators only."""

    def __init__(self, name: str, overrides: tuple[str, ...] = ()):
        """`name`: one of habitat-lab's configurations, as 'benchmark/nav/pointnav/pointnav_gibson.yaml', or a file.

        `overrides`: changes to it, as hydra writes them: ('habitat.dataset.split=val', 'habitat.gym.obs_keys=[rgb]').
        """
        super().__init__(Task, name, tuple(overrides))


class Task(gym.GymAdapter):
    """The gym environment that habitat-lab makes of a configuration.

    States: the sensors by name, those of `habitat.gym.obs_keys` or all. Actions: one of the task's or, where those
    take amounts, the amounts side by side. Rewards: as `habitat.task`'s `reward_measure`, `slack_reward` and
    `success_reward` say. Endings: the task's own, as by its action 'stop', and success terminate; limits truncate.

    A seed also makes the order of the episodes. Habitat seeds Python's and numpy's global generators, and uses them.
    """

    def __init__(self, name: str, overrides: tuple[str, ...] = ()):
        """As `Habitat`; raises UserError where a package, the configuration or the episodes' file is missing."""
        self._lab = _import()
        config = self._configuration(name, overrides)
        try:
            environment = self._lab.gym.make_gym_from_config(config)
        except FileNotFoundError as error:
            raise UserError(f"The data of Habitat's '{name}' is missing ({error}): see docs/habitat.md.") from error
        super().__init__(name, environment, lambda: self._lab.gym.make_gym_from_config(config))
        self.frame_rate = 10.0
        self._core = environment.unwrapped
        """habitat-lab's RLEnv"""
        self._episodes = tuple(self._core.episodes)

    def _configuration(self, name: str, overrides: tuple[str, ...]) -> Any:
        folder = Path(self._lab.__file__).parent / "config"
        if not (Path(name).is_file() or (folder / name).is_file()):
            known = {str(path.relative_to(folder)) for path in folder.glob("benchmark/**/*.yaml")}
            raise UserError(f"Habitat has no configuration '{name}'; {index.near(name, known)}")
        try:
            return self._lab.get_config(name, list(overrides))
        except importlib.import_module("hydra.errors").HydraException as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise UserError(f"Habitat.overrides {overrides} do not fit '{name}' ({reason}).") from error

    def _begin(self, seed: int | None) -> Nest:
        if seed is not None:
            with self._lab.read_write(self._core.config):
                self._core.config.seed = seed
            self._core.seed(seed)
            # They come anew, in an order that the configuration's seed makes; a list is shuffled in place.
            self._core.episodes = list(self._episodes)
        return super()._begin(None)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        state, reward, done = super()._advance(action)
        return state, reward, Done.TRUNCATED if done and self._is_cut_short() else done

    def _is_cut_short(self) -> bool:
        environment, config = self._core.habitat_env, self._core.config.task
        succeeded = config.end_on_success and environment.get_metrics()[config.success_measure]
        return environment.task.is_episode_active and not succeeded


def _import() -> Any:
    """habitat-lab; raises UserError where it or its simulator is not installed."""
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        importlib.import_module("habitat_sim")
    except ImportError as error:
        raise UserError(
            f"This environment needs habitat_sim, which is not installed ({error}), and which PyPI does not have for"
            " Linux: docs/habitat.md tells of an image with it."
        ) from error
    gym.silence_gym()
    extras.need("habitat.gym", "habitat")
    return extras.need("habitat", "habitat")
