"""The core types: a row of experience, what an algorithm asks of the data path, and what it returns to the learner.

Shapes: E environment lanes, B windows a batch, T + 1 rows a window. This module imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import dm_env.specs

if TYPE_CHECKING:
    import tensorflow as tf

Nest = Any
"""A nest (dict, tuple, single leaf) of arrays, tensors or specs."""

ArraySpec = dm_env.specs.Array
"""One leaf's shape, dtype and bounds."""


class UserError(Exception):
    """Input that a person can mend. Programs print it as one sentence and end with code 2."""


class RunError(RuntimeError):
    """A run cannot go on: its sentence says why, and who waits for whom. Programs print it and end with code 1."""


class Step(NamedTuple):
    """One row. An episode is its rows in order, then one LAST row that holds the true final observation."""

    observation: Nest
    """[...]"""
    action: Nest
    """[...], zeros in the LAST row"""
    reward: Any
    """[] f32, what the action earned; 0 in the LAST row"""
    discount: Any
    """[] f32, 0 where the action terminated the episode, else 1 (also where it was truncated); never gamma"""
    first: Any
    """[] bool, the episode begins here: recurrent cores are reset"""
    last: Any
    """[] bool, the episode ended before this row: losses are masked, returns are cut"""
    extras: Nest
    """what acting must leave behind, by name"""


class Data(NamedTuple):
    """What an algorithm asks of table, writer and dataset."""

    memory: str
    """a name of servers/memory: it alone decides table class, sampling workers and samples in flight"""
    window: int
    """rows an item holds, without those that its first stacks of frames reach back to: n_step + 1, or unroll + 1"""
    batch_size: int
    """examples a gradient is computed on, over all replicas (see `Algo.prepare`); 0: all of a rollout's"""
    size: int
    """windows the memory keeps; rollouts, where it is a queue"""
    min_size: int
    """environment steps before the first update"""
    period: int = 1
    """rows between the starts of two windows"""
    epochs: int = 1
    """times that each example of a rollout is used"""
    whole_episodes: bool = False
    """a rollout is one episode of each lane: a lane that ended waits for the others"""


class Batch(NamedTuple):
    """What one gradient is computed on; the items' uint64 keys travel beside it, on the host."""

    steps: Step
    """[B, T + 1, ...], or [B, ...] where the algorithm prepares it so"""
    weight: tf.Tensor
    """[B] f32 importance weights"""
    seed: tf.Tensor
    """[2] i32, fresh for every batch and replica: all randomness of the update comes from it"""


class Params(NamedTuple):
    """What an algorithm reads and never assigns."""

    online: Mapping[str, Any]
    """networks by parameter group"""
    target: Mapping[str, Any]
    """lagging copies, of the groups that asked for one"""
    env_steps: tf.Tensor
    """[] i32, environment steps so far: the clock of exploration"""
    moments: Mapping[str, Any]
    """running means and variances, of what the algorithm normalises"""


class Update(NamedTuple):
    """What one batch asks of the parameters."""

    grads: Mapping[str, Sequence[tf.Tensor]]
    """by parameter group, in the order of its trainable variables; divided by the GLOBAL batch: replicas add up"""
    priorities: Any
    """[B] f32, new priorities of a replay's windows; None from rollouts"""
    metrics: Mapping[str, tf.Tensor]
    """[] f32 each, means over the batch; the keys are Algo.metrics"""
