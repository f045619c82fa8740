"""What the overlay `tpu-slice` runs on a TPU's hosts, on this machine's CPU: no TPU was reached."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from servers.ports import free_ports
from tests.binaries.programs import environment
from tests.launch.manifests import pod, rendered
from tests.limits import LIMIT_S

PORT = "8470"
DRIVE = """\
import sys
import numpy as np
import reverb
import tensorflow as tf

whole = tf.distribute.cluster_resolver.TPUClusterResolver(sys.argv[1])
print(",".join(whole.cluster_spec().as_dict()["worker"]))
resolver = tf.distribute.cluster_resolver.TPUClusterResolver(sys.argv[2])
tf.config.experimental_connect_to_cluster(resolver)
table = reverb.Table.queue("queue", 1, signature=tf.TensorSpec([], tf.int32))
server = reverb.Server([table])
reverb.Client(f"localhost:{server.port}").insert(np.int32(3), {"queue": 1.0})
with tf.device("/job:worker/task:0/device:CPU:0"):
    sample = reverb.TFClient(f"localhost:{server.port}").sample("queue", [tf.int32])
print(sample.data[0].device, int(sample.data[0]))
"""
"""a learner in small: says who the hosts of a slice are, connects to another, and has that read from a replay server"""


def learners_address() -> str:
    """--tpu as the learner has it, with JobSet's name filled in."""
    (flag,) = (w for w in pod(rendered("tpu-slice"), "learner").container["args"] if w.startswith("--tpu="))
    return flag.removeprefix("--tpu=").replace("$(JOBSET)", "run")


def test_tensorflow_knows_the_hosts_and_a_host_reads_from_the_replay_for_the_learner(tmp_path: Path) -> None:
    port = str(free_ports(1)[0])
    container = pod(rendered("tpu-slice"), "tpu").container
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
            [sys.executable, "-c", DRIVE, learners_address(), f"grpc://localhost:{port}"],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=LIMIT_S,
        )
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(host.pid, signal.SIGKILL)
        host.wait()
    said = f"{ended.stderr}\n{(tmp_path / 'log').read_text()}"
    hosts = ",".join(f"run-tpu-0-{n}.run:{PORT}" for n in range(4))
    assert ended.stdout.split() == [hosts, "/job:worker/replica:0/task:0/device:CPU:0", "3"], said
