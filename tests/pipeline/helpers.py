"""Scripted experience, written by the actor to a real Reverb server, beside the rows that it must consist of."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import dm_env.specs as specs
import numpy as np
import reverb
import tensorflow as tf

from agents.actor import Actor
from agents.learner import STAMPS
from pipeline.dataset import dataset
from pipeline.envs.block import InProcess
from pipeline.envs.lanes import Lanes
from pipeline.envs.scripted import Scripted
from pipeline.rows import Rows
from pipeline.types import Data
from pipeline.waiting import Waiting
from pipeline.writer import RolloutWriter, Writer
from servers import tables
from servers.memory.memory import Memory
from servers.memory.queue import Queue
from tests.limits import LIMIT_S

LANE = "lane"
"""a row extra: the lane that wrote it"""


class Script(NamedTuple):
    """What one lane plays, again and again."""

    lengths: tuple[int, ...]
    truncated: tuple[bool, ...]


SCRIPTS = (
    Script((2, 1), (False, True)),
    Script((1, 3), (True, False)),
    Script((4,), (False,)),
)


class Row(NamedTuple):
    """One row of one lane, as plain numbers."""

    lane: int
    episode: int
    step: int
    action: int
    reward: float
    discount: float
    first: bool
    last: bool

    def __str__(self) -> str:
        """'a12': lane a, episode 1, step 2; a LAST row has a star."""
        return f"{chr(ord('a') + self.lane)}{self.episode:.0f}{self.step:.0f}{'*' if self.last else ''}"


Window = list[Row]


class Item(NamedTuple):
    """What a table holds."""

    key: int
    priority: float
    windows: list[Window]
    """one, or one a lane"""


class BlockQueue(Queue):
    """A queue of windows, so that what a replay stores can be read in order."""

    on_policy = False

    def items(self, data: Data, lanes: int) -> int:
        return Memory.items(self, data, lanes)


class LaneQueue(BlockQueue):
    """The same of lanes' own windows, as prioritized memory stores them."""

    blocks = False


