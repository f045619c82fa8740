"""Any environment of `dm_env`, and the tasks of the DeepMind Control Suite (Tassa et al. 2018) by name."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dm_env
import dm_env.specs as specs
import numpy as np
import tree

from pipeline import index
from pipeline.checks import check_positive
from pipeline.envs.choices import choices
from pipeline.envs.environment import Done, Environment
from pipeline.envs.extras import need
from pipeline.envs.own import Own, narrow
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.states import Place, reader
from pipeline.types import Nest, UserError

PICTURE = (240, 320)
"""height and width of what `render` draws of the Control Suite, in pixels"""
FIXED = ("tex_", "mesh_", "skin_", "bvh_")
"""how the arrays of a MuJoCo model are called that no task changes, and that nearly all of its size is in"""


class DmEnvironment(Environment):
    """An environment that speaks `dm_env`.

    Specs and states keep their structure, made of dicts and tuples; 64-bit numbers become 32-bit. Actions of integers
    count from 0, whatever their least value is, and those of reals are clipped to their bounds.

    Endings: the last step's discount is what the final state's value counts for, so 0 terminates and anything above
    truncates. Discounts of other steps are not used: gamma is the agent's.
    """

    def __init__(self, environment: dm_env.Environment, frame_rate: float = 30.0):
        """`frame_rate`: pictures a second at which it looks natural.

        Raises UserError where rewards are not one number, or states or actions are not numbers.
        """
        reward = environment.reward_spec()
        if tree.is_nested(reward) or reward.shape != ():
            raise UserError(
                f"{type(environment).__name__} has several rewards ({reward}): wrap it into an environment whose reward"
                " is one number."
            )
        self._environment = environment
        self._name = type(environment).__name__
        self._inner_action_spec = environment.action_spec()
        self._own_observation = _converted(environment.observation_spec(), lambda spec: Own(spec.dtype))
        self._own_action = _converted(self._inner_action_spec, _own)
        self._to_inner = [own.to_own() for own in tree.flatten(self._own_action)]
        self.observation_spec = _converted(environment.observation_spec(), _narrow)
        self.action_spec = _converted(self._inner_action_spec, lambda spec: _from_zero(spec, self._name))
        self._reader = reader(self.observation_spec, Place(self._name), self._own_observation)
        self.frame_rate = frame_rate

    def _begin(self, seed: int | None) -> Nest:
        if seed is not None:
            self._seed(seed)
        return self._seen(self._environment.reset().observation)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        # [()] makes a number of an array without dimensions, which is no key of a dict.
        leaves = [convert(leaf)[()] for convert, leaf in zip(self._to_inner, tree.flatten(action), strict=True)]
        time_step = self._play(tree.unflatten_as(self._inner_action_spec, leaves))
        reward = 0.0 if time_step.reward is None else time_step.reward
        ending = Done.TRUNCATED if time_step.discount else Done.TERMINATED
        return self._seen(time_step.observation), reward, ending if time_step.last() else Done.NO

    def own_observation(self) -> Nest:
        return self._own_observation

    def own_action(self) -> Nest:
        return self._own_action

    def _seed(self, seed: int) -> None:
        """Starts all randomness anew: for subclasses, since `dm_env` has no word for it. Here the seed is ignored."""

    def _play(self, action: Nest) -> dm_env.TimeStep:
        return self._environment.step(action)

    def _seen(self, observation: Nest) -> Nest:
        return observation

    def state(self) -> bytes | None:
        # Whether an unknown object's pickle holds all that its next steps depend on cannot be seen.
        return None

    def close(self) -> None:
        self._environment.close()


def _converted(nest: Nest, convert: Callable[[specs.Array], Any]) -> Nest:
    """`nest` of dicts and tuples only, with its leaves converted."""
    if isinstance(nest, Mapping):
        return {name: _converted(part, convert) for name, part in nest.items()}
    if isinstance(nest, list | tuple):
        return tuple(_converted(part, convert) for part in nest)
    return convert(nest)


def _narrow(spec: specs.Array) -> specs.Array:
    """`spec` with a number of 32 bits for one of 64."""
    if spec.dtype.hasobject:
        raise UserError(f"States and actions of {spec} are not supported: they must be numbers.")
    dtype = narrow(spec.dtype)
    if isinstance(spec, specs.DiscreteArray):
        return specs.DiscreteArray(spec.num_values, dtype, spec.name)  # pyright: ignore[reportArgumentType]
    if not isinstance(spec, specs.BoundedArray):
        return specs.Array(spec.shape, dtype, spec.name)
    low, high = spec.minimum, spec.maximum
    if np.issubdtype(dtype, np.integer):
        low, high = (np.clip(bound, np.iinfo(dtype).min, np.iinfo(dtype).max) for bound in (low, high))
    return specs.BoundedArray(spec.shape, dtype, low, high, spec.name)


def _from_zero(spec: specs.Array, owner: str) -> specs.Array:
    """The spec of an action: integers count from 0, and a single one is a choice."""
    if not isinstance(spec, specs.BoundedArray) or not np.issubdtype(spec.dtype, np.integer):
        return _narrow(spec)
    return choices(spec.minimum, spec.maximum, spec.shape, owner)


def _own(spec: specs.Array) -> Own:
    """How the inner environment's actions of `spec` stand to ours."""
    if not isinstance(spec, specs.BoundedArray):
        return Own(spec.dtype)
    if np.issubdtype(spec.dtype, np.floating):
        return Own(spec.dtype, 0, spec.minimum, spec.maximum)
    return Own(spec.dtype, spec.minimum)


