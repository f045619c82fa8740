"""Actions that are integers: each of their values is an output of the network, so they are few and count from 0."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import tree

from pipeline.types import Nest, UserError

MOST = 2**16
"""values, of all dimensions together"""


def choices(low: Any, high: Any, shape: tuple[int, ...], owner: str) -> specs.Array:
    """The spec of actions of integers from `low` to `high`, both included, as agents meet them: counted from 0.

    One without dimensions is a choice of one. Raises UserError, naming `owner`, where there are more than `MOST`.
    """
    least, most = (np.broadcast_to(bound, shape).astype(object) for bound in (low, high))
    last = most - least  # of Python's integers, which do not overflow
    total = int(np.sum(last + 1))
    if total > MOST:
        raise UserError(
            f"'{owner}' has actions of {total:,} integer values in all, each of which would be an output of the"
            f" network, and at most {MOST:,} are served: give it a Box of np.float32, and round in the environment."
        )
    if shape == ():
        return specs.DiscreteArray(int(last) + 1, np.int32)
    return specs.BoundedArray(shape, np.int32, 0, np.asarray(last).astype(np.int32))


def check_choices(action_spec: Nest, owner: str) -> None:
    """Raises UserError where integers of an environment's own `action_spec` are not as agents meet them."""
    for leaf in tree.flatten(action_spec):
        if leaf.dtype.kind not in "biu" or (isinstance(leaf, specs.DiscreteArray) and leaf.num_values <= MOST):
            continue
        if not isinstance(leaf, specs.BoundedArray):
            raise UserError(f"'{owner}' has actions of integers without bounds ({leaf}): use specs.BoundedArray.")
        if np.any(leaf.minimum != 0):
            raise UserError(f"'{owner}' has actions of integers that do not count from 0 ({leaf}): let them.")
        choices(leaf.minimum, leaf.maximum, leaf.shape, owner)
