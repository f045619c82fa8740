"""The lock file is the one truth about versions: Bazel's view of it is the same, and this stack is what runs."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import numpy as np

from pipeline.index import ROOT

LOCKED = {p["name"]: p["version"] for p in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def test_bazels_requirements_are_the_locks() -> None:
    required = dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", (ROOT / "requirements.txt").read_text(), re.M))
    assert len(required) > 50
    assert required == {name: LOCKED[name] for name in required}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[\[<>=]", dependency)[0] for dependency in project["dependencies"]}
    assert direct <= required.keys()


def test_the_environment_is_the_locks() -> None:
    for name in ("tensorflow", "dm-reverb", "gym", "gymnasium", "tf-agents", "numpy"):
        assert importlib.metadata.version(name) == LOCKED[name]


def test_reverb_and_tensorflow_load_together() -> None:
    import reverb
    import tensorflow as tf

    table = reverb.Table.queue("queue", 1, signature=tf.TensorSpec([], tf.int32))
    server = reverb.Server([table])
    reverb.Client(f"localhost:{server.port}").insert(np.int32(3), {"queue": 1.0})
    assert server.localhost_client().server_info()["queue"].current_size == 1
    server.stop()
