"""The registry of this folder."""

from pipeline.registry import Registry

ADVANTAGES = Registry("advantage estimator", "agents.advantages")
