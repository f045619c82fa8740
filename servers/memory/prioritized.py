"""Proportional prioritized replay (Schaul et al. 2016, sections 3.3 and 3.4)."""

from __future__ import annotations

import reverb
import tensorflow as tf

from pipeline.checks import check_fraction
from servers.memory.memory import Memory
from servers.memory.registry import MEMORIES

FRESH = 64
"""items that a worker holds ready where waiting for others costs little"""


@MEMORIES.register("prioritized")
class Prioritized(Memory):
    """P(i) = p_i^exponent / sum_k p_k^exponent; the learner sets p_i to the new absolute TD error.

    The sum tree is Reverb's own. A new window enters with the largest priority seen so far.

    Items that are in flight when a call's new priorities are written were chosen by the old ones, and the next call
    learns from them: all of its draw with a table elsewhere, the first `FRESH` of each worker with one in this process.
    """

    blocks = False
    prioritized = True
    workers = 2

    def __init__(self, exponent: float = 0.6, beta: float = 0.4, final_beta: float = 1.0):
        """`exponent`: the paper's alpha. `beta` goes linearly to `final_beta` at the end of training (table 3)."""
        check_fraction("Prioritized", exponent=exponent, beta=beta, final_beta=final_beta)
        self.exponent = exponent
        self._beta = beta
        self._final_beta = final_beta

    def sampler(self) -> object:
        return reverb.selectors.Prioritized(self.exponent)

    def in_flight(self, draw: int, inline: bool) -> int:
        most = super().in_flight(draw, inline)
        return min(most, FRESH) if inline else most

    def weight(self, correction: tf.Tensor, progress: tf.Tensor) -> tf.Tensor:
        beta = self._beta + (self._final_beta - self._beta) * progress
        return correction**beta
