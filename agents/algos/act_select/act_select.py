"""The base of every action function."""

from __future__ import annotations

import abc

import numpy as np
import tensorflow as tf

from pipeline.types import Nest


class ActSelect(abc.ABC):
    """Chooses actions while training. `takes` says from what: 'values' [E, A], or 'actions' in [-1, 1] [E, size]."""

    takes: str

    @abc.abstractmethod
    def __call__(self, values: tf.Tensor, core: Nest, seed: tf.Tensor, env_steps: tf.Tensor) -> tuple[tf.Tensor, Nest]:
        """What the network says -> actions and the core to hand over with the next call.

        From values [E, A] f32 come actions [E] i32; from actions [E, size] f32, others of the same shape. `seed` [2]
        i32 is fresh for every call; `env_steps` [] i32.
        """

    def initial_core(self, places: np.ndarray, size: int) -> Nest:
        """What a lane remembers from call to call, [E, ...] at an episode's start; () where that is nothing.

        `places` [E] f32: see `Algo.initial_core`. `size`: numbers in one action.
        """
        del places, size
        return ()

    def metrics(self, env_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        """[] f32 each: what exploration is at now."""
        del env_steps
        return {}
