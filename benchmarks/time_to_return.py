"""Seconds from the first environment step until PPO has learnt CartPole-v1, beside a peer measured in the same run."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gin
from absl import flags

from benchmarks import throughput
from binaries import flags as program_flags
from binaries import settings

HPARAMS = "ppo_cartpole"
EPISODES = 20
"""whose mean return counts"""

flags.declare_key_flag("rounds")
flags.DEFINE_float("target", 475.0, "the mean of the last 20 training returns that is to be reached")
flags.DEFINE_integer("seed_alone", None, "measure this seed only, without the peer, and print one JSON line")


def measure(target: float, seed: int) -> dict[str, Any]:
    """Trains in this process until the target is reached; compiling counts, from the first environment step on."""
    import tensorflow as tf

    from binaries.experiment import Experiment, Plan

    settings.apply(settings.read(HPARAMS, (), {"Experiment.seed": seed}))
    tf.config.threading.set_intra_op_parallelism_threads(gin.get_configurable(Experiment)().threads)
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan("local")
        parts = plan.build(Path(scratch))
        actor, environment, returns = parts.agent.actor, parts.environment, []
        state, begin, seconds = environment.reset(seed), time.perf_counter(), None
        while seconds is None and actor.env_steps < plan.experiment.train_steps:
            last_state = state
            action = parts.agent.act(state)
            state, reward, done = environment.step(action)
            parts.agent.observe(last_state, action, reward, done, state)
            parts.agent.update()
            returns += [value for value, _ in actor.finished]
            actor.finished = []
            if len(returns) >= EPISODES and sum(returns[-EPISODES:]) >= EPISODES * target:
                seconds = time.perf_counter() - begin
        parts.close()
    return {"seconds": seconds, "env_steps": actor.env_steps}


def _cell(result: dict[str, Any]) -> str:
    reached = "not reached" if result["seconds"] is None else f"{result['seconds']:.1f} s"
    return f"{reached:>12} {result['env_steps']:>9,} steps"


def main(argv: list[str]) -> int:
    program_flags.take(argv)
    arguments = flags.FLAGS
    target = arguments.target
    if arguments.seed_alone is not None:
        print(json.dumps(measure(target, arguments.seed_alone)))
        return 0
    python = throughput.peer_python("stable_baselines3")
    peer = throughput.PEERS / "stable_baselines3_peer.py"
    alone = [sys.executable, "-m", "benchmarks.time_to_return", f"--target={target}"]
    print(f"{'seed':>4} {'encore':>28} {'stable-baselines3':>28}")
    for seed in range(arguments.rounds):
        theirs = throughput.last_json_line([python, peer, "ppo_zoo", str(target), str(seed)])
        ours = throughput.last_json_line([*alone, f"--seed_alone={seed}"])
        print(f"{seed:>4} {_cell(ours):>28} {_cell(theirs):>28}", flush=True)
    return 0


if __name__ == "__main__":
    program_flags.main(main)
