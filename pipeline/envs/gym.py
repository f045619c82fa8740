"""Any environment of gym 0.23 or of gymnasium: by id, or one that was made."""

from __future__ import annotations

import ctypes.util
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import index
from pipeline.envs.environment import Done, Environment, pickled
from pipeline.envs.extras import need
from pipeline.envs.guard import Quit, guarded
from pipeline.envs.pictures import rgb
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.envs.spaces import actions, states
from pipeline.envs.states import Place
from pipeline.types import Nest, UserError

LIBRARIES = ("gym", "gymnasium")
GYMNASIUM_FIRST = ("Taxi-v3",)
"""ids of both that only gymnasium can draw; they play alike"""
DEFAULT_OPTIONS = {
    # Its track's numbers are not for the screen.
    ("gym", "CarRacing-v1"): {"verbose": 0},
}
EXTRAS = {"ale_py": "atari", "Box2D": "box2d", "mujoco": "mujoco"}
"""of ./setup.sh, by the package that it installs"""

# A member of an enum costs ten times as much to look up in its class.
NO, TERMINATED, TRUNCATED = Done


def find(environment_id: str) -> tuple[str, str]:
    """The library that knows `environment_id`, and its id there.

    Ids: 'CartPole-v1' (gym first, then gymnasium, but for `GYMNASIUM_FIRST`), 'gymnasium:CartPole-v1', 'module:Id-v0'
    (imports the module). ale_py's are gymnasium's: 'ALE/Pong-v5'.

    Raises UserError, with the near ids, where none knows it.
    """
    prefix, _, name = environment_id.rpartition(":")
    libraries = LIBRARIES[::-1] if name in GYMNASIUM_FIRST else LIBRARIES
    known: set[str] = set()
    if prefix in LIBRARIES:
        libraries = (prefix,)
    elif prefix:
        known |= {key for key, value in vars(import_module(environment_id)).items() if isinstance(value, type)}
    for library in libraries:
        ids = _ids(library)
        if name in ids:
            return library, name
        known |= ids
    if "gymnasium" in libraries:
        ids = _with_atari(name)
        if name in ids:
            return "gymnasium", name
        known |= ids
    raise UserError(f"There is no environment '{environment_id}'; {_advice(prefix, name, known)}")


def knows(library: str, known_id: str) -> bool:
    """Whether `library`, gym or gymnasium, has an environment of that id."""
    return known_id in _ids(library)


def located(environment_id: str) -> str:
    """`environment_id`, with the module in front that registers it, where only one that was added (--import) does."""
    modules = index.added_modules()
    if not modules or ":" in environment_id or any(knows(library, environment_id) for library in LIBRARIES):
        return environment_id
    for module in modules:
        name = f"{module}:{environment_id}"
        import_module(name)
        if any(knows(library, environment_id) for library in LIBRARIES):
            return name
    return environment_id


def _advice(prefix: str, name: str, known: set[str]) -> str:
    """What may be meant by an unknown `name`."""
    stem = lambda known_id: re.sub(r"-v\d+$", "", known_id).lower()  # noqa: E731
    alike = difflib.get_close_matches(stem(name), {stem(known_id) for known_id in known}, n=10, cutoff=0.75)
    near = [known_id for known_id in known if stem(known_id) in alike]
    if near:
        return index.near(name, near)
    if prefix and prefix not in LIBRARIES:
        return f"'{prefix}' registers no such id, and has no such class."
    return f"one of a package that registers it is written 'module:{name}', and a class 'module:Class'."


def import_module(name: str) -> Any:
    """The module of 'module:Id-v0' or 'module:Class'; raises UserError where it cannot be imported."""
    silence_gym()
    prepare(None)
    index.check_not_hidden(name.rpartition(":")[0])
    try:
        with guarded():
            return importlib.import_module(name.rpartition(":")[0])
    except (ImportError, Quit) as error:
        raise UserError(f"Environment '{name}': {error}.") from error


def _library(name: str) -> Any:
    silence_gym()
    return importlib.import_module(name)


def silence_gym() -> None:
    """Keeps gym 0.23 from printing a notice about its age when it is imported."""
    importlib.import_module("gym_notices.notices").notices.clear()


def _ids(library: str) -> set[str]:
    registry = _library(library).envs.registry
    return set(registry.env_specs if hasattr(registry, "env_specs") else registry)


def _with_atari(name: str) -> set[str]:
    """gymnasium's ids and those that it has from ale_py, which must be installed where `name` is surely one of them."""
    if name.startswith("ALE/") or "NoFrameskip" in name:
        need("ale_py", "atari")
    if importlib.util.find_spec("ale_py"):
        ale = importlib.import_module("ale_py")
        ale.ALEInterface.setLoggerMode(ale.LoggerMode.Error)
        _library("gymnasium").register_envs(ale)
    return _ids("gymnasium")


