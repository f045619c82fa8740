"""How fast worlds step through Encore's lanes, as a share of their own library's bare loop, in turn in one run.

    ./run worlds
    ./run worlds --world=atari --rounds=5

Actions are random, and are drawn before the clock starts. The bare loop does what its library asks for and nothing
more: it steps, and resets where the library does not. Every row is one setting; the best of a world counts.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

SECONDS = 1.5
ACTIONS = 512
"""random actions of every lane, taken again and again"""

Loop = Callable[[int], None]
"""takes that many steps of all lanes"""


class Row(NamedTuple):
    """A world, a setting of Encore's, and the loop of its library that it is held against."""

    world: str
    setting: str
    lanes: int
    bare: Callable[[], tuple[Loop, Callable[[], None]]]
    """makes the loop, which may have another number of lanes: `bare_lanes`"""
    bare_lanes: int
    name: str
    wrappers: tuple[str, ...] = ()
    processes: int = 0
    bindings: tuple[str, ...] = ()


def rows() -> list[Row]:
    """Every row of the table."""
    cores = os.cpu_count() or 1
    pong = lambda lanes, threads: lambda: _ale(lanes, threads)  # noqa: E731
    games = lambda lanes, threads: lambda: _procgen(lanes, threads)  # noqa: E731
    return [
        Row("CartPole", "gym, 1 lane", 1, lambda: _gym("gym", "CartPole-v1"), 1, "CartPole-v1"),
        Row("CartPole", "gym, 8 lanes", 8, lambda: _gym("gym", "CartPole-v1"), 1, "CartPole-v1"),
        Row("CartPole", "gym, 64 lanes", 64, lambda: _gym("gym", "CartPole-v1"), 1, "CartPole-v1"),
        Row(
            "CartPole",
            f"gym, 64 lanes, {cores} processes",
            64,
            lambda: _gym("gym", "CartPole-v1"),
            1,
            "CartPole-v1",
            processes=cores,
        ),
        Row("CartPole", "EnvPool, 64 lanes", 64, lambda: _envpool("CartPole-v1", 64), 64, "envpool:CartPole-v1"),
        *(
            Row(
                "Atari",
                f"Pong, {lanes} lanes, {threads} threads",
                lanes,
                pong(lanes, threads),
                lanes,
                "atari:pong",
                bindings=(f"Atari.threads = {threads}",),
            )
            for lanes in (8, 16)
            for threads in sorted({1, cores})
        ),
        Row("Atari", "EnvPool Pong, 16 lanes", 16, lambda: _envpool("Pong-v5", 16), 16, "envpool:Pong-v5"),
        *(
            Row(
                "Procgen",
                f"CoinRun, 64 lanes, {threads} threads",
                64,
                games(64, threads),
                64,
                "procgen:coinrun",
                bindings=(f"Procgen.threads = {threads}",),
            )
            for threads in sorted({0, cores})
        ),
        Row("MuJoCo", "HalfCheetah-v5, 8 lanes", 8, lambda: _gym("gymnasium", "HalfCheetah-v5"), 1, "HalfCheetah-v5"),
        Row(
            "MuJoCo",
            f"HalfCheetah-v5, 8 lanes, {cores} processes",
            8,
            lambda: _gym("gymnasium", "HalfCheetah-v5"),
            1,
            "HalfCheetah-v5",
            processes=cores,
        ),
        Row(
            "MuJoCo",
            "EnvPool HalfCheetah-v4, 32 lanes",
            32,
            lambda: _envpool("HalfCheetah-v4", 32),
            32,
            "envpool:HalfCheetah-v4",
        ),
        Row(
            "Box2D",
            "LunarLander-v3, 8 lanes",
            8,
            lambda: _gym("gymnasium", "LunarLander-v3"),
            1,
            "gymnasium:LunarLander-v3",
        ),
    ]


def _gym(library: str, name: str) -> tuple[Loop, Callable[[], None]]:
    """One environment of gym or gymnasium, in the loop that its documentation shows."""
    from pipeline.envs import gym as adapter

    adapter.find("CartPole-v1")  # gym without its notice
    module = importlib.import_module(library)
    environment = module.make(name)
    environment.action_space.seed(0)
    actions = [environment.action_space.sample() for _ in range(ACTIONS)]
    environment.reset()

    def loop(steps: int) -> None:
        for step in range(steps):
            if any(environment.step(actions[step % ACTIONS])[2:-1]):
                environment.reset()

    return loop, environment.close


