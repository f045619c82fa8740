"""How fast worlds step through Encore's lanes, as a share of their own library's bare loop, in turn in one run.

    ./run worlds
    ./run worlds --world=atari --rounds=5

Actions are random, and are drawn before the clock starts. The bare loop does what its library asks for and nothing
more: it steps, and resets where the library does not. Every row is one setting; the best of a world counts.
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from binaries import flags as program_flags
from pipeline.envs import gym as adapter
from pipeline.envs.atari import Atari
from pipeline.envs.block import Block
from pipeline.envs.crashes import Crashes
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make_block
from pipeline.envs.procgen import Procgen
from pipeline.types import UserError

SECONDS = 1.5
ACTIONS = 512
"""random actions of every lane, taken again and again"""

Loop = Callable[[int], None]
"""takes that many steps of all lanes"""


class Row(NamedTuple):
    """A setting of a world in Encore, and its library's bare loop."""

    world: str
    setting: str
    lanes: int
    ours: Callable[[], Block]
    bare: Bare


class Bare(NamedTuple):
    """Makes a loop of so many lanes, and what closes it."""

    lanes: int
    make: Callable[[], tuple[Loop, Callable[[], None]]]


def rows() -> list[Row]:
    """Every row of the table."""
    cores = os.cpu_count() or 1
    cart_pole, half_cheetah, lander, racing = (
        Bare(1, functools.partial(_gym, library, name))
        for library, name in (
            ("gym", "CartPole-v1"),
            ("gymnasium", "HalfCheetah-v5"),
            ("gymnasium", "LunarLander-v3"),
            ("gymnasium", "CarRacing-v3"),
        )
    )

    def block(name: str, lanes: int, processes: int = 0) -> Callable[[], Block]:
        return functools.partial(make_block, name, lanes, processes=processes)

    def envpool(world: str, task: str, lanes: int) -> Row:
        bare = Bare(lanes, functools.partial(_envpool, task, lanes))
        return Row(world, f"EnvPool, {task}, {lanes} lanes", lanes, block(f"envpool:{task}", lanes), bare)

    def pong(lanes: int, threads: int) -> Row:
        bare = Bare(lanes, functools.partial(_ale, lanes, threads))
        own = functools.partial(Atari, "pong", lanes, threads=threads)
        return Row("Atari", f"Pong, {lanes} lanes, {threads} threads", lanes, own, bare)

    def coinrun(threads: int) -> Row:
        bare = Bare(64, functools.partial(_procgen, 64, threads))
        own = functools.partial(Procgen, "coinrun", 64, threads=threads)
        return Row("Procgen", f"CoinRun, 64 lanes, {threads} threads", 64, own, bare)

    split = f"{cores} processes"
    return [
        *(Row("CartPole", f"gym, {n} lanes", n, block("CartPole-v1", n), cart_pole) for n in (1, 8, 64)),
        Row("CartPole", f"gym, 64 lanes, {split}", 64, block("CartPole-v1", 64, cores), cart_pole),
        envpool("CartPole", "CartPole-v1", 64),
        *(pong(lanes, threads) for lanes in (8, 16) for threads in sorted({1, cores})),
        envpool("Atari", "Pong-v5", 16),
        *(coinrun(threads) for threads in sorted({0, cores})),
        Row("MuJoCo", "HalfCheetah-v5, 8 lanes", 8, block("HalfCheetah-v5", 8), half_cheetah),
        Row("MuJoCo", f"HalfCheetah-v5, 8 lanes, {split}", 8, block("HalfCheetah-v5", 8, cores), half_cheetah),
        envpool("MuJoCo", "HalfCheetah-v4", 32),
        Row("Box2D", "LunarLander-v3, 8 lanes", 8, block("gymnasium:LunarLander-v3", 8), lander),
        Row("Box2D", "CarRacing-v3, 4 lanes", 4, block("gymnasium:CarRacing-v3", 4), racing),
        Row("Box2D", f"CarRacing-v3, 4 lanes, {split}", 4, block("gymnasium:CarRacing-v3", 4, cores), racing),
    ]


def _gym(library: str, name: str) -> tuple[Loop, Callable[[], None]]:
    """One environment of gym or gymnasium, in the loop that its documentation shows."""
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

    games: Any = AtariVectorEnv(
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
    lanes = Lanes(row.ours(), crashes=Crashes(0.001, 60.0))
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

    return loop, lanes.close


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
        bare, close_bare = row.bare.make()
        ours, close_ours = _ours(row)
        for loop, lanes in ((bare, row.bare.lanes), (ours, row.lanes)):
            _rate(loop, lanes)
        pairs = [(_rate(ours, row.lanes), _rate(bare, row.bare.lanes)) for _ in range(rounds)]
        close_bare()
        close_ours()
        own, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        yield row, own, other, statistics.median(one / two for one, two in pairs)


def main(argv: list[str]) -> int:
    """Prints the table, row by row."""
    program_flags.take(argv)
    world = flags.FLAGS.world.lower()
    chosen = [row for row in rows() if world in row.world.lower()]
    if not chosen:
        raise UserError(f"There is no world '{world}'; there are: {', '.join(sorted({r.world for r in rows()}))}.")
    print("| world | setting | Encore, steps/s | bare loop, steps/s | share |\n|---|---|---|---|---|")
    for row, own, other, share in measure(chosen, flags.FLAGS.rounds):
        print(f"| {row.world} | {row.setting} | {own:,.0f} | {other:,.0f} | {share:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    flags.DEFINE_string("world", "", "only the worlds with this in their name")
    flags.DEFINE_integer("rounds", 3, "measurements of each row, in turn with the bare loop", lower_bound=1)
    program_flags.main(main)