def prepare(render_mode: str | None) -> None:
    """Lets worlds that are made from now on draw without a screen, where they show no window."""
    # Without a sound card SDL complains on the screen, and no sound is wanted.
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    if render_mode == "rgb_array":
        # A picture needs no screen, which gym 0.23 would open a window on.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if not os.environ.keys() & {"MUJOCO_GL", "DISPLAY"} and _has_egl():
        # It is read when mujoco is imported, perhaps long before a picture is wanted.
        os.environ["MUJOCO_GL"] = "egl"


@functools.cache
def _has_egl() -> bool:
    return ctypes.util.find_library("EGL") is not None


def _quieten_mujoco(library: str, name: str) -> None:
    """Keeps MuJoCo from telling, with each environment and in a file, which words of a model's XML are outdated."""
    if ".mujoco." in str(_library(library).spec(name).entry_point) and importlib.util.find_spec("mujoco"):
        importlib.import_module("mujoco").set_mju_user_warning(_warn)


def _warn(text: str) -> None:
    if "deprecated" not in text:
        warnings.warn(f"MuJoCo: {text}", stacklevel=2)


def errors() -> tuple[type[Exception], ...]:
    """What gym and gymnasium, as far as they are imported, raise where they cannot make an environment."""
    return tuple(sys.modules[library].error.Error for library in LIBRARIES if library in sys.modules)


def cannot_be_made(environment_id: str, error: Exception) -> UserError:
    """The sentence for `error`, with the extra to install, or the newer id, where that is what helps."""
    text = str(error).strip()
    # mujoco_py, which moved to a project of its own, is no part of any extra.
    if not re.search("mujoco_py|mujoco v2", text):
        for package, extra in EXTRAS.items():
            if re.search(rf"\b{package}\b", text, re.IGNORECASE) and importlib.util.find_spec(package) is None:
                return UserError(
                    f"Environment '{environment_id}' needs {package}, which is not installed: ./setup.sh --with={extra}"
                    " installs it."
                )
    reason = text.partition("\n")[0].rstrip(".") or type(error).__name__
    absent = isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled"
    newest = _newest(environment_id) if absent or isinstance(error, AttributeError) else ""
    advice = f": use {newest}" if newest else ""
    if absent and not newest:
        advice = f"; optional worlds are installed with ./setup.sh --with={','.join(EXTRAS.values())}"
    return UserError(f"Environment '{environment_id}' cannot be made ({reason}){advice}.")


def _newest(environment_id: str) -> str:
    """The newest version of that id in gymnasium; '' where it is this one, or there is none."""
    name = environment_id.rpartition(":")[2]
    stem = name.rpartition("-v")[0]
    matches = [re.fullmatch(rf"{re.escape(stem)}-v(\d+)", known) for known in _ids("gymnasium")]
    newest = max((int(match[1]) for match in matches if match), default=None)
    return "" if newest is None or name == f"{stem}-v{newest}" else f"{stem}-v{newest}"


