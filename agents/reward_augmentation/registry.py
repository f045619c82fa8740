"""The registry of this folder."""

from pipeline.registry import Registry

REWARD_AUGMENTATIONS = Registry("reward augmentation", "agents.reward_augmentation")
