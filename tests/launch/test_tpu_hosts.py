"""What the overlay `tpu-slice` runs on a TPU's hosts, on this machine's CPU: no TPU was reached."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.binaries.programs import environment
from tests.launch.manifests import OVERLAYS, pod, render

PORT = "8470"
DRIVE = """\
import sys
import numpy as np
import reverb
import tensorflow as tf

resolver = tf.distribute.cluster_resolver.TPUClusterResolver(sys.argv[1])
assert resolver.cluster_spec().as_dict()["worker"] == sys.argv[2].split(","), resolver.cluster_spec()
tf.config.experimental_connect_to_cluster(resolver)
table = reverb.Table.queue("queue", 1, signature=tf.TensorSpec([], tf.int32))
server = reverb.Server([table])
reverb.Client(f"localhost:{server.port}").insert(np.int32(3), {"queue": 1.0})
with tf.device("/job:worker/task:0/device:CPU:0"):
    sample = reverb.TFClient(f"localhost:{server.port}").sample("queue", [tf.int32])
print(sample.data[0].device, int(sample.data[0]))
"""
"""a learner in small: connects to the hosts, and has one of them read from a replay server"""


def learners_address() -> str:
    """--tpu as the learner has it, with JobSet's name filled in."""
    (flag,) = (w for w in pod(render(*OVERLAYS["tpu-slice"]), "learner").container["args"] if w.startswith("--tpu="))
    return flag.removeprefix("--tpu=").replace("$(JOBSET)", "run")


def test_the_hosts_are_those_that_tensorflow_takes_the_address_for() -> None:
    script = (
        "import sys, tensorflow as tf\n"
        "spec = tf.distribute.cluster_resolver.TPUClusterResolver(sys.argv[1]).cluster_spec()\n"
        "print(','.join(spec.as_dict()['worker']))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, learners_address()],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert ended.stdout.strip() == ",".join(f"run-tpu-0-{n}.run:{PORT}" for n in range(4)), ended.stderr


def test_a_host_reads_from_the_replay_for_the_learner(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    container = pod(render(*OVERLAYS["tpu-slice"]), "tpu").container
    assert container["ports"] == [{"containerPort": int(PORT), "name": "tensorflow"}]
    python, option, text = container["command"]
    assert (python, option) == (".venv/bin/python", "-c")
    assert PORT in text
    with (tmp_path / "log").open("w") as log:
        host = subprocess.Popen(
            [sys.executable, option, text.replace(PORT, port)], stdout=log, stderr=log, env=environment()
        )
    try:
        # It waits for the host to answer.
        ended = subprocess.run(
            [sys.executable, "-c", DRIVE, f"grpc://localhost:{port}", f"localhost:{port}"],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(host.pid, signal.SIGKILL)
        host.wait()
    said = f"{ended.stderr}\n{(tmp_path / 'log').read_text()}"
    assert ended.stdout.split() == ["/job:worker/replica:0/task:0/device:CPU:0", "3"], said
