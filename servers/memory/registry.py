"""The registry of this folder."""

from pipeline.registry import Registry

MEMORIES = Registry("memory", "servers.memory")
