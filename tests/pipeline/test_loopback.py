"""Loopback is exempt from the user's proxies, whose own exemptions stay; a machine elsewhere keeps the proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from agents.tf_config import VARIABLE, learners
from pipeline.index import ROOT
from pipeline.loopback import EXEMPTIONS, LOOPBACK, PROXIES, exempt, exemptions, is_this_machine
from servers.ports import free_ports
from tests.binaries.programs import environment, run
from tests.limits import LIMIT_S

OURS = ",".join(LOOPBACK)
FOREIGN_CALLER = """
import servers.variables  # before anything else of ours
import reverb
table = reverb.Table("t", reverb.selectors.Fifo(), reverb.selectors.Fifo(), 1, reverb.rate_limiters.MinSize(1))
server = reverb.Server([table])
print(list(reverb.Client(f"localhost:{server.port}").server_info(timeout=120)), flush=True)
import os
os._exit(0)
"""


@pytest.mark.parametrize(
    ("held", "exempted"),
    [
        ({}, OURS),
        ({"no_proxy": "a.b,10.0.0.1"}, f"a.b,10.0.0.1,{OURS}"),
        ({"no_grpc_proxy": "a.b", "no_proxy": "c.d"}, f"a.b,{OURS}"),
        # gRPC reads no_proxy only where no_grpc_proxy is not set, be it empty.
        ({"no_grpc_proxy": "", "no_proxy": "c.d"}, OURS),
        ({"no_proxy": "127.0.0.1,a.b"}, "127.0.0.1,a.b,localhost,::1"),
        # gRPC strips no blanks: what stands behind one exempts nothing.
        ({"no_proxy": "a.b, localhost"}, f"a.b, localhost,{OURS}"),
        ({"NO_PROXY": "a.b"}, OURS),
    ],
)
def test_the_users_own_exemptions_stay(held: Mapping[str, str], exempted: str) -> None:
    assert exemptions(held, LOOPBACK) == exempted
    assert exemptions({"no_grpc_proxy": exempted}, LOOPBACK) == exempted


@pytest.fixture
def _behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *EXEMPTIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


@pytest.mark.usefixtures("_behind_a_proxy")
def test_a_name_of_this_machine_is_exempt_and_another_machine_is_not() -> None:
    own = socket.gethostname()
    exempt([own, "192.0.2.1", "replay.invalid"])
    assert os.environ[EXEMPTIONS[0]] == (f"{OURS},{own}" if is_this_machine(own) else OURS)
    assert is_this_machine("127.0.1.1")
    assert not is_this_machine("192.0.2.1")


@pytest.mark.usefixtures("_behind_a_proxy")
def test_learners_on_this_machine_are_exempt(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = '{"worker": ["127.0.1.1:1", "192.0.2.1:2"]}'
    monkeypatch.setenv(VARIABLE, f'{{"cluster": {cluster}, "task": {{"type": "worker", "index": 0}}}}')
    assert learners() == 2
    assert os.environ[EXEMPTIONS[0]] == f"{OURS},127.0.1.1"


@pytest.mark.usefixtures("_behind_a_proxy")
def test_reverb_reaches_its_own_server_behind_a_proxy_for_a_caller_from_outside() -> None:
    command = [sys.executable, "-c", FOREIGN_CALLER]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert (ended.returncode, ended.stdout) == (0, "['t']\n"), ended.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_behind_a_proxy")
def test_a_run_behind_proxies_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_ports(1)[0]}")
    settings = "DQN.min_replay_size=240;Learner.updates_per_call=8;Learner.xla=False;MLP.hidden_sizes=(16,)"
    steps = ["--train_steps=400", "--eval_episodes=1", "--test_episodes=1"]
    words = ["--hparams=dqn_cartpole_uniform", f"--hparam_override={settings}", f"--output_dir={tmp_path / 'run'}"]
    ended = run("binaries.train", *words, *steps)
    assert ended.code == 0, ended.stderr
    assert "CartPole-v1 after " in ended.stdout
