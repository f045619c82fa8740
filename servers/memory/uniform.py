"""Uniform replay: every window is equally likely (Lin 1992; Mnih et al. 2015). The seed's "simple" memory."""

from __future__ import annotations

from servers.memory.memory import Memory
from servers.memory.registry import MEMORIES


@MEMORIES.register("uniform")
class Uniform(Memory):
    """Keeps the newest windows and samples them uniformly. An item holds a block of lanes."""
