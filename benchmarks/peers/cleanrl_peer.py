"""CleanRL at one of the benchmark's works; runs in an environment of its own and prints one JSON line."""

import importlib.metadata
import json
import os
import runpy
import sys
import tempfile
import time

import gymnasium


class Clock(gymnasium.Wrapper):
    """Times the steps between two marks, both after learning began."""

    def __init__(self, environment_id: str, warm_up: int, steps: int):
        super().__init__(gymnasium.make(environment_id))
        self._marks = [warm_up, warm_up + steps]
        self._count = 0
        self.times: list[float] = []

    def step(self, action):
        self._count += 1
        if self._count in self._marks:
            self.times.append(time.perf_counter())
        return self.env.step(action)


def ddpg(steps: int) -> tuple[str, list[str]]:
    """[256, 256], batch 256, one update of the critic per environment step, one of the actor every second step."""
    sizes = ["--batch-size=256", "--buffer-size=20000", "--learning-starts=500", "--policy-frequency=2"]
    return "cleanrl.ddpg_continuous_action", [*sizes, f"--total-timesteps={steps}"]


# Work: its module and arguments, its environment, and steps to warm up and to measure.
WORKS = {"ddpg": (ddpg, "Pendulum-v1", 1_000, 1_500)}


def main(work: str) -> None:
    make, environment_id, warm_up, steps = WORKS[work]
    clock = Clock(environment_id, warm_up, steps)
    gymnasium.register("Timed-v0", lambda **_: clock)
    module, arguments = make(warm_up + steps + 1)
    sys.argv = [module, "--env-id=Timed-v0", "--cuda=False", *arguments]
    os.chdir(tempfile.mkdtemp())
    runpy.run_module(module, run_name="__main__")
    speed = steps / (clock.times[1] - clock.times[0])
    versions = {name: importlib.metadata.version(name) for name in ("cleanrl", "torch")}
    print(json.dumps({"env_steps_per_s": speed, "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1])
