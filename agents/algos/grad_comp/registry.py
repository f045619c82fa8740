"""The registry of this folder."""

from pipeline.registry import Registry

GRADIENT_FUNCTIONS = Registry("gradient function", "agents.algos.grad_comp")
