"""Environment steps and updates a second of whole trainings, beside peers measured in the same run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import gin
from absl import flags

from binaries import flags as program_flags
from binaries import settings
from pipeline import index

PEERS = index.ROOT / "benchmarks" / "peers"
ENVIRONMENTS = index.ROOT / ".benchmark-peers"
ALONE = {"cleanrl": ("--no-deps", "--ignore-requires-python", "cleanrl==1.2.0")}
"""what asks for versions of its time that have no build for this Python, and runs with others"""
MEASURED_SECONDS = 10.0


class Work(NamedTuple):
    """What is measured, and beside whom."""

    hparams: str
    overrides: tuple[str, ...]
    peers: tuple[tuple[str, str], ...]
    """libraries, and the work in peers/LIBRARY_peer.py"""


# The peer's algorithm is one-step DQN without double Q-learning, with two layers of 64 units.
SAME_WORK = ("DQN.n_step = 1", "DQN.double = False", "MLP.hidden_sizes = (64, 64)", "Learner.updates_per_step = 1.0")
PPO = (
    "MLP.activation = 'tanh'",
    "MLP.hidden_sizes = (64, 64)",
    "PPO.epochs = 4",
    "PPO.batch_size = 256",
    "PPO.lr_schedule = 'constant'",
    "Experiment.train_steps = 100_000_000",
)
WORKS = {
    "dqn_cartpole_uniform": Work(
        "dqn_cartpole",
        (*SAME_WORK, "DQN.memory = 'uniform'", "Experiment.lanes = 16", "Learner.updates_per_call = 64"),
        (("stable_baselines3", "dqn"),),
    ),
    "dqn_cartpole_prioritized": Work("dqn_cartpole", SAME_WORK, (("stable_baselines3", "dqn"),)),
    "dqn_cartpole": Work("dqn_cartpole", (), (("stable_baselines3", "dqn"),)),
    "ppo_cartpole_8_lanes": Work(
        "ppo_cartpole",
        (*PPO, "Experiment.lanes = 8", "PPO.rollout_length = 128"),
        (("stable_baselines3", "ppo_8_lanes"),),
    ),
    "ppo_cartpole_64_lanes": Work(
        "ppo_cartpole",
        (*PPO, "Experiment.lanes = 64", "PPO.rollout_length = 32"),
        (("stable_baselines3", "ppo_64_lanes"),),
    ),
    "ddpg_pendulum": Work("ddpg_pendulum", (), (("stable_baselines3", "ddpg"), ("cleanrl", "ddpg"))),
}

flags.DEFINE_multi_enum("work", list(WORKS), list(WORKS), "what to measure")
flags.DEFINE_string("json", None, "a file for the results")
flags.DEFINE_integer("rounds", 3, "measurements of each, taken in turn; the median counts", lower_bound=1)
flags.DEFINE_bool("alone", False, "measure --work once, without its peers, and print one JSON line")


def measure(work: Work) -> dict[str, float]:
    """Measures Encore in this process: the whole training, then for a replay the learner on table and cached batch."""
    import tensorflow as tf

    from binaries.experiment import Experiment, Plan

    settings.apply(settings.read(work.hparams, work.overrides, {}))
    tf.config.threading.set_intra_op_parallelism_threads(gin.get_configurable(Experiment)().threads)
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan("local")
        parts = plan.build(Path(scratch))
        agent, environment = parts.agent, parts.environment
        state = environment.reset(0)

        def steps_until(end: float, least: int) -> tuple[int, int, float]:
            nonlocal state
            begin, steps, updates = time.perf_counter(), agent.actor.env_steps, agent.learner.updates
            while agent.actor.env_steps - steps < least or time.perf_counter() - begin < end:
                last_state = state
                action = agent.act(state)
                state, reward, done = environment.step(action)
                agent.observe(last_state, action, reward, done, state)
                agent.update()
            seconds = time.perf_counter() - begin
            return agent.actor.env_steps - steps, agent.learner.updates - updates, seconds

        steps_until(0.0, 2_000)
        steps, updates, seconds = steps_until(MEASURED_SECONDS, 0)
        speeds = {"env_steps_per_s": steps / seconds, "updates_per_s": updates / seconds}
        if not plan.memory.on_policy:
            speeds["learner_updates_per_s"] = updates_per_second(agent.learner, agent.actor.env_steps)
            cached = agent.learner.next_draw()
            agent.learner.connect(lambda batches, replicas: tf.data.Dataset.from_tensors(cached).repeat())
            speeds["cached_updates_per_s"] = updates_per_second(agent.learner, agent.actor.env_steps)
        parts.close()
    return speeds


def updates_per_second(learner: Any, env_steps: int) -> float:
    """The learner alone, for a third of the measured time."""
    learner.run(env_steps)
    begin, updates = time.perf_counter(), learner.updates
    while time.perf_counter() - begin < MEASURED_SECONDS / 3:
        learner.run(env_steps)
    return (learner.updates - updates) / (time.perf_counter() - begin)


def peer_python(library: str) -> Path:
    """The interpreter of the peer's own environment, which is made where it is missing."""
    requirements = PEERS / f"requirements-{library}.txt"
    environment = ENVIRONMENTS / library
    python, stamp = environment / "bin" / "python", environment / "installed"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"Setting up the peer's environment in {environment}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "-r", requirements], check=True)
        if library in ALONE:
            subprocess.run([*install, *ALONE[library]], check=True)
        stamp.write_text(requirements.read_text())
    return python


