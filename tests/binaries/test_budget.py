"""The memory that a run announces is what its process takes, and where there is too little, what to set can be set."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from binaries.experiment import Plan
from pipeline import index
from pipeline.index import ROOT
from pipeline.types import UserError
from servers import tables
from tests.binaries.programs import environment
from tests.binaries.test_spaces import SMALL, prepare
from tests.limits import LIMIT_S

LARGE = "Box(-1, 1, (5_000,), np.float32)"
REALS = ("tf_agents_sac", "tf_agents_td3")
SMALLEST = {"ppo": "PPO.batch_size=2", "tf_agents_ppo": "TFAgentsPPO.batch_size=2"}
"""minibatches that divide any rollout of two lanes"""


def plan_of(algo: str, *more: str) -> Plan:
    prepare("states", LARGE, algo, algo in REALS, [SMALLEST[algo], *more] if algo in SMALLEST else more)
    return Plan("local")


def refusal(plan: Plan, servers: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said where half of what the plan needs is free."""
    half = plan.budget(servers) // 2
    monkeypatch.setattr(tables, "free_memory", lambda: half)
    with pytest.raises(UserError) as error:
        plan._check_budget(servers)
    return str(error.value)


@pytest.mark.parametrize("servers", [0, 2])
@pytest.mark.parametrize("algo", SMALL)
def test_the_advice_can_be_followed_and_helps(algo: str, servers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(plan_of(algo), servers, monkeypatch)
    found = re.search(r"make (\w+\.\w+) smaller, which is [\d,]+ \(at most ([\d,]+) fit\)\.$", said)
    assert found, said
    # A rollout's last state makes it one row longer.
    longer = 1.2 * tables.free_memory()
    again = plan_of(algo, f"{found[1]}={found[2].replace(',', '')}")
    monkeypatch.setattr(tables, "free_memory", lambda: longer)
    again._check_budget(servers)


@pytest.mark.parametrize(
    ("algo", "said"),
    [("ppo", r"make Experiment\.lanes smaller, which is 2 "), ("dqn", r"make the size in DQN\.data smaller")],
)
def test_an_algorithm_without_the_usual_settings_is_told_what_there_is(
    algo: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(algo)
    bare = [entry._replace(parameters={}) for entry in index.scan("agents.algos")]
    monkeypatch.setattr(index, "scan", lambda package: bare)
    assert re.search(said, refusal(plan, 0, monkeypatch))


@pytest.mark.parametrize("algo", ["ppo", "vpg", "tf_agents_ppo"])
def test_what_an_actor_or_a_learner_does_not_hold_it_is_not_asked_for(
    algo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "free_memory", lambda: 0)
    plan = plan_of(algo)
    with pytest.raises(UserError, match=r"The replay needs .* and 0\.0 GiB of memory are free"):
        plan.build(Path("nowhere"))
    assert plan.budget(2) < plan.budget(1)


def test_where_nothing_fits_the_states_are_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "free_memory", lambda: 100)
    with pytest.raises(UserError, match=r"make states smaller.* \(no PPO\.rollout_length fits\)\.$"):
        tables.check_budget(2**30, "PPO.rollout_length", 128)


PROGRAM = """
import resource, sys
from pathlib import Path
import psutil
from binaries.experiment import Plan
from tests.binaries.test_spaces import prepare

states, folder, *overrides = sys.argv[1:]
prepare("states", states, "ppo", more=overrides)
parts = Plan("local").build(Path(folder) / "replay")
agent, environment = parts.agent, parts.environment
begun = psutil.Process().memory_info().rss
state = environment.reset(0)
calls = 0
while calls < 3:
    last_state = state
    action = agent.act(state)
    state, reward, done = environment.step(action)
    agent.observe(last_state, action, reward, done, state)
    calls += bool(agent.update())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(parts.plan.budget(), peak - begun)
sys.stdout.flush()
parts.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("states", ["Box(-1, 1, (25_000,), np.float32)", "Box(0, 255, (50_000,), np.uint8)"])
def test_a_process_takes_about_what_is_announced_for_its_rollouts(states: str, tmp_path: Path) -> None:
    sizes = ["Experiment.lanes=8", "PPO.rollout_length=128", "PPO.batch_size=256"]
    command = [sys.executable, "-c", PROGRAM, states, str(tmp_path), *sizes]
    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == 0, ended.stderr
    announced, taken = map(int, ended.stdout.split())
    assert 0.75 * announced < taken < 1.25 * announced
