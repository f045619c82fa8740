"""Two learners in processes of their own, as TF_CONFIG names them, draw from one replay server and learn as one."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from agents.algos.dqn import DQN
from agents.learner import Learner, LearnerError, make_strategy
from agents.tf_config import VARIABLE, check_alone, learners
from binaries import devices
from pipeline.dataset import Draw
from pipeline.index import ROOT
from pipeline.types import UserError
from servers.memory.uniform import Uniform
from servers.ports import free_ports
from tests.agents.helpers import feed, make_learner, random_draw
from tests.agents.replicas import CALLS, act, both_orders, same_seeds, state_of
from tests.binaries import programs
from tests.configs.test_conformance import parts_of, priorities
from tests.limits import LIMIT_S

WORKERS = 2


def config(index: int, ports: list[int]) -> str:
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})


def learnt(name: str, address: str, folder: Path) -> list[dict[str, Any]]:
    """What two workers left that learnt from the server at `address`."""
    ports = free_ports(WORKERS)
    files = [folder / f"worker{index}" for index in range(WORKERS)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.agents.one_of_several", name, address, str(file)],
            cwd=ROOT,
            env=programs.environment() | {VARIABLE: config(index, ports)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, file in enumerate(files)
    ]
    try:
        for process in running:
            _, said = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [pickle.loads(file.read_bytes()) for file in files]


def draw_of(both: list[dict[str, Any]], call: int, structure: Draw) -> Draw:
    """What the workers drew for a call, as one draw."""
    draws: list[Draw] = [tf.nest.pack_sequence_as(structure, one["draws"][call]) for one in both]
    join = lambda *leaves: tf.concat(leaves, axis=1)  # noqa: E731
    correction = join(*(draw.correction for draw in draws))
    keys = tf.zeros([tf.size(correction)], tf.uint64)
    return Draw(tf.nest.map_structure(join, *(draw.steps for draw in draws)), correction, keys, tf.cast(keys, tf.int32))


def learnt_alone(learner: Learner, draws: list[Draw]) -> dict[str, np.ndarray]:
    """What one process, on one device, learns from the draws."""
    stacked: Any = tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *draws)
    learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensor_slices(stacked))
    with mock.patch.object(Learner, "_seeds", same_seeds), mock.patch.object(Learner, "_order", both_orders):
        for call in range(CALLS):
            learner.run(100 * call)
    return state_of(learner)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dqn_cartpole", "ppo_cartpole"])
def test_two_workers_learn_what_one_process_learns_from_what_they_drew(name: str, tmp_path: Path) -> None:
    with parts_of(name, "inline_without_xla", tmp_path / "replay") as (plan, parts):
        learner = parts.agent.learner
        structure = learner._iterator.element_spec
        # All learners, this process's too, ask for rollouts ahead of their calls.
        act(plan, parts, rollouts=WORKERS * (CALLS + 2) + 2)
        before = priorities(parts) if plan.memory.prioritized else {}
        both = learnt(name, f"localhost:{parts.server.port}", tmp_path)
        after = priorities(parts) if plan.memory.prioritized else {}
        alone = learnt_alone(learner, [draw_of(both, call, structure) for call in range(CALLS)])

    one, two = both
    assert (one["chief"], two["chief"]) == (True, False)
    assert one["agreed"] == two["agreed"] == (5, -3)
    assert one["traces"] == two["traces"] == 1
    assert one["metrics"] == two["metrics"]
    assert one["max_priority"] == two["max_priority"] == learner.max_priority
    for key, numbers in one["state"].items():
        np.testing.assert_array_equal(numbers, two["state"][key], err_msg=key)
        if not key.startswith("rollouts/"):
            np.testing.assert_allclose(numbers, alone[key], rtol=1e-4, atol=1e-5, err_msg=key)

    if plan.memory.prioritized:
        check_priorities(both, before, after, plan.data.batch_size // WORKERS)


def check_priorities(both: list[dict[str, Any]], before: dict[int, float], after: dict[int, float], size: int) -> None:
    """That each worker wrote priorities of the items that it drew, and of no others."""
    said: dict[int, set[float]] = {}
    for one in both:
        drawn = [draw[-2].tolist() for draw in one["draws"]]
        assert [keys.tolist() for keys, _ in one["written"]] == drawn
        assert {len(keys) for keys in drawn} == {one["batches"] * size}
        last: dict[int, float] = {}
        for keys, values in one["written"]:
            last |= dict(zip(keys.tolist(), values.tolist(), strict=True))
        for key, value in last.items():
            said.setdefault(key, set()).add(value)
    seen = before.keys() & after.keys()
    assert {after[key] for key in seen - said.keys()} <= set(before.values())
    assert seen & said.keys()
    assert all(after[key] in said[key] for key in seen & said.keys())


def test_workers_that_begin_apart_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(DQN(batch_size=8), Uniform(), make_strategy("local"), updates_per_call=1)
    feed(learner, random_draw(1, 8, 2))
    # Another worker has made fewer updates.
    monkeypatch.setattr(learner, "agree", lambda value: min(value, -3))
    with pytest.raises(LearnerError, match="different numbers of updates"):
        learner.run(0)


def test_a_learner_without_others_agrees_with_itself_and_saves() -> None:
    learner = make_learner(DQN(batch_size=8), Uniform(), make_strategy("local"))
    assert learner.is_chief
    assert learner.agree(7) == 7


# What TF_CONFIG says.

PORTS = [1, 2]


def test_no_description_and_one_learner_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert learners() == 1
    monkeypatch.setenv(VARIABLE, config(0, [1]))
    assert learners() == 1
    check_alone("train")
    assert type(make_strategy("local")) is type(tf.distribute.get_strategy())


def test_chief_and_workers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, config(1, PORTS))
    assert learners() == 2
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
    monkeypatch.setenv(VARIABLE, json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    assert learners() == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker 0", "it must be JSON"),
        ("[]", "it must be JSON"),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', "it must be JSON"),
        (config(2, PORTS), "this is worker 2, and its cluster has no such learner"),
        (config(0, PORTS).replace('"type": "worker"', '"type": "ps"'), "this is ps 0"),
    ],
)
def test_a_description_that_is_not_understood_is_refused(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=said):
        make_strategy("local")


def test_a_program_that_learns_alone_refuses_other_learners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, config(0, PORTS))
    with pytest.raises(UserError, match="TF_CONFIG names 2 learners, and train learns alone"):
        check_alone("train")


# What of a machine a process uses; the GPUs here are made up.


class Machine:
    """Stands for tf.config, and notes what it is asked for."""

    def __init__(self, gpus: int):
        self.visible = [f"GPU:{index}" for index in range(gpus)]
        self.growing: list[str] = []
        self.experimental = self

    def get_visible_devices(self, kind: str) -> list[str]:
        return list(self.visible) if kind == "GPU" else []

    def set_visible_devices(self, devices: list[str], kind: str) -> None:
        assert kind == "GPU"
        self.visible = list(devices)

    def set_memory_growth(self, device: str, enable: bool) -> None:
        assert enable
        self.growing.append(device)


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with as many GPUs as the test's parameter says; MirroredStrategy says what it was made beside."""
    made = Machine(request.param)
    monkeypatch.setattr(tf, "config", made)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: ("mirrored", list(made.growing)))
    strategy = lambda: types.SimpleNamespace(extended=types.SimpleNamespace(), growing=list(made.growing))  # noqa: E731
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", strategy)
    return made


@pytest.mark.parametrize("machine", [1], indirect=True)
def test_one_gpu_is_used_as_it_is_and_gives_memory_as_needed(machine: Machine) -> None:
    assert make_strategy("local") is tf.distribute.get_strategy()
    assert machine.growing == ["GPU:0"]


@pytest.mark.parametrize("machine", [2], indirect=True)
def test_several_gpus_learn_together_and_give_memory_as_needed(machine: Machine) -> None:
    # Memory is a matter of before the strategy, which starts the devices.
    assert make_strategy("gcp") == ("mirrored", ["GPU:0", "GPU:1"])


@pytest.mark.parametrize("machine", [2], indirect=True)
def test_gpus_of_several_workers_give_memory_as_needed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, config(0, PORTS))
    strategy: Any = make_strategy("local")
    assert strategy.growing == ["GPU:0", "GPU:1"]
    assert strategy.extended.experimental_enable_get_next_as_optional is False


@pytest.mark.parametrize("machine", [2], indirect=True)
def test_who_does_not_learn_leaves_gpus_and_other_learners_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, config(0, PORTS))
    devices.leave_to_the_learner()
    assert make_strategy("local") is tf.distribute.get_strategy()
    assert machine.growing == []