def last_json_line(command: list[str | Path]) -> dict[str, Any]:
    """Runs `command` and reads the JSON on its last line."""
    done = subprocess.run(command, cwd=index.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[-1]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(name: str, rounds: int) -> list[dict[str, Any]]:
    """Measures `name` and its peers in turn, each in a process of its own; a result for each peer."""
    work = WORKS[name]
    pythons = {library: peer_python(library) for library, _ in work.peers}
    ours: list[dict[str, Any]] = []
    theirs: dict[str, list[dict[str, Any]]] = {library: [] for library in pythons}
    for _ in range(rounds):
        for library, task in work.peers:
            theirs[library].append(last_json_line([pythons[library], PEERS / f"{library}_peer.py", task]))
        ours.append(last_json_line([sys.executable, "-m", "benchmarks.throughput", "--alone", f"--work={name}"]))
    middle = {key: statistics.median(o[key] for o in ours) for key in ours[0]}
    versions = {p: importlib.metadata.version(p) for p in ("tensorflow", "dm-reverb", "gym")}
    results = []
    for library, measured in theirs.items():
        peer_speed = statistics.median(t["env_steps_per_s"] for t in measured)
        results.append(
            {
                "work": name,
                **middle,
                "peer": library,
                "peer_env_steps_per_s": peer_speed,
                "ratio": middle["env_steps_per_s"] / peer_speed,
                "ratios": [o["env_steps_per_s"] / t["env_steps_per_s"] for o, t in zip(ours, measured, strict=True)],
                "versions": versions | measured[0]["versions"],
                "load_before": os.getloadavg()[0],
            }
        )
    return results


def of_cached(result: dict[str, Any]) -> str:
    """The learner alone, on the table over on a cached batch; '' where there is no replay."""
    if "cached_updates_per_s" not in result:
        return ""
    on_table, on_cache = result["learner_updates_per_s"], result["cached_updates_per_s"]
    return f"{on_table:,.0f} / {on_cache:,.0f} = {on_table / on_cache:.2f}"


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    arguments = flags.FLAGS
    if arguments.alone:
        print(json.dumps(measure(WORKS[arguments.work[0]])))
        return 0
    results = []
    print(
        f"{'work':<26} {'steps/s':>9} {'updates/s':>9} {'peer':<18} {'steps/s':>8} {'ratio':>6}"
        "  table over cached batch"
    )
    for name in arguments.work:
        for result in compare(name, arguments.rounds):
            results.append(result)
            print(
                f"{name:<26} {result['env_steps_per_s']:>9,.0f} {result['updates_per_s']:>9,.0f}"
                f" {result['peer']:<18} {result['peer_env_steps_per_s']:>8,.0f} {result['ratio']:>5.1f}x"
                f"  {of_cached(result)}",
                flush=True,
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    program_flags.main(main)
