"""The registry of this folder."""

from pipeline.registry import Registry

ACTION_SELECTORS = Registry("action function", "agents.algos.act_select")
