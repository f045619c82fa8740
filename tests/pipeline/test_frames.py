"""Stacks of frames: each frame is stored once, and what is learnt from is what was acted on."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
import reverb
import tensorflow as tf

from pipeline.dataset import dataset
from pipeline.envs.block import InProcess
from pipeline.envs.environment import Done, Environment
from pipeline.envs.lanes import Lanes
from pipeline.envs.wrappers.frames import FrameStack
from pipeline.frames import Frames
from pipeline.rows import Rows, restack
from pipeline.types import Data, Step
from pipeline.writer import RolloutWriter, Writer
from servers import tables
from servers.memory.memory import Memory
from servers.memory.prioritized import Prioritized
from servers.memory.queue import Queue
from servers.memory.uniform import Uniform
from tests.limits import LIMIT_S

SHAPE = (18, 18, 1)
"""large enough for a column of its own"""
LANES = 2
FRAMES = 4
STEPS = 60
WINDOW = 6


class Numbered(Environment):
    """Every picture shows a number of its own; episodes have 1, 2, 5 and 9 steps in turn."""

    numbers = 0

    def __init__(self) -> None:
        self.observation_spec = specs.BoundedArray(SHAPE, np.uint8, 0, 255)
        self.action_spec = specs.DiscreteArray(2, np.int32)
        self._episode = -1

    def _begin(self, seed: int | None) -> np.ndarray:
        self._episode += 1
        self._left = (1, 2, 5, 9)[self._episode % 4]
        return self._picture()

    def _advance(self, action: Any) -> tuple[np.ndarray, float, Done]:
        self._left -= 1
        return self._picture(), 1.0, Done.NO if self._left else Done.TERMINATED

    def _picture(self) -> np.ndarray:
        Numbered.numbers += 1
        return np.full(SHAPE, Numbered.numbers, np.uint8)


def stacked() -> Environment:
    return FrameStack(Numbered(), FRAMES)


def rows_of(lanes: Lanes) -> Rows:
    return Rows(lanes.observation_spec, lanes.action_spec, {})


def see(seen: dict[int, np.ndarray], state: np.ndarray) -> None:
    seen.update({int(stack[-1, 0, 0, 0]): stack[:, 0, 0, 0].copy() for stack in state})


def play(writer: Any, lanes: Lanes, steps: int) -> dict[int, np.ndarray]:
    """Writes `steps` rows; returns the number of every frame in each stack that there was, by that of its newest."""
    state, ended = lanes.reset(0), np.zeros(LANES, bool)
    first, seen = np.ones(LANES, bool), dict[int, np.ndarray]()
    see(seen, state)
    for row in range(1, steps + 1):
        action = np.zeros(LANES, np.int32)
        before = state
        state, reward, done = lanes.step(action)
        one = np.ones(LANES, np.float32)
        writer.append(Step(before, action, reward, one, first, ended, {}))
        see(seen, state)
        first, ended = ended & (done == Done.NO), done != Done.NO
        if isinstance(writer, RolloutWriter) and row % (WINDOW - 1) == 0:
            writer.append(Step(state, action, reward, one, first, ended, {}))
            writer.end()
    writer.flush()
    return seen


@pytest.mark.parametrize("memory", [Uniform(), Prioritized(), Queue()], ids=["blocks", "windows", "rollouts"])
def test_stacks_come_back_as_they_were_acted_on(memory: Memory, serve: Callable[[reverb.Table], reverb.Server]) -> None:
    Numbered.numbers = 0
    lanes = Lanes(InProcess([stacked] * LANES))
    rows = rows_of(lanes)
    data = Data("", WINDOW, 2, 1_000, 1)
    blocks = LANES if memory.blocks else None
    signature = tables.signature(rows, WINDOW, blocks)
    server = serve(memory.table("experience", data, LANES, signature))
    client = reverb.Client(f"localhost:{server.port}")
    if memory.on_policy:
        writer: Any = RolloutWriter([client], "experience", rows, LANES, WINDOW)
    else:
        writer = Writer([client], "experience", rows, LANES, WINDOW, 1, memory.blocks)
    seen = play(writer, lanes, STEPS)
    draws = dataset(
        [f"localhost:{server.port}"], "experience", rows, data, memory,
        lanes=LANES, signature=signature, batches=1, replicas=1, timeout_ms=int(1000 * LIMIT_S),
    )  # fmt: skip
    starts = set()
    for draw in draws.take(STEPS // (WINDOW - 1) if memory.on_policy else 300):
        steps: Any = tf.nest.map_structure(lambda leaf: leaf[0], draw.steps)
        windows = restack(steps, lanes.observation_spec)
        assert windows.observation.shape[1:] == (WINDOW, FRAMES, *SHAPE)
        assert windows.reward.shape[1] == WINDOW
        stacks = windows.observation.numpy()[..., 0, 0, 0]
        for window, last in zip(stacks, windows.last.numpy(), strict=True):
            starts.add(window[0, -1])
            for stack in window:
                np.testing.assert_array_equal(stack, seen[stack[-1]])
            assert memory.blocks or not last[0]
    # The first row starts a window too, and so does every row after it but those at the very end.
    assert 1 in starts
    if not memory.on_policy:
        wanted = {number for number in seen if number <= Numbered.numbers - 2 * LANES * WINDOW}
        assert len(wanted - starts) < len(wanted) / 4


def test_a_frame_is_stored_once() -> None:
    lanes = Lanes(InProcess([stacked] * LANES))
    assert rows_of(lanes).row_bytes() < 2 * np.prod(SHAPE)
    assert rows_of(lanes).history == FRAMES - 1


def test_an_episodes_first_frame_stands_for_those_before() -> None:
    environment = stacked()
    first = environment.reset(0)
    assert len(np.unique(first)) == 1
    state, _, _ = environment.step(0)
    newest = state[:, 0, 0, 0].tolist()
    assert newest[:3] == [newest[0]] * 3
    assert newest[3] == newest[0] + 1


def test_a_spec_of_frames_survives_pickling() -> None:
    spec = Frames(specs.BoundedArray((2, 2, 1), np.uint8, 0, 255), 3)
    again = pickle.loads(pickle.dumps(spec))
    assert (again.shape, again.one.shape, again.dtype) == ((3, 2, 2, 1), (2, 2, 1), np.uint8)


def test_a_capacity_of_100_000_allocates_what_100_000_need() -> None:
    """Frames once, whatever the stack and the number of steps of a return; items of all lanes together."""
    lanes = Lanes(InProcess([stacked] * 8))
    rows = rows_of(lanes)
    frames = 100_000 * rows.row_bytes()
    for window in (2, 6):
        data = Data("uniform", window, 32, 100_000, 1)
        assert Uniform().items(data, 8) * 8 == 100_000
        assert frames <= tables.budget(data, Uniform(), rows, 8) < 2 * frames
