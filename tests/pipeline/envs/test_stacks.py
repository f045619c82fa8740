"""Stacks of frames are the same where they are acted on and where they are learnt from, in every world that stacks."""

from __future__ import annotations

from typing import Any

import gin
import numpy as np
import pytest
import tensorflow as tf

from pipeline.envs.envpool import EnvPool
from pipeline.envs.lanes import Lanes
from pipeline.envs.make import make_block
from pipeline.envs.registry import ENVIRONMENTS
from pipeline.frames import history
from pipeline.rows import restack
from pipeline.types import Step

LANES = 3
STEPS = 400
LIVES = {"episodic_life": True, "use_fire_reset": True, "stack_num": 4}
WORLDS = {
    "atari:breakout": {"Atari.life_loss_ends": True, "Atari.fire_at_start": True},
    "atari:pong": {"Atari.max_frames": 160},
    "envpool:Breakout-v5": {"EnvPool.options": LIVES},
    "envpool:Pong-v5": {"EnvPool.options": {"max_episode_steps": 40, "stack_num": 3}},
    "tests.pipeline.test_frames:Numbered": {},
}


@pytest.fixture(autouse=True)
def bindings() -> Any:
    for name in ("atari", "envpool"):
        ENVIRONMENTS.load(name)
    yield
    gin.clear_config()


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("world", WORLDS)
def test_what_is_acted_on_is_what_is_learnt_from(world: str, together: bool) -> None:
    for name, value in WORLDS[world].items():
        gin.bind_parameter(name, value)
    wrappers = () if ":" in world and world.split(":")[0] in ("atari", "envpool") else ("frame_stack",)
    lanes = Lanes(make_block(world, LANES, wrappers=wrappers), together=together)
    spec: Any = lanes.observation_spec
    random = np.random.default_rng(0)
    states, firsts, waits = [lanes.reset(0)], [np.ones(LANES, bool)], [np.zeros(LANES, bool)]
    ended = np.zeros(LANES, bool)
    for _ in range(STEPS):
        state, _, done = lanes.step(random.integers(0, lanes.action_spec.num_values, LANES).astype(np.int32))
        states.append(state)
        firsts.append(ended & (done == 0))
        # A lane that waits for the others repeats its final state, which nothing is learnt from.
        waits.append(ended & (done != 0))
        ended = done != 0
    lanes.close()
    acted = np.stack(states, axis=1)  # [E, T, frames, ...]
    first = np.stack(firsts, axis=1)
    assert first[:, 1:].any(axis=1).all(), "Episodes begin in every lane."
    # As rows hold them: the newest frame of each state, behind a history of repetitions.
    newest = np.concatenate([acted[:, :1, -1]] * history(spec) + [acted[:, :, -1]], axis=1)
    begins = np.concatenate([np.zeros([LANES, history(spec)], bool), first], axis=1)
    rows = np.zeros(begins.shape, np.float32)
    learnt: Any = restack(Step(tf.constant(newest), rows, rows, rows, tf.constant(begins), rows, ()), spec)
    counts = ~np.stack(waits, axis=1)
    np.testing.assert_array_equal(learnt.observation.numpy()[counts], acted[counts])


def test_a_task_that_stacks_says_so() -> None:
    block = EnvPool("Pong-v5", 2, options={"stack_num": 2})
    assert block.observation_spec.shape == (2, 84, 84, 1)
    block.close()
