"""The registry of this folder."""

from pipeline.registry import Registry

MODELS = Registry("model", "agents.models")
