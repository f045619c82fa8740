"""The registry of this folder."""

from pipeline.registry import Registry

ALGOS = Registry("algorithm", "agents.algos")
