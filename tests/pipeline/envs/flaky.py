"""Environments that fail, and gym's CartPole-v1 among them: 'tests.pipeline.envs.flaky:FlakyCartPole-v0'."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from typing import Any, ClassVar

import gym
import numpy as np
from gym.envs.classic_control import CartPoleEnv

from pipeline.envs.environment import Done
from pipeline.envs.scripted import Scripted


def serve(pipe: Connection) -> None:
    """Answers every word."""
    while True:
        pipe.send(pipe.recv())


class Flaky(Scripted):
    """Endless episodes; each step does what `Flaky.plan` says next: 'ok' or a kind of failure. Rewards are 1."""

    plan: ClassVar[list[str]] = []
    made = 0

    def __init__(self) -> None:
        super().__init__((10**9,), (True,))
        Flaky.made += 1

    def _advance(self, action: Any) -> tuple[Any, float, Done]:
        state, _, done = super()._advance(action)
        return fail(Flaky.plan.pop(0) if Flaky.plan else "ok", state), 1.0, done


def fail(kind: str, state: np.ndarray) -> np.ndarray:
    """Does what `kind` says; gives `state` back where it is 'ok'."""
    if kind == "raise":
        raise RuntimeError("the simulator fell over")
    if kind == "hang":
        time.sleep(30)
    if kind == "nan":
        return state * np.nan
    if kind == "dead":
        here, there = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=serve, args=(there,), daemon=True)
        process.start()
        there.close()
        process.kill()
        here.send("state")
        here.recv()
    return state


class FlakyCartPole(CartPoleEnv):
    """CartPole that fails now and then, in every way."""

    generator = np.random.default_rng(int(os.environ.get("FLAKY_SEED", "0")))

    def step(self, action: Any) -> Any:
        state, reward, done, info = super().step(action)
        if self.generator.random() < 0.01:
            state = fail(str(self.generator.choice(["raise", "nan", "hang"], p=[0.5, 0.45, 0.05])), state)
        return state, reward, done, info


gym.register("FlakyCartPole-v0", entry_point=FlakyCartPole, max_episode_steps=500)
