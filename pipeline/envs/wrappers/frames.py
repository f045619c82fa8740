"""Wrappers of environments whose states are pictures: grey, smaller, several in a row."""

from __future__ import annotations

import dm_env.specs as specs
import numpy as np

from pipeline.checks import check_positive
from pipeline.envs.environment import Done, Environment
from pipeline.envs.wrappers.registry import WRAPPERS
from pipeline.envs.wrappers.wrapper import Wrapper
from pipeline.frames import Frames, Stacks
from pipeline.types import Nest, UserError


class _Pictures(Wrapper):
    """A wrapper that changes each state by itself."""

    def _begin(self, seed: int | None) -> Nest:
        return self._seen(super()._begin(seed))

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        state, reward, done = super()._advance(action)
        return self._seen(state), reward, done

    def _picture_spec(self) -> specs.Array:
        """The spec of a picture; raises UserError where states are none."""
        spec = self.observation_spec
        if not isinstance(spec, specs.Array) or len(spec.shape) != 3 or spec.dtype != np.uint8:
            raise UserError(
                f"{type(self).__name__} needs states that are pictures of bytes, [height, width, channels], and they"
                f" are {spec}: leave it out of Experiment.wrappers."
            )
        return spec

    def _seen(self, state: Nest) -> Nest:
        raise NotImplementedError


@WRAPPERS.register("grey")
class Grey(_Pictures):
    """Colours [H, W, 3] become brightness [H, W, 1], by the weights of ITU-R BT.601."""

    def __init__(self, environment: Environment):
        super().__init__(environment)
        height, width, channels = self._picture_spec().shape
        if channels != 3:
            raise UserError(f"Grey needs pictures of 3 colours, and these have {channels}: leave it out.")
        self.observation_spec = specs.BoundedArray((height, width, 1), np.uint8, 0, 255)

    def _seen(self, state: Nest) -> Nest:
        import cv2

        return cv2.cvtColor(state, cv2.COLOR_RGB2GRAY)[..., None]


@WRAPPERS.register("resize")
class Resize(_Pictures):
    """Pictures of another size, each pixel the mean of the area it covers."""

    def __init__(self, environment: Environment, height: int = 84, width: int = 84):
        super().__init__(environment)
        check_positive("Resize", height=height, width=width)
        self._size = (width, height)
        self._shape = (height, width, self._picture_spec().shape[-1])
        self.observation_spec = specs.BoundedArray(self._shape, np.uint8, 0, 255)

    def _seen(self, state: Nest) -> Nest:
        import cv2

        return cv2.resize(state, self._size, interpolation=cv2.INTER_AREA).reshape(self._shape)


@WRAPPERS.register("frame_stack")
class FrameStack(Wrapper):
    """The last `frames` states in a row, the oldest first; an episode's first state stands for those before it."""

    def __init__(self, environment: Environment, frames: int = 4):
        super().__init__(environment)
        check_positive("FrameStack", frames=frames)
        if not isinstance(self.observation_spec, specs.Array):
            raise UserError("FrameStack needs states of one array: leave it out of Experiment.wrappers.")
        self.observation_spec = Frames(self.observation_spec, frames)
        self._stacks = Stacks(self.observation_spec, 1)

    def _begin(self, seed: int | None) -> Nest:
        return self._stacks.push(super()._begin(seed)[None], np.ones(1, bool))[0]

    def _advance(self, action: Nest) -> tuple[Nest, float, Done]:
        state, reward, done = super()._advance(action)
        return self._stacks.push(state[None], np.zeros(1, bool))[0], reward, done