@ENVIRONMENTS.register("dm_control")
class DeepMindControl(DmEnvironment):
    """A task of the Control Suite: 'cheetah-run', 'ball_in_cup-catch'.

    States: the task's own f32 arrays by name, or a picture u8 [height, width, 3]. Episodes are cut after 1,000 of the
    task's steps; those of `lqr` are not. A seed is of episodes: what a task draws when it is made (`lqr` its system)
    is always the same.
    """

    def __init__(
        self,
        name: str,
        frame_skip: int = 1,
        pixels: bool = False,
        height: int = 84,
        width: int = 84,
        camera: int = 0,
    ):
        """`frame_skip`: the task's steps that an action lasts, whose rewards add up.

        `pixels`: states are pictures, of `height` and `width`. `camera`: the task's, for them and for `render`.
        Raises UserError where there is no such task, or it cannot be drawn as `pixels` ask for.
        """
        check_positive("DeepMindControl", frame_skip=frame_skip, height=height, width=width)
        suite = _suite()
        known = ["-".join(pair) for pair in suite.ALL_TASKS]
        if name not in known:
            raise UserError(f"The Control Suite has no task '{name}'; {index.near(name, known)}")
        domain, _, task = name.partition("-")
        with _quiet():
            control = suite.load(domain, task, {"random": 0})
        control.task.random.seed()
        model = control.physics.model
        if not -1 <= camera < model.ncam:
            raise UserError(
                f"DeepMindControl.camera is {camera}: '{name}' has the cameras 0 to {model.ncam - 1}, and -1, which"
                " stands free."
            )
        most = model.vis.global_
        if pixels and (height > most.offheight or width > most.offwidth):
            raise UserError(
                f"DeepMindControl.height is {height} and its width {width}: pictures of '{name}' have at most"
                f" {most.offheight} times {most.offwidth} pixels."
            )
        super().__init__(control, 1.0 / (control.control_timestep() * frame_skip))
        self._control = control
        self._mujoco: Any = importlib.import_module("mujoco")
        self._name = name
        self._frame_skip = frame_skip
        self._camera = camera
        self._pixels = (height, width) if pixels else None
        if pixels:
            self._draw(height, width)
            self.observation_spec = specs.BoundedArray((height, width, 3), np.uint8, 0, 255)
            self._own_observation = Own(self.observation_spec.dtype)
            self._reader = reader(self.observation_spec, Place(name))

    def _seed(self, seed: int) -> None:
        self._control.task.random.seed(seed)

    def _play(self, action: Nest) -> dm_env.TimeStep:
        total = 0.0
        for _ in range(self._frame_skip):
            time_step = self._control.step(action)
            total += time_step.reward
            if time_step.last():
                break
        return time_step._replace(reward=total)  # pyright: ignore[reportPossiblyUnboundVariable] frame_skip is positive

    def _seen(self, observation: Nest) -> Nest:
        return self._draw(*self._pixels) if self._pixels else super()._seen(observation)

    def render(self) -> np.ndarray:
        return self._draw(*PICTURE)

    def _draw(self, height: int, width: int) -> np.ndarray:
        try:
            return self._control.physics.render(height, width, camera_id=self._camera)
        except Exception as error:  # whatever a driver raises
            raise UserError(f"'{self._name}' cannot be drawn here ({error}): {_advice()}") from error

    def state(self) -> bytes:
        own = {name: value for name, value in vars(self._control).items() if name != "_physics"}
        physics = self._control.physics.get_state(self._mujoco.mjtState.mjSTATE_INTEGRATION)
        return pickle.dumps((self._model(), physics, own, self._ended))

    def restore(self, state: bytes) -> None:
        model, physics_state, own, self._ended = pickle.loads(state)
        for name, array in self._model().items():
            np.copyto(array, model[name])
        physics = self._control.physics
        physics.set_state(physics_state, self._mujoco.mjtState.mjSTATE_INTEGRATION)
        # What a step of the suite ends with: all that follows from positions and velocities.
        self._mujoco.mj_step1(physics.model.ptr, physics.data.ptr)
        vars(self._control).update(own)

    def _model(self) -> dict[str, np.ndarray]:
        """Arrays of the model that a task may change between episodes, such as where a target is."""
        model = self._control.physics.model.ptr
        parts = {name: getattr(model, name) for name in dir(model) if not name.startswith(("_", *FIXED))}
        return {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}

    def close(self) -> None:
        self._control.physics.free()


def _suite() -> Any:
    """`dm_control.suite`. It and MuJoCo choose what they draw with as they are imported."""
    choose = not os.environ.keys() & {"MUJOCO_GL", "DISPLAY"}
    if choose:
        os.environ["MUJOCO_GL"] = _headless()
    try:
        return importlib.import_module("dm_control.suite")
    except ModuleNotFoundError:
        return need("dm_control.suite", "mujoco")
    except Exception as error:  # whatever is raised where a library that draws misses its driver
        if not choose:
            raise UserError(f"MuJoCo cannot be imported ({error}): {_advice()}") from error
    os.environ["MUJOCO_GL"] = "disabled"
    return importlib.import_module("dm_control.suite")


def _headless() -> str:
    """What can draw without a screen, as MUJOCO_GL has it."""
    libraries = {"egl": "EGL", "osmesa": "OSMesa"}
    return next((name for name, library in libraries.items() if ctypes.util.find_library(library)), "disabled")


def _advice() -> str:
    return (
        f"MUJOCO_GL is '{os.environ.get('MUJOCO_GL', '')}', and to draw without a screen it takes 'egl' (Debian:"
        " apt-get install libegl1) or 'osmesa' (libosmesa6); 'disabled' does without pictures."
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps MuJoCo from saying that a model of the suite is written in an old way."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
