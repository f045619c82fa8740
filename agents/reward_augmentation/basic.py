"""What is learnt from in place of the environment's reward; the returns that a run reports stay the true ones."""

from __future__ import annotations

import tensorflow as tf

from agents.reward_augmentation.registry import REWARD_AUGMENTATIONS
from pipeline.checks import check_positive
from pipeline.types import Step, UserError


@REWARD_AUGMENTATIONS.register("none")
class Unchanged:
    """The environment's own reward."""

    def __call__(self, steps: Step) -> Step:
        """Rows [B, T + 1, ...] -> the same"""
        return steps


@REWARD_AUGMENTATIONS.register("clip")
class Clip:
    """Rewards cut to [low, high] (Mnih et al. 2015, methods: to [-1, 1])."""

    def __init__(self, low: float = -1.0, high: float = 1.0):
        if low >= high:
            raise UserError(f"Clip.low is {low} and Clip.high {high}: low must be below high.")
        self._low = low
        self._high = high

    def __call__(self, steps: Step) -> Step:
        """Rows [B, T + 1, ...] -> the same with other rewards"""
        return steps._replace(reward=tf.clip_by_value(steps.reward, self._low, self._high))


@REWARD_AUGMENTATIONS.register("scale")
class Scale:
    """Rewards times `factor`."""

    def __init__(self, factor: float = 0.1):
        check_positive("Scale", factor=factor)
        self._factor = factor

    def __call__(self, steps: Step) -> Step:
        """Rows [B, T + 1, ...] -> the same with other rewards"""
        return steps._replace(reward=self._factor * steps.reward)


@REWARD_AUGMENTATIONS.register("mountain_car_default")
class MountainCar:
    """Mountain car: `scale` times the gain in mechanical energy is added to each reward.

    With the algorithm's own discount factor below 1 as `gamma` that is potential-based shaping (Ng et al. 1999), which
    changes no policy's rank: an algorithm that has never met the goal learns nothing from it. The state in which the
    task terminates has potential 0 then, or arriving early or fast would earn more (Grzes 2017); one where an episode
    was truncated keeps its own, because its value is added. With 1 being at high energy is worth something by itself,
    at most 0.41 a step with the default scale and a discount factor of 0.99, less than the step costs; and so is
    arriving with it.

    The energy of a car at position x with velocity v on the hill sin(3 x) / 3, under the environment's gravity of
    0.0025, is v^2 / 2 + 0.0025 sin(3 x) / 3, at most 0.0041 above that of rest in the valley.
    """

    def __init__(self, scale: float = 10_000.0, gamma: float = 1.0):
        """`gamma`: of the energy after a step, against that before it; with 1 the shaping is not potential-based."""
        check_positive("MountainCar", scale=scale, gamma=gamma)
        self._scale = scale
        self._gamma = gamma

    def __call__(self, steps: Step) -> Step:
        """Rows [B, T + 1, ...] with observations [position, velocity] -> the same with other rewards"""
        if steps.observation.shape[-1] != 2:
            raise UserError(
                "Learner.reward_augmentation is 'mountain_car_default': it needs observations [position, velocity]."
            )
        position, velocity = steps.observation[..., 0], steps.observation[..., 1]
        energy = 0.5 * tf.square(velocity) + 0.0025 / 3 * tf.sin(3 * position)
        # 0 at rest in the valley.
        potential = self._scale * (energy + 0.0025 / 3)
        after = self._gamma * potential[:, 1:]
        if self._gamma < 1.0:
            after = tf.where(steps.discount[:, :-1] == 0.0, 0.0, after)
        gain = after - potential[:, :-1]
        gain = tf.where(steps.last[:, :-1], 0.0, gain)
        return steps._replace(reward=steps.reward + tf.pad(gain, [[0, 0], [0, 1]]))
