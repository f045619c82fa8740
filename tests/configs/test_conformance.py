"""Every file of hyper-parameters is documented and valid, and what it names learns in every way that Encore runs."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binaries import settings
from binaries.experiment import Parts, Plan
from configs import registry as configs
from pipeline import index
from pipeline.types import UserError
from servers import tables
from tests.agents.helpers import update_loop
from tests.agents.tpu_ops import refused

SMALL = {
    "replay_size": 2_000,
    "min_replay_size": 64,
    "batch_size": 16,
    "random_steps": 32,
    "rollout_length": 16,
    "longest_episode": 24,
}
"""parameters of an algorithm, where it has them"""
QUICK = ("Experiment.lanes=4", "Experiment.eval_episodes=1", "Experiment.test_episodes=1", "Learner.updates_per_call=4")
CALLS = 3
MODES = {"inline": True, "inline_without_xla": False, "seeds_loop": False}
"""whether the learner's loop is compiled by XLA"""

SOURCE = re.compile(r"\b(19|20)\d\d\b|\bSource:|\barXiv\b|https?://", re.IGNORECASE)
KINDS = ("size", "period", "length", "steps")
"""ends of the names of parameters that have a unit"""
UNIT = re.compile(r"\b(units|steps|transitions|windows|updates|episodes|rows|frames|seconds)\b")


def environment_of(name: str) -> str | None:
    try:
        binding = settings.read(name, [], {}).get("Experiment.environment")
    except UserError:  # another test says so
        return None
    return None if binding is None else binding.value


QUICK_PICTURES = ("dqn_pong", "ppo_coinrun")
"""of the configurations whose networks see pictures, those that quick tests learn with; XLA takes half a minute each"""
RUNNABLE = [name for name in configs.names() if environment_of(name)]
OF_PICTURES = [name for name in RUNNABLE if re.search(r"'(conv|impala)'", configs.path(name).read_text())]


# What the files say.


def uncovered(text: str) -> list[str]:
    """The settings of a gin file whose source or unit neither the file's header nor a comment of their own says.

    A header's source is that of all settings. It says the unit of a kind of setting by that kind's name: 'periods in
    updates'.
    """
    lines = text.splitlines()
    header = " ".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    found = []
    for line in lines:
        setting, _, comment = line.partition("#")
        if not setting.strip() or setting.startswith(("include ", " ", ")")):
            continue
        said = f"{header} {comment}"
        parameter = setting.partition("=")[0].strip().rpartition(".")[2]
        kinds = [kind for kind in KINDS if re.search(rf"(^|_){kind}$", parameter)]
        units = UNIT.search(comment) or all(re.search(rf"\b{kind}(s|es)?\b", said, re.IGNORECASE) for kind in kinds)
        if not SOURCE.search(said) or not units:
            found.append(line)
    return found


@pytest.mark.parametrize("name", configs.names())
def test_every_setting_has_its_source_and_unit(name: str) -> None:
    assert uncovered(configs.path(name).read_text()) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("# Mnih et al. 2015. Periods in updates.\nDQN.target_update_period = 9\nDQN.gamma = 0.9\n", []),
        ("# Mnih et al. 2015.\nDQN.target_update_period = 9\nDQN.gamma = 0.9\n", ["DQN.target_update_period = 9"]),
        ("# As in the paper.\nDQN.gamma = 0.9\nDQN.n_step = 3\n", ["DQN.gamma = 0.9", "DQN.n_step = 3"]),
        ("# As in the paper.\n\nDQN.gamma = 0.9  # Mnih et al. 2015\nDQN.a = 1  # rows\n", ["DQN.a = 1  # rows"]),
        ("# Source: here.\nDQN.replay_size = 9  # transitions\nX.size = 2\n", ["X.size = 2"]),
        ("include 'base.gin'\n# Source: found here, in steps.\nDQN.gamma = 0.9\n", ["DQN.gamma = 0.9"]),
    ],
)
def test_a_setting_without_source_and_unit_is_found(text: str, missing: list[str]) -> None:
    assert uncovered(text) == missing


@pytest.mark.parametrize("name", configs.names())
def test_every_name_and_type_is_known(name: str) -> None:
    read = settings.read(name, [], {})
    assert read
    if "Experiment.algo" in read:
        assert read["Experiment.algo"].value in {entry.name for entry in index.scan("agents.algos")}


