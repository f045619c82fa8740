"""Learners on several machines, as TF_CONFIG describes them. Imports no TensorFlow."""

from __future__ import annotations

import json
import os
from typing import Any

from pipeline import loopback
from pipeline.types import UserError

VARIABLE = "TF_CONFIG"
LEARNERS = ("chief", "worker")
"""tasks that update; the first chief, else the first worker, saves and publishes"""


def learners() -> int:
    """How many processes learn together, this one among them; raises UserError where TF_CONFIG is not understood."""
    text = os.environ.get(VARIABLE)
    if not text:
        return 1
    try:
        config: Any = json.loads(text)
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        counts = {kind: len(cluster.get(kind, ())) for kind in LEARNERS}
        if sum(counts.values()) < 2:
            return 1
        kind, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{VARIABLE} is {text!r}: it must be JSON with 'cluster' (lists of host:port) and 'task' ('type', 'index')."
        ) from error
    if not 0 <= index < counts.get(kind, 0):
        raise UserError(f"{VARIABLE} says that this is {kind} {index}, and its cluster has no such learner: {cluster}.")
    # Those on this machine are reached without a proxy.
    loopback.exempt(str(at).rpartition(":")[0].strip("[]") for kind in LEARNERS for at in cluster.get(kind, ()))
    return sum(counts.values())


def check_alone(program: str) -> None:
    """Raises UserError where TF_CONFIG names several learners, which `program` does not join."""
    if learners() > 1:
        raise UserError(
            f"{VARIABLE} names {learners()} learners, and {program} learns alone: start ./run learner on each of them,"
            f" or unset {VARIABLE}."
        )
