"""Stands in for habitat_sim, Habitat's simulator, which PyPI does not have; all above it is the real habitat-lab.

Its world is an empty square room, its agent a point; what of habitat_sim, magnum and corrade is only imported is made
when asked for. Names and arguments are those of habitat_sim 0.3.3, as far as habitat-lab uses them.
"""

from __future__ import annotations

import gzip
import importlib.abc
import importlib.machinery
import json
import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("habitat_sim", "magnum", "corrade")
HALF = 5.0
"""half the room's side, in metres"""
COLOURS = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [200, 200, 0]], np.uint8)
"""of the walls in the north (-z), south, west (-x) and east"""


class Settings(types.SimpleNamespace):
    """Any group of the simulator's settings: habitat-lab writes those that it finds there."""

    def __init__(self, *values: Any, **named: Any):
        super().__init__(**named)
        self.values = values

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)

    def set_defaults(self) -> None:
        pass


class Configuration(Settings):
    def __init__(self, sim_cfg: Settings, agents: list[Settings]):
        super().__init__(sim_cfg=sim_cfg, agents=agents, enable_batch_renderer=False)


class AgentState(Settings):
    """`position` [3], and `rotation`: a quaternion, or its (x, y, z, w)."""


class Agent:
    def __init__(self) -> None:
        self.set_state(AgentState(position=np.zeros(3), rotation=[0.0, 0.0, 0.0, 1.0]))

    def get_state(self) -> AgentState:
        # habitat-lab computes with quaternions of numpy-quaternion.
        quaternion: Any = importlib.import_module("quaternion")
        rotation = quaternion.quaternion(math.cos(self.yaw / 2), 0, math.sin(self.yaw / 2), 0)
        return AgentState(position=self.position.copy(), rotation=rotation)

    def set_state(self, state: AgentState, reset_sensors: bool = True) -> None:
        self.position = np.array(state.position, np.float64)
        rotation: Any = state.rotation
        y, w = (rotation[1], rotation[3]) if isinstance(rotation, Sequence) else (rotation.y, rotation.w)
        self.yaw = 2 * math.atan2(y, w)


class PathFinder:
    def find_path(self, path: Settings) -> bool:
        ends: Any = path.requested_ends
        path.geodesic_distance = min(float(np.linalg.norm(end - path.requested_start)) for end in ends)
        return True


class Simulator:
    """The room seen by one agent, which moves as its configuration says and stops at walls."""

    def __init__(self, config: Configuration):
        self.config = config
        self.agents = [Agent() for _ in config.agents]
        self.pathfinder = PathFinder()
        self.seeds: list[int] = []

    def reconfigure(self, config: Configuration) -> None:
        self.config = config

    def seed(self, new_seed: int) -> None:
        self.seeds.append(new_seed)

    def close(self, destroy: bool = True) -> None:
        pass

    def get_object_template_manager(self) -> Settings:
        return Settings()

    def get_agent(self, agent_id: int) -> Agent:
        return self.agents[agent_id]

    def reset(self) -> dict[str, Any]:
        return self.get_sensor_observations()

    def step(self, action: int) -> dict[str, Any]:
        spec = self.config.agents[0].action_space[action]
        name, actuation = spec.values
        agent, collided = self.agents[0], False
        if name == "move_forward":
            wanted = agent.position - actuation.amount * np.array([math.sin(agent.yaw), 0, math.cos(agent.yaw)])
            agent.position = np.clip(wanted, -HALF, HALF)
            collided = not np.allclose(wanted, agent.position)
        else:
            agent.yaw += math.radians(actuation.amount) * (1 if name == "turn_left" else -1)
        return {**self.get_sensor_observations(), "collided": collided}

    def step_physics(self, dt: float) -> None:
        pass

    def get_sensor_observations(self, agent_ids: int = 0) -> dict[str, Any]:
        return {s.uuid: self._picture(s) for s in self.config.agents[agent_ids].sensor_specifications}

    def _picture(self, sensor: Settings) -> np.ndarray:
        """Depths f32 [height, width] in metres, or u8 [height, width, 4]."""
        height, width = sensor.resolution
        across = np.tan(math.radians(sensor.hfov) / 2) * (1 - (2 * np.arange(width) + 1) / width)
        heading = self.agents[0].yaw + np.arctan(across)
        x, _, z = self.agents[0].position
        with np.errstate(divide="ignore"):
            to_walls = np.stack(
                [
                    (HALF + z) / np.cos(heading),
                    (HALF - z) / -np.cos(heading),
                    (HALF + x) / np.sin(heading),
                    (HALF - x) / -np.sin(heading),
                ]
            )
        to_walls[to_walls <= 0] = np.inf
        if sensor.sensor_type == "DEPTH":
            row = (to_walls.min(axis=0) * np.cos(np.arctan(across))).astype(np.float32)
        else:
            opaque = np.full((width, 1), 255, np.uint8)
            row = np.concatenate([COLOURS[to_walls.argmin(axis=0)], opaque], axis=-1)
        return np.repeat(row[None], height, axis=0)


class _Anything(type):
    """A class without content, whose attributes are such classes too."""

    def __new__(cls, name: str) -> _Anything:
        return super().__new__(cls, name, (), {"__init__": lambda self, *values: None})

    def __init__(cls, name: str) -> None:
        super().__init__(name, (), {})

    def __getattr__(cls, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name)


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> _Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of the packages that are stood in for."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: Any) -> None:
        if module.__name__ == "habitat_sim":
            module.Simulator, module.Configuration, module.AgentState = Simulator, Configuration, AgentState
            module.SimulatorConfiguration = module.AgentConfiguration = module.CameraSensorSpec = Settings
            module.ActionSpec = module.ActuationSpec = module.MultiGoalShortestPath = Settings
            module.SensorType = module.SensorSubType = Settings(COLOR="COLOR", DEPTH="DEPTH", PINHOLE="PINHOLE")
            module.nav = importlib.import_module("habitat_sim.nav")
        if module.__name__ == "habitat_sim.nav":
            module.NavMeshSettings = Settings


def install() -> None:
    """Makes this process find the stand-ins."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def write_importable(folder: Path) -> None:
    """Puts a `habitat_sim` into `folder`, for another process whose path it is on."""
    (folder / "habitat_sim.py").write_text(
        "import importlib, sys\n"
        "from tests.pipeline.envs import habitat_stand_in\n"
        "habitat_stand_in.install()\n"
        "del sys.modules[__name__]\n"
        "importlib.import_module(__name__)\n"
    )


def write_episodes(folder: Path, distances: Sequence[float]) -> Path:
    """A PointNav dataset with an episode for each distance (metres) of the goal, straight before the agent."""
    episodes = [
        {
            "episode_id": str(number),
            "scene_id": "room.glb",
            "start_position": [0.0, 0.0, 4.0],
            "start_rotation": [0.0, 0.0, 0.0, 1.0],
            "goals": [{"position": [0.0, 0.0, 4.0 - distance], "radius": None}],
            "info": {"geodesic_distance": distance},
        }
        for number, distance in enumerate(distances)
    ]
    path = folder / "episodes.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"episodes": episodes}).encode()))
    return path
