"""Which states a network can take, told before it is built; every sentence names the setting that chose it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tree

from agents.models.registry import MODELS
from pipeline.types import ArraySpec, Nest, UserError

MOST_FLATTENED = 20_000
"""numbers of pictures that a dense layer is given side by side; 84 x 84 x 3 are 21,168"""

BYTES = "Box(0, 255, (height, width, channels), np.uint8)"


def check_states(model: str, setting: str, observation_spec: Nest) -> list[str]:
    """Raises UserError where the network `model`, which `setting` chose, cannot take such states.

    Returns the settings of its networks that flatten them. A class says so by its `check_states(setting,
    observation_spec, configured)`, where `configured` is what its constructor would be given; one that has none of its
    own is taken to know what it does.
    """
    cls: Any = MODELS.load(model)
    if not hasattr(cls, "check_states"):
        return []
    return cls.check_states(setting, observation_spec, MODELS.configured(model))


def described(observation_spec: Nest) -> str:
    """'uint8 [84, 84, 3]', or of several arrays each with its place."""
    leaves = tree.flatten_with_path(observation_spec)
    texts = [("/".join(map(str, path)), f"{leaf.dtype} {list(leaf.shape)}") for path, leaf in leaves]
    return texts[0][1] if not tree.is_nested(observation_spec) else ", ".join(f"'{p}' {text}" for p, text in texts)


def is_picture(spec: ArraySpec) -> bool:
    """Whether an array is one that networks for pictures take: bytes [height, width, channels], or a stack of them."""
    return spec.dtype == np.uint8 and len(spec.shape) in (3, 4) and not is_channels_first(spec)


def is_channels_first(spec: ArraySpec) -> bool:
    """Whether a picture has the shape of [channels, height, width], by its sizes."""
    if len(spec.shape) not in (3, 4):
        return False
    channels, *sides = spec.shape[-3:]
    return channels <= 4 < min(sides) or (channels <= 16 and min(sides) >= 32)


def check_pictures(setting: str, observation_spec: Nest, least: int = 1) -> None:
    """Raises UserError where states are no pictures of `least` pixels' height and width, at least.

    `setting`: the hyper-parameter that chose a network for pictures.
    """
    takes = f"{setting} is a network for pictures of bytes, [height, width, channels], and states are"
    seen, instead = described(observation_spec), f"choose {setting}='basic', which flattens states"
    bytes_instead = f"give bytes, of the space {BYTES}"
    if flattened(observation_spec) <= MOST_FLATTENED:
        bytes_instead += f", or {instead}"
    else:
        instead = "make them smaller"
    if tree.is_nested(observation_spec):
        raise UserError(f"{takes} of several arrays, {seen}: {instead}, or keep one picture only, by a wrapper.")
    if is_channels_first(observation_spec):
        raise UserError(f"{takes} {seen}, channels first: move the channels to the end, by a wrapper.")
    if not is_picture(observation_spec):
        raise UserError(f"{takes} {seen}: {bytes_instead if len(observation_spec.shape) > 1 else instead}.")
    if min(observation_spec.shape[-3:-1]) < least:
        raise UserError(
            f"{setting} needs pictures of at least {least} x {least} pixels, and states are {seen}: choose"
            f" {setting}='impala', which takes any size, or 'basic', which flattens states."
        )


def flattened(observation_spec: Nest) -> int:
    """How many numbers of pictures, or of other matrices, a network gets that flattens states."""
    return sum(int(np.prod(leaf.shape)) for leaf in tree.flatten(observation_spec) if len(leaf.shape) > 1)


def check_flattened(settings: Sequence[str], observation_spec: Nest) -> None:
    """Raises UserError where `settings` chose networks that flatten states, and these are large pictures."""
    numbers = flattened(observation_spec)
    if not settings or numbers <= MOST_FLATTENED:
        return
    conv = "; ".join(f"{setting}='conv'" for setting in settings)
    advice = f'choose a network for pictures, --hparam_override="{conv}"'
    if tree.is_nested(observation_spec):
        advice = "make the pictures smaller, or leave them out, by the environment's settings or a wrapper"
    elif not is_picture(observation_spec):
        advice = f"give bytes, of the space {BYTES}, and {advice}"
    elif min(observation_spec.shape[:2]) > 84:
        advice += "; Experiment.wrappers=('resize',) makes them 84 x 84"
    raise UserError(
        f"{' and '.join(settings)} would flatten states, {described(observation_spec)}, into {numbers:,} inputs of a"
        f" dense layer: {advice}."
    )
