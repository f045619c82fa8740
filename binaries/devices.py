"""What of a machine a process uses. Imports TensorFlow."""

from __future__ import annotations

import os

import tensorflow as tf

from agents.tf_config import VARIABLE


def leave_to_the_learner() -> None:
    """Takes GPUs and other learners away from this process, which acts, evaluates or serves.

    To be called before anything runs in TensorFlow. Acting in a few lanes is quicker on the CPU.
    """
    tf.config.set_visible_devices([], "GPU")
    os.environ.pop(VARIABLE, None)
