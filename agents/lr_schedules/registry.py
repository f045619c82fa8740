"""The registry of this folder."""

from pipeline.registry import Registry

LR_SCHEDULES = Registry("learning-rate schedule", "agents.lr_schedules")
