"""The registry of this folder."""

from pipeline.registry import Registry

WRAPPERS = Registry("wrapper", "pipeline.envs.wrappers")
