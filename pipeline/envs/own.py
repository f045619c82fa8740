"""How the arrays of an environment's own states and actions stand to those that agents meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import dm_env.specs as specs
import numpy as np


@dataclasses.dataclass(frozen=True)
class Own:
    """One array: the environment's own is ours between `low` and `high`, plus `offset`, as `dtype`.

    Adapters translate by it here (states: pipeline/envs/states.py), and an exported policy in TensorFlow
    (binaries/export.py).
    """

    dtype: np.dtype
    offset: Any = 0
    """what the environment's own counts from, where ours counts from 0"""
    low: Any = None
    """the bounds that reals are clipped to; None: there are none"""
    high: Any = None

    def to_own(self) -> Callable[[Any], np.ndarray]:
        """What makes the environment's own array from ours."""
        dtype, offset, low, high = self.dtype, self.offset, self.low, self.high
        if np.any(offset):
            # Integers of `dtype` wrap on the way where they must, and are right at its end.
            offset = np.asarray(offset).astype(dtype)
            return lambda ours: np.asarray(np.add(np.asarray(ours).astype(dtype), offset))
        if low is None:
            return lambda ours: np.asarray(ours, dtype)
        # np.clip takes twice the time.
        return lambda ours: np.asarray(np.minimum(np.maximum(ours, low), high), dtype)


def as_it_is(spec: specs.Array) -> Own:
    """The `Own` of an array that the environment has as its spec says; reals lie between the spec's bounds."""
    if isinstance(spec, specs.BoundedArray) and np.issubdtype(spec.dtype, np.floating):
        return Own(spec.dtype, 0, spec.minimum, spec.maximum)
    return Own(spec.dtype)


def narrow(dtype: Any) -> np.dtype:
    """What agents meet for an environment's `dtype`: reals are f32, and integers have at most 32 bits."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    wide = dtype.kind in "iu" and dtype.itemsize > 4
    return np.dtype(f"{dtype.kind}4") if wide else dtype
