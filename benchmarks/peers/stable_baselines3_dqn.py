"""Stable-Baselines3's DQN on CartPole-v1; runs in an environment of its own and prints one JSON line.

The work of `dqn_cartpole_uniform`: [64, 64], batch 64, one update per environment step, uniform replay.
"""

import json
import sys
import time

import gymnasium
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback


class Clock(BaseCallback):
    """Times the steps between two marks, both after learning began."""

    def __init__(self, warm_up: int, steps: int):
        super().__init__()
        self.marks = (warm_up, warm_up + steps)
        self.times: list[float] = []

    def _on_step(self) -> bool:
        if self.num_timesteps in self.marks:
            self.times.append(time.perf_counter())
        return len(self.times) < 2


def main(warm_up: int, steps: int) -> None:
    clock = Clock(warm_up, steps)
    model = stable_baselines3.DQN(
        "MlpPolicy",
        gymnasium.make("CartPole-v1"),
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
    model.learn(10 * (warm_up + steps), callback=clock)
    speed = steps / (clock.times[1] - clock.times[0])
    versions = {"stable-baselines3": stable_baselines3.__version__, "torch": torch.__version__}
    print(json.dumps({"env_steps_per_s": speed, "versions": versions}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
