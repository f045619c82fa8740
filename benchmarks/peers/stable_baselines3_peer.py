"""Stable-Baselines3 at one of the benchmark's works; runs in an environment of its own and prints one JSON line."""

import json
import sys
import time

import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


def dqn():
    """[64, 64], batch 64, one update per environment step, uniform replay."""
    return stable_baselines3.DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 1),
        learning_rate=5e-4,
        buffer_size=50_000,
        learning_starts=1_000,
        batch_size=64,
        train_freq=1,
        gradient_steps=1,
        target_update_interval=200,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )


def ppo(lanes: int, steps: int):
    """[64, 64], 4 epochs, minibatches of 256."""
    return stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", lanes),
        n_steps=steps,
        batch_size=256,
        n_epochs=4,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
    )


def ppo_zoo(seed: int):
    """The settings of RL Baselines3 Zoo for CartPole-v1."""
    return stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 8, seed=seed),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=seed,
        device="cpu",
    )


def ddpg():
    """[256, 256], batch 256, one update per environment step."""
    return stable_baselines3.DDPG(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", 1),
        learning_rate=1e-3,
        buffer_size=20_000,
        learning_starts=500,
        batch_size=256,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
    )


# Work: its model, and steps to warm up and to measure.
WORKS = {
    "dqn": (dqn, 2_000, 4_000),
    "ppo_8_lanes": (lambda: ppo(8, 128), 8 * 128 * 4, 8 * 128 * 40),
    "ppo_64_lanes": (lambda: ppo(64, 32), 64 * 32 * 4, 64 * 32 * 40),
    "ddpg": (ddpg, 1_000, 1_500),
}


class Clock(BaseCallback):
    """Times the steps between two marks, both after learning began."""

    def __init__(self, warm_up: int, steps: int):
        super().__init__()
        self._marks = [warm_up, warm_up + steps]
        self.times: list[float] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._marks[len(self.times)]:
            self.times.append(time.perf_counter())
        return len(self.times) < 2


class Target(BaseCallback):
    """Stops where the mean of the last 20 training returns reaches a target."""

    def __init__(self, target: float):
        super().__init__()
        self._target = target
        self._returns: list[float] = []
        self.seconds: float | None = None

    def _on_training_start(self) -> None:
        self._begin = time.perf_counter()

    def _on_step(self) -> bool:
        self._returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        if len(self._returns) >= 20 and sum(self._returns[-20:]) >= 20 * self._target:
            self.seconds = time.perf_counter() - self._begin
        return self.seconds is None


def speed(work: str) -> dict:
    """Environment steps a second."""
    make, warm_up, steps = WORKS[work]
    clock = Clock(warm_up, steps)
    make().learn(10 * (warm_up + steps), callback=clock)
    return {"env_steps_per_s": steps / (clock.times[1] - clock.times[0])}


def time_to(target: float, seed: int) -> dict:
    """Seconds until PPO reaches `target` in CartPole-v1; null where it does not within 100,000 steps."""
    callback = Target(target)
    model = ppo_zoo(seed).learn(100_000, callback=callback)
    return {"seconds": callback.seconds, "env_steps": model.num_timesteps}


if __name__ == "__main__":
    work, *arguments = sys.argv[1:]
    result = time_to(float(arguments[0]), int(arguments[1])) if work == "ppo_zoo" else speed(work)
    versions = {"stable-baselines3": stable_baselines3.__version__, "torch": torch.__version__}
    print(json.dumps({**result, "versions": versions}))