def test_there_is_something_to_run() -> None:
    assert "dqn_cartpole" in RUNNABLE


# What they name runs.


def small(name: str) -> list[str]:
    """Overrides that make the run of `name` small."""
    algo = settings.read(name, [], {})["Experiment.algo"].value
    entry = next(e for e in index.scan("agents.algos") if e.name == algo)
    return [*QUICK, *(f"{entry.class_name}.{key}={value}" for key, value in SMALL.items() if key in entry.parameters)]


@contextlib.contextmanager
def parts_of(name: str, mode: str, scratch: Path, *overrides: str) -> Iterator[tuple[Plan, Parts]]:
    """The parts of `name`, made small, with all of its settings read."""
    read = settings.read(name, [*small(name), f"Learner.xla={MODES[mode]}", *overrides], {})
    settings.apply(read)
    plan = Plan("local", single=mode == "seeds_loop")
    parts = plan.build(scratch)
    try:
        settings.check_all_read(read)
        yield plan, parts
    finally:
        parts.close()


def weights(parts: Parts) -> dict[str, list[np.ndarray]]:
    return {group: model.get_weights() for group, model in parts.agent.learner.params.online.items()}


def priorities(parts: Parts, items: int = 500) -> dict[int, float]:
    """Priorities of items of the table, by key."""
    samples: Any = parts.client.sample(tables.TABLE, items, emit_timesteps=False)
    return {sample.info.key: sample.info.priority for sample in samples}


def learn(parts: Parts, calls: int) -> None:
    """The seed's loop until the learner was called `calls` times more; all that it reports is finite."""
    agent, environment = parts.agent, parts.environment
    state: Any = environment.reset(0)
    for _ in range(2_000):
        last_state = state
        action = agent.act(state)
        state, reward, done = environment.step(action)
        agent.observe(last_state, action, reward, done, state)
        if agent.update():
            calls -= 1
            assert np.isfinite(list(agent.metrics.values())).all(), agent.metrics
        if not calls:
            return
    pytest.fail(f"{agent.learner.updates} updates in {agent.actor.env_steps} steps")


def every_way() -> list[Any]:
    """(name, mode); what an algorithm's first hyper-parameters show in the other modes too, its others show slowly."""
    algo = {name: settings.read(name, [], {})["Experiment.algo"].value for name in RUNNABLE}
    first = {algo[name]: name for name in reversed(RUNNABLE)}

    def quick(name: str, mode: str) -> bool:
        if name in OF_PICTURES:
            return name in QUICK_PICTURES and mode == "inline_without_xla"
        # What is compiled for the first is not compiled again: it takes longer than all the rest.
        is_first = first[algo[name]] == name or name == "dqn_cartpole"
        return mode != "inline_without_xla" if is_first else mode == "inline_without_xla"

    return [
        pytest.param(name, mode, marks=[] if quick(name, mode) else [pytest.mark.slow])
        for name in RUNNABLE
        for mode in MODES
    ]


@pytest.mark.parametrize(("name", "mode"), every_way())
def test_it_learns_in_every_mode(name: str, mode: str, tmp_path: Path) -> None:
    with parts_of(name, mode, tmp_path / "replay") as (plan, parts):
        before = weights(parts)
        learn(parts, calls=1)
        old = priorities(parts) if plan.memory.prioritized else {}
        learn(parts, calls=CALLS - 1)
        assert parts.agent.learner.updates >= CALLS
        assert parts.agent.learner.trace_count() == 1
        loop = update_loop(parts.agent.learner)
        assert loop.function_def.attr["_XlaMustCompile"].b == MODES[mode]
        if MODES[mode]:
            assert refused(loop) == []
        assert "loss" in parts.agent.metrics
        for group, values in weights(parts).items():
            assert any(not np.array_equal(a, b) for a, b in zip(before[group], values, strict=True)), group
        if plan.memory.prioritized:
            # The first call knew no priorities but the one that new items have.
            assert len(set(old.values())) > 1
            new = priorities(parts)
            assert any(new[key] != old[key] for key in old.keys() & new.keys())
