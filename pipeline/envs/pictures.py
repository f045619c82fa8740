"""What environments draw, in whatever layout, as pictures u8 [height, width, 3]."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.types import UserError

LAYOUTS = "u8 or floats, [height, width] or [height, width, 1, 3 or 4], or channels first"


def rgb(drawn: Any, owner: str) -> np.ndarray:
    """`drawn` by an environment as u8 [height, width, 3]; a list's last picture.

    Channels may come first, be one (grey) or four (the last is opacity, which is left out); floats whose largest is at
    most 1 are brightness, others are levels up to 255. Raises UserError, naming `owner`, where it is no picture.
    """
    if isinstance(drawn, list | tuple) and drawn and isinstance(drawn[-1], np.ndarray):
        drawn = drawn[-1]
    picture = np.asarray(drawn)
    if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[-1] == 3 and picture.size:
        return picture
    if picture.dtype.kind not in "biuf" or picture.ndim not in (2, 3) or 0 in picture.shape:
        raise UserError(f"{owner} has no pictures to record: it draws {_said(drawn)}, and they are {LAYOUTS}.")
    if picture.ndim == 2:
        picture = picture[..., None]
    elif picture.shape[-1] not in (1, 3, 4) and picture.shape[0] in (1, 3, 4):
        picture = np.moveaxis(picture, 0, -1)
    if picture.shape[-1] not in (1, 3, 4):
        raise UserError(f"{owner} draws {_said(drawn)}, and a picture has 1, 3 or 4 channels, last or first.")
    return np.broadcast_to(_levels(picture[..., :3], owner), (*picture.shape[:2], 3))


def _levels(picture: np.ndarray, owner: str) -> np.ndarray:
    """Brightness as u8."""
    if picture.dtype == np.uint8:
        return picture
    if picture.dtype == np.bool_:
        return picture * np.uint8(255)
    # An infinite or missing number fails the comparison too.
    if not (picture.min() >= 0 and picture.max() <= 255):
        raise UserError(
            f"{owner} draws {picture.dtype} from {picture.min():.6g} to {picture.max():.6g}, and levels lie in"
            " [0, 255], or floats in [0, 1]."
        )
    scale = 255 if picture.dtype.kind == "f" and picture.max() <= 1 else 1
    return np.rint(picture * scale).astype(np.uint8) if picture.dtype.kind == "f" else picture.astype(np.uint8)


def _said(drawn: Any) -> str:
    if isinstance(drawn, np.ndarray):
        return f"{drawn.dtype} {drawn.shape}"
    return "None" if drawn is None else f"a {type(drawn).__name__}"
