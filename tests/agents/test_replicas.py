"""Every algorithm learns on two replicas what it learns on one from the same data, and refuses where it would not.

The replicas are two logical CPUs under MirroredStrategy. Each gets half of the windows that one replica gets. So that
the two can be compared at all, what each replica draws for itself is made the same: the seed of an update, with it a
noisy network's noise, and the stateful noise of tf-agents' policies; and a minibatch of a rollout is what two replicas
with the same order make of their halves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from binaries import settings
from pipeline.index import ROOT, scan
from tests.configs.test_conformance import RUNNABLE
from tests.limits import LIMIT_S

REFUSED = {"tf_agents_td3": "tf-agents' TD3 learns on one device only"}
"""why, by algorithm"""
OWN = ("explained_variance",)
"""metrics of which the mean over replicas is not that of all examples"""


def algo_of(name: str) -> str:
    return settings.read(name, [], {})["Experiment.algo"].value


FIRST = list({algo_of(name): name for name in reversed(RUNNABLE)}.values())
"""of each algorithm, its first set of hyper-parameters"""


def compared(*names: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.agents.replicas", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(found: dict[str, Any]) -> list[str]:
    """What of a comparison is not as it should be."""
    reason = REFUSED.get(algo_of(found["name"]))
    if reason is not None or "refused" in found:
        return [] if reason is not None and reason in found.get("refused", "") else [f"refused: {found.get('refused')}"]
    said = [] if found["traces"] == [1, 1] else [f"traces: {found['traces']}"]
    said += [] if any(key.startswith("online/") for key in found["changed"]) else ["the parameters did not move"]
    # Two replicas count two rollouts a call. Later calls see what rounding has become.
    for call, bound in enumerate((0.0, 1e-5, 1e-3, 1e-2)):
        numbers = {key: apart for key, apart in found["apart"][call].items() if not key.startswith("rollouts/")}
        said += [f"call {call}: {key} differs by {apart:.1e}" for key, apart in numbers.items() if not apart <= bound]
    for one, two in zip(*found["metrics"], strict=True):
        same = {key: pytest.approx(value, rel=1e-3, abs=1e-5) for key, value in one.items() if key not in OWN}
        said += [f"{key} is {one[key]} and {two[key]}" for key, value in same.items() if two[key] != value]
    return said


def test_two_replicas_learn_what_one_learns_from_a_replay_and_from_a_queue() -> None:
    for found in compared("dqn_cartpole", "ppo_cartpole"):
        assert faults(found) == []


@pytest.mark.slow
def test_two_replicas_of_every_algorithm_learn_what_one_learns() -> None:
    found = compared(*FIRST)
    assert {algo_of(one["name"]) for one in found} == {entry.name for entry in scan("agents.algos") if entry.name}
    assert {one["name"]: faults(one) for one in found if faults(one)} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RUNNABLE) - set(FIRST)))
def test_two_replicas_learn_what_one_learns_with_these_settings(name: str) -> None:
    (found,) = compared(name)
    assert faults(found) == []


HEALTHY = {
    "name": "dqn_cartpole",
    "traces": [1, 1],
    "changed": ["online/q", "optimizers/q"],
    "apart": [{"online/q": apart, "rollouts/n": 1.0} for apart in (0.0, 1e-6, 1e-6, 1e-6)],
    "metrics": [[{"loss": 1.0, "explained_variance": 1.0}], [{"loss": 1.0, "explained_variance": 0.0}]],
}


def test_replicas_that_agree_are_let_pass() -> None:
    assert faults(HEALTHY) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"traces": [1, 2]}, "traces"),
        ({"changed": []}, "the parameters did not move"),
        ({"apart": [{"online/q": apart} for apart in (0.0, 2e-5, 0.0, 0.0)]}, "call 1: online/q differs by 2.0e-05"),
        ({"apart": [{"online/q": float("nan")}] * 4}, "differs by nan"),
        ({"metrics": [[{"loss": 1.0}], [{"loss": 2.0}]]}, "loss is 1.0 and 2.0"),
        ({"refused": "no"}, "refused: no"),
        ({"name": "tf_agents_td3_pendulum"}, "refused: None"),
    ],
)
def test_replicas_that_differ_are_found(change: dict[str, Any], said: str) -> None:
    assert said in " ".join(faults({**HEALTHY, **change}))
