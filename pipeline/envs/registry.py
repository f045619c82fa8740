"""The registry of this folder."""

from pipeline.registry import Registry

ENVIRONMENTS = Registry("environment", "pipeline.envs")