def _ale(lanes: int, threads: int) -> tuple[Loop, Callable[[], None]]:
    from ale_py.vector_env import AtariVectorEnv

    games = AtariVectorEnv(
        "pong", lanes, num_threads=threads, repeat_action_probability=0.25, noop_max=0, use_fire_reset=False
    )
    actions = np.random.default_rng(0).integers(0, games.single_action_space.n, (ACTIONS, lanes), np.int32)
    games.reset(seed=0)

    def loop(steps: int) -> None:
        for step in range(steps):
            games.step(actions[step % ACTIONS])

    return loop, games.close


def _procgen(lanes: int, threads: int) -> tuple[Loop, Callable[[], None]]:
    from procgen import ProcgenGym3Env

    games: Any = ProcgenGym3Env(
        num=lanes, env_name="coinrun", num_threads=threads, num_levels=200, distribution_mode="easy", rand_seed=0
    )
    actions = np.random.default_rng(0).integers(0, 15, (ACTIONS, lanes), np.int32)

    def loop(steps: int) -> None:
        for step in range(steps):
            games.act(actions[step % ACTIONS])
            games.observe()

    return loop, games.close


def _envpool(task: str, lanes: int) -> tuple[Loop, Callable[[], None]]:
    import envpool

    games = envpool.make(task, env_type="gymnasium", num_envs=lanes, num_threads=1, seed=0)
    games.action_space.seed(0)
    actions = np.stack([[games.action_space.sample() for _ in range(lanes)] for _ in range(ACTIONS)])
    games.reset()

    def loop(steps: int) -> None:
        for step in range(steps):
            games.step(actions[step % ACTIONS])

    return loop, games.close


def _ours(row: Row) -> tuple[Loop, Callable[[], None]]:
    import gin

    from pipeline.envs.crashes import Crashes
    from pipeline.envs.lanes import Lanes
    from pipeline.envs.make import make_block
    from pipeline.envs.registry import ENVIRONMENTS

    for binding in row.bindings:
        ENVIRONMENTS.load(binding.partition(".")[0].lower())
        gin.parse_config(binding)
    lanes = Lanes(make_block(row.name, row.lanes, True, row.wrappers, row.processes), crashes=Crashes(0.001, 60.0))
    spec = lanes.action_spec
    generator = np.random.default_rng(0)
    shape = (ACTIONS, row.lanes, *spec.shape)
    if np.issubdtype(spec.dtype, np.integer):
        actions = generator.integers(spec.minimum, spec.maximum + 1, shape).astype(spec.dtype)
    else:
        actions = generator.uniform(spec.minimum, spec.maximum, shape).astype(spec.dtype)
    lanes.reset(0)

    def loop(steps: int) -> None:
        for step in range(steps):
            lanes.step(actions[step % ACTIONS])

    def close() -> None:
        lanes.close()
        gin.clear_config()

    return loop, close


def _rate(loop: Loop, lanes: int) -> float:
    """Environment steps a second over about `SECONDS`."""
    steps = 8
    while True:
        begin = time.perf_counter()
        loop(steps)
        seconds = time.perf_counter() - begin
        if seconds > SECONDS / 2:
            return steps * lanes / seconds
        steps = max(2 * steps, int(steps * SECONDS / max(seconds, 1e-3)))


def measure(chosen: list[Row], rounds: int) -> Iterator[tuple[Row, float, float, float]]:
    """Of each row its own and the bare loop's steps a second, and the median of their ratios pair by pair."""
    for row in chosen:
        bare, close_bare = row.bare()
        ours, close_ours = _ours(row)
        _rate(bare, row.bare_lanes), _rate(ours, row.lanes)
        pairs = [(_rate(ours, row.lanes), _rate(bare, row.bare_lanes)) for _ in range(rounds)]
        close_bare()
        close_ours()
        own, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        yield row, own, other, statistics.median(one / two for one, two in pairs)


def main(_: list[str]) -> None:
    """Prints the table, row by row."""
    world = flags.FLAGS.world.lower()
    chosen = [row for row in rows() if world in row.world.lower()]
    if not chosen:
        raise SystemExit(f"worlds: there is no world '{world}'; there are: {', '.join({r.world for r in rows()})}.")
    print("| world | setting | Encore, steps/s | bare loop, steps/s | share |\n|---|---|---|---|---|")
    for row, own, other, share in measure(chosen, flags.FLAGS.rounds):
        print(f"| {row.world} | {row.setting} | {own:,.0f} | {other:,.0f} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_string("world", "", "only the worlds with this in their name")
    flags.DEFINE_integer("rounds", 3, "measurements of each row, in turn with the bare loop", lower_bound=1)
    app.run(main)