class Ones:
    """A policy that takes action 1."""

    calls = 0

    def __init__(self, lanes: int):
        self._lanes = np.arange(lanes, dtype=np.int32)

    def __call__(
        self, observation: np.ndarray, first: np.ndarray, env_steps: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return np.ones(len(observation), np.int32), {LANE: self._lanes}

    def core(self) -> tuple[()]:
        return ()

    def set_core(self, core: tuple[()]) -> None:
        assert core == ()


class Stream:
    """Lanes, actor and writer, connected to a server."""

    def __init__(
        self,
        serve: Callable[[reverb.Table], reverb.Server],
        memory: Memory,
        scripts: Sequence[Script] = SCRIPTS,
        *,
        n: int = 1,
        period: int = 1,
        batch_size: int = 6,
        size: int = 600,
        whole_episodes: bool = False,
        servers: int = 1,
    ):
        lanes = len(scripts)
        self.memory = memory
        self.data = Data("", n + 1, batch_size, size, min_size=1, period=period, whole_episodes=whole_episodes)
        self.lanes = Lanes(InProcess([partial(Scripted, *script) for script in scripts]), together=whole_episodes)
        extras = {name: specs.Array((), np.int32) for name in (LANE, *STAMPS)}
        self.rows = Rows(self.lanes.observation_spec, self.lanes.action_spec, extras)
        self.signature = tables.signature(self.rows, n + 1, lanes if memory.blocks else None)
        self.servers = [serve(self.table()) for _ in range(servers)]
        self.server = self.servers[0]
        self.addresses = [f"localhost:{server.port}" for server in self.servers]
        self.clients = [reverb.Client(address) for address in self.addresses]
        self.client = self.clients[0]
        self._scripts, self._n, self._period = scripts, n, period
        self._start()
        self._state = self.lanes.reset(0)

    def table(self) -> reverb.Table:
        """A new table, of one server."""
        return self.memory.table(tables.TABLE, self.data, len(self.lanes), self.signature)

    def _start(self) -> None:
        """Makes what a process holds that acts."""
        lanes = len(self._scripts)
        self.lanes = Lanes(
            InProcess([partial(Scripted, *script) for script in self._scripts]), together=self.data.whole_episodes
        )
        if self.memory.on_policy:
            self.writer = RolloutWriter(self.clients, tables.TABLE, self.rows, lanes, self._n + 1)
        else:
            self.writer = Writer(
                self.clients, tables.TABLE, self.rows, lanes, self._n + 1, self._period, self.memory.blocks
            )
        policy: Any = Ones(lanes)
        self.actor = Actor(policy, self.writer, self.lanes.action_spec, lanes, self.data)

    def resume(self) -> None:
        """Goes on with new lanes, actor and writer, from the state of those before: what a new process does."""
        self.actor.flush()
        saved = pickle.dumps((self.lanes.state(), self.actor.counters(), self.actor.state()))
        self.writer.close()
        self._start()
        lanes, counters, acting = pickle.loads(saved)
        self.lanes.restore(lanes)
        self.actor.count_from(counters)
        self._state = self.actor.restore(acting)

    def write(self, count: int, priorities: Sequence[float] | None = None, flush: bool = True) -> None:
        """Writes `count` rows of every lane; with `flush` the server holds their windows when it returns."""
        for priority in priorities or [1.0] * count:
            last_state, action = self._state, self.actor.act(self._state)
            self._state, reward, done = self.lanes.step(action)
            self.actor.observe(last_state, action, reward, done, self._state, priority)
        if flush:
            self.actor.flush()

    def give_up_after(self, seconds: float) -> None:
        """How long the writer waits from now on for a server that takes nothing."""
        self.writer._streams._waiting = Waiting(seconds)

    def draws(
        self, batches: int = 2, replicas: int = 1, timeout_ms: int = int(1000 * LIMIT_S), **several: Any
    ) -> tf.data.Dataset:
        """The dataset of the table; it ends where nothing comes for `timeout_ms`."""
        return dataset(
            self.addresses,
            tables.TABLE,
            self.rows,
            self.data,
            self.memory,
            lanes=len(self.lanes),
            signature=self.signature,
            batches=batches,
            replicas=replicas,
            timeout_ms=timeout_ms,
            **several,
        )

    def table_size(self, server: int = 0) -> int:
        """Items in the table."""
        return self.clients[server].server_info()[tables.TABLE].current_size

    def items(self, server: int = 0) -> list[Item]:
        """As many samples as there are items: a queue gives each of them once, in order."""
        size = self.table_size(server)
        if size == 0:
            return []
        samples: Any = list(
            self.clients[server].sample(tables.TABLE, size, emit_timesteps=False, unpack_as_table_signature=True)
        )
        columns = {name: np.stack([s.data[name] for s in samples]) for name in self.signature}
        if self.memory.blocks:  # [items, T + 1, E, ...] -> [items * E, T + 1, ...]
            columns = {name: np.concatenate(np.swapaxes(column, 1, 2)) for name, column in columns.items()}
        flat = windows(self.rows.unpack({name: tf.constant(column) for name, column in columns.items()}))
        each = len(flat) // size
        return [
            Item(int(s.info.key), float(s.info.priority), flat[i * each : (i + 1) * each])
            for i, s in enumerate(samples)
        ]

    def contents(self) -> list[Item]:
        """The distinct items of a replay, however often it must be sampled to see them all."""
        seen: dict[int, Item] = {}
        while len(seen) < self.table_size():
            seen |= {item.key: item for item in self.items()}
        return list(seen.values())

    def stored(self, server: int = 0) -> list[list[Window]]:
        """Takes all items out of a queue: the windows of each."""
        return [item.windows for item in self.items(server)]


def windows(steps: Any) -> list[Window]:
    """The windows in a `Step` of tensors [B, T + 1, ...]."""
    episode, step = np.moveaxis(np.asarray(steps.observation), -1, 0)
    parts = [steps.extras[LANE], episode, step, steps.action, steps.reward, steps.discount, steps.first, steps.last]
    leaves = [np.asarray(part).tolist() for part in parts]
    return [[Row(*row) for row in zip(*window, strict=True)] for window in zip(*leaves, strict=True)]


def expected_rows(script: Script, lane: int) -> Iterator[Row]:
    """The rows of a lane, episode by episode: an episode's steps, then one row of its true final observation."""
    for episode, (length, truncated) in enumerate(itertools.cycle(zip(*script, strict=True))):
        for step in range(length):
            terminates = step == length - 1 and not truncated
            yield Row(lane, episode, step, 1, step + 1.0, 0.0 if terminates else 1.0, step == 0, False)
        yield Row(lane, episode, length, 0, 0.0, 1.0, False, True)


def expected_items(scripts: Sequence[Script], n: int, period: int, count: int, blocks: bool) -> list[list[Window]]:
    """The items that `count` rows of every lane make."""
    rows = [list(itertools.islice(expected_rows(script, lane), count)) for lane, script in enumerate(scripts)]
    items = []
    for start in range(0, count - n, period):
        block = [lane[start : start + n + 1] for lane in rows]
        items += [block] if blocks else [[window] for window in block if not window[0].last]
    return items


def text(items: list[list[Window]]) -> list[str]:
    """Items as text: 'a00 a01 | b00 b01*'."""
    return [" | ".join(" ".join(map(str, window)) for window in item) for item in items]
