"""The global generators of `random` and numpy, which environments may draw from: seeded, saved, and lent."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


def seed(number: int) -> None:
    """Both begin anew from `number`, in [0, 2^32)."""
    random.seed(number)
    np.random.seed(number)


def state() -> dict[str, Any]:
    """Where both stand, of plain lists and numbers."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    numpy = [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)]
    return {"random": [version, list(internal), gauss], "numpy": numpy}


def restore(state: dict[str, Any]) -> None:
    """Both go on from what `state` gave."""
    version, internal, gauss = state["random"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))


@contextlib.contextmanager
def lent(number: int) -> Iterator[None]:
    """Both begin from `number` here, and go on afterwards as if nobody had drawn from them."""
    before = state()
    seed(number)
    try:
        yield
    finally:
        restore(before)