class GymAdapter(Environment):
    """An environment of gym or gymnasium that was made, with either's reset and step.

    States have the specs' dtypes; actions of a Box of reals are clipped to its bounds. States and actions that are
    Discrete or MultiDiscrete start at 0 here, and so do actions of a Box of integers.
    """

    def __init__(self, name: str, environment: Any, make: Callable[[], Any], render_mode: str | None = None):
        """`name`: for messages. `make`: makes another like `environment`."""
        of_gymnasium = "gymnasium" in sys.modules and isinstance(environment, sys.modules["gymnasium"].Env)
        if of_gymnasium:
            from pipeline.envs.seedless import fitted

            environment = fitted(environment, name)
        self._name = name
        self._environment = environment
        # A used world of Box2D never gets quite as new, so that a seed would not do the same to it again.
        self._make = make if type(getattr(environment.unwrapped, "world", None)).__name__ == "b2World" else None
        self._used = False
        self.observation_spec, self._own_observation, self._read = states(environment.observation_space, Place(name))
        self.action_spec, self._own_action, self._write = actions(environment.action_space, name)
        # Environments older than gym 0.22 have a method for it.
        self._seeded_by_reset = of_gymnasium or takes(environment.unwrapped.reset, "seed")
        metadata = environment.metadata
        self.frame_rate = float(
            metadata.get("render_fps") or metadata.get("video.frames_per_second") or self.frame_rate
        )
        modes = metadata.get("render_modes") or metadata.get("render.modes")
        # gym's Taxi-v3 closes standard output where it is asked for a picture.
        self._has_pictures = not modes or "rgb_array" in modes
        # gym 0.23 is told with every picture, gymnasium once.
        of_gym = "gym" in sys.modules and isinstance(environment, sys.modules["gym"].Env)
        told = of_gym and takes(environment.unwrapped.render, "mode")
        self._render_options = {"mode": "rgb_array"} if told else {}
        self._shows_by_hand = render_mode == "human" and told
        if render_mode == "human" and not told and getattr(environment, "render_mode", None) != "human":
            raise UserError(f"Environment '{name}' has no window of its own: use --record_video.")

    def _begin(self, seed: int | None) -> Nest:
        if seed is not None and self._used and self._make is not None:
            # The old one is not closed: that would end pygame under those beside it.
            self._environment = self._make()
        self._used = True
        if seed is not None:
            self._seed_spaces(seed)
        if seed is None:
            result = self._environment.reset()
        elif self._seeded_by_reset:
            result = self._environment.reset(seed=seed)
        else:
            self._environment.seed(seed)
            result = self._environment.reset()
        if self._shows_by_hand:
            self._environment.render()
        # (state, info); a state may be a pair too.
        informed = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
        return result[0] if informed else result

    def _seed_spaces(self, seed: int) -> None:
        """Environments may draw from their own spaces, by `action_space.sample()`; each space once, wrappers' too."""
        layers = (self._environment, self._environment.unwrapped)
        spaces = {id(space): space for layer in layers for space in (layer.action_space, layer.observation_space)}
        for space in spaces.values():
            space.seed(seed)

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        result = self._environment.step(self._write(action))
        if self._shows_by_hand:
            self._environment.render()
        if not isinstance(result, tuple) or len(result) not in (4, 5):
            given = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
            raise UserError(
                f"The step of '{self._name}' gives {given}: it must give (state, reward, terminated, truncated, info)."
            )
        if len(result) == 5:
            state, reward, terminated, truncated, _ = result
        else:
            state, reward, ended, info = result
            truncated = ended and info.get("TimeLimit.truncated", False)
            terminated = ended and not truncated
        return state, reward, TERMINATED if terminated else TRUNCATED if truncated else NO

    def own_observation(self) -> Nest:
        return self._own_observation

    def own_action(self) -> Nest:
        return self._own_action

    def render(self) -> np.ndarray:
        if not self._has_pictures:
            raise UserError(f"{self._name} has no pictures to record.")
        try:
            with guarded():
                drawn = self._environment.render(**self._render_options)
        except Exception as error:  # whatever a library raises that misses a screen or a driver
            raise UserError(f"{self._name} cannot be drawn here ({error}).") from error
        return rgb(drawn, self._name)

    def state(self) -> bytes | None:
        # An EzPickle's pickle holds the arguments that it was made with, and nothing of its state.
        if hasattr(self._environment.unwrapped, "_ezpickle_args"):
            return None
        return pickled({"_environment": self._environment, "_ended": self._ended})

    def close(self) -> None:
        self._environment.close()


@ENVIRONMENTS.register("gym")
class GymEnvironment(GymAdapter):
    """One environment of gym or gymnasium, by its id: see `find`."""

    def __init__(self, environment_id: str, render_mode: str | None = None, options: dict[str, object] | None = None):
        """`render_mode`: 'rgb_array' to `render`, 'human' to show itself in a window; see `make`.

        `options`: keyword arguments of the library's own `make`, as {'continuous': True} of CarRacing-v3.
        """
        library, name = find(environment_id)
        prepare(render_mode)
        keywords = DEFAULT_OPTIONS.get((library, name), {}) | (options or {})
        if library == "gymnasium":
            keywords = {"disable_env_checker": True} | ({"render_mode": render_mode} if render_mode else {}) | keywords
        make = functools.partial(_library(library).make, name, **keywords)
        mendable: tuple[type[Exception], ...] = (ImportError, *errors())
        if library == "gym":  # whose Box2D worlds are absent without a word where Box2D is
            mendable += (AttributeError,)
        if options or render_mode:
            mendable += (TypeError,)
        if options:
            mendable += (ValueError, AssertionError)
        try:
            _quieten_mujoco(library, name)
            environment = make()
        except mendable as error:
            raise cannot_be_made(environment_id, error) from error
        super().__init__(environment_id, environment, make, render_mode)


def takes(function: Callable[..., Any], parameter: str) -> bool:
    """Whether `function` takes a keyword argument of that name."""
    parameters = inspect.signature(function).parameters.values()
    return any((p.name == parameter and p.kind is not p.POSITIONAL_ONLY) or p.kind is p.VAR_KEYWORD for p in parameters)
