"""What a run consists of, and how its parts are put together. Imports TensorFlow only to build."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gin

from pipeline.checks import check_positive
from pipeline.types import UserError

if TYPE_CHECKING:
    import reverb
    import tensorflow as tf

    from agents.agent import Agent
    from agents.algos.algo import Algo
    from agents.evaluator import Evaluator
    from agents.learner import Learner
    from pipeline.envs.crashes import Crashes
    from pipeline.envs.environment import Environment
    from pipeline.envs.lanes import Lanes
    from pipeline.envs.recorder import Videos

SAMPLE_TIMEOUT_MS = 60_000
EVALUATION_LANES = 100
RECORDED_LANES = 4
"""of the evaluation at the end where it is recorded: each has an encoder of its own"""


@gin.register
@dataclasses.dataclass(frozen=True)
class Experiment:
    """The settings of a run that belong to no part of it. Steps are environment steps."""

    environment: str = ""
    """a name that pipeline/envs/make.py knows"""
    algo: str = ""
    """a name of agents/algos"""
    lanes: int = 8
    """environments stepped together"""
    train_steps: int = 50_000
    """of the whole training, which ends before a step of all lanes would go past them"""
    seed: int = 0
    """of parameters, actions and environments; replay through Reverb cannot be seeded"""
    eval_period: int = 5_000
    """steps between two evaluations"""
    eval_episodes: int = 20
    """of each evaluation during training"""
    test_episodes: int = 100
    """of the evaluation at the end"""
    eval_policy: str = "greedy"
    """how evaluations act: 'greedy', or 'sampled' as in training"""
    log_period: int = 1_000
    """steps between two points in TensorBoard"""
    distribution_period: int = 10_000
    """steps between two histograms in TensorBoard"""
    checkpoint_period: float = 60.0
    """seconds between two checkpoints; one is also written with every best evaluation, and at the end"""
    kept_checkpoints: int = 3
    """the newest ones; the best is kept beside them"""
    stop_when_unsaved: bool = False
    """whether a checkpoint that cannot be written, on a full disk for example, ends the run"""
    crash_rate: float = 0.001
    """failures of environments an environment step that are borne; more of them end the run"""
    step_timeout: float = 60.0
    """seconds after which a step of all lanes counts as failed"""
    record_period: int = 50
    """with --record_video: episodes of the first lane from one video to the next in training"""
    video_codec: str = "libx264"
    """of the videos, ffmpeg's name; browsers play H.264"""
    threads: int = 1
    """that share one TensorFlow operation: small networks lose more by handing work over than they win"""

    def __post_init__(self) -> None:
        numbers = {k: v for k, v in dataclasses.asdict(self).items() if type(v) in (int, float) and k != "seed"}
        check_positive("Experiment", **numbers)
        if not 0 <= self.seed < 2**31:
            raise UserError(f"Experiment.seed is {self.seed}: it must lie in [0, {2**31}).")
        if self.eval_policy not in ("greedy", "sampled"):
            raise UserError(f"Experiment.eval_policy is '{self.eval_policy}': it must be 'greedy' or 'sampled'.")

    @property
    def eval_seed(self) -> int:
        """Of the evaluations during training."""
        return self.seed + 1_000_000

    @property
    def test_seed(self) -> int:
        """Of the evaluation at the end."""
        return self.seed + 2_000_000


@dataclasses.dataclass(frozen=True)
class Parts:
    """A run's parts, put together and ready."""

    experiment: Experiment
    algo: Algo
    environment: Lanes | Environment
    crashes: Crashes
    server: reverb.Server
    client: reverb.Client
    agent: Agent
    evaluator: Evaluator
    tester: Evaluator

    def checkpoint(self) -> tf.train.Checkpoint:
        """The learner's state."""
        return self.agent.learner.checkpoint()

    def close(self) -> None:
        """Ends environments and server."""
        self.environment.close()
        self.server.stop()


class Plan:
    """An experiment whose classes are imported and whose settings are valid, before anything is started or written."""

    def __init__(
        self, sys: str, tpu: str = "", single: bool = False, videos: Videos | None = None, window: bool = False
    ):
        """`sys`, `tpu`: where to learn, as the flags say. Everything else comes from gin.

        `videos`: where the first lane's episodes and those of the evaluation at the end are recorded. With `window`
        they are shown instead. With `single`, agent and environment are made for the seed's loop by hand: one
        environment, whose states and actions have no leading dimension.
        """
        from agents.actor import make_rows
        from agents.algos.registry import ALGOS
        from agents.learner import make_strategy
        from pipeline.dataset import check_divides
        from pipeline.envs.crashes import Crashes
        from pipeline.envs.recorder import check_pictures
        from servers import tables
        from servers.memory.registry import MEMORIES

        self.experiment = experiment = gin.get_configurable(Experiment)()
        self.algo = ALGOS.get(experiment.algo)()
        self.data = self.algo.data()
        self.memory = MEMORIES.get(self.data.memory)()
        self.strategy = make_strategy(sys, tpu)
        self.single = single
        self.lanes = 1 if single else experiment.lanes
        self._videos = videos
        self._window = window
        self.crashes = Crashes(experiment.crash_rate, experiment.step_timeout)
        if videos is not None or window:
            check_pictures(self._maker("human" if window else "rgb_array"), window)
        self.environment = self._training_environment()
        self.algo.check(self.environment.observation_spec, self.environment.action_spec)
        self.rows = make_rows(self.algo, self.environment.observation_spec, self.environment.action_spec)
        check_divides(self.data, self.memory, self.lanes, self.strategy.num_replicas_in_sync)
        self.replay_bytes = tables.budget(self.data, self.memory, self.rows, self.lanes)
        tables.check_budget(self.replay_bytes)

    def _maker(self, render_mode: str | None = None) -> Callable[[], Environment]:
        from pipeline.envs.make import make

        return functools.partial(make, self.experiment.environment, render_mode)

    def _seen(self, part: str, lane: int, lanes: int, period: int) -> Callable[[], Environment]:
        """The maker of an environment that is recorded or shown, where the run asks for it."""
        from pipeline.envs.recorder import Recorder

        if self._videos is not None:
            return functools.partial(Recorder, self._maker("rgb_array"), self._videos, part, lane, lanes, period)
        return self._maker("human" if self._window else None)

    def _training_environment(self) -> Lanes | Environment:
        from pipeline.envs.lanes import Lanes

        if self.single:
            return self._maker()()
        first = self._seen("train", 0, 1, self.experiment.record_period)
        return Lanes([first, *[self._maker()] * (self.lanes - 1)], self.data.whole_episodes, self.crashes)

    def _evaluation_lanes(self, episodes: int, seen: bool) -> Lanes:
        from pipeline.envs.lanes import Lanes

        makers = [self._maker()] * min(episodes, EVALUATION_LANES)
        if seen and self._window:
            makers = [self._seen("test", 0, 1, 1)]
        elif seen and self._videos is not None:
            # So that no round is left with lanes that have no episode of their own to play.
            count = max(n for n in range(1, RECORDED_LANES + 1) if episodes % n == 0)
            makers = [self._seen("test", lane, count, 1) for lane in range(count)]
        return Lanes(makers, together=True, crashes=self.crashes)

    @property
    def windows(self) -> int:
        """Windows in one item of the table."""
        return self.lanes if self.memory.blocks else 1

    @property
    def rollout_steps(self) -> int:
        """Steps of all lanes in one rollout, at most."""
        return self.lanes * (self.data.window - 1)

    def signature(self) -> dict[str, tf.TensorSpec]:
        """The columns of one item of the replay table."""
        from servers import tables

        return tables.signature(self.rows, self.data.window, self.lanes if self.memory.blocks else None)

    def learner(self, address: str) -> Learner:
        """A learner that reads from the replay server at `address` ('host:port')."""
        import tensorflow as tf

        from agents.learner import Learner
        from pipeline.dataset import dataset
        from servers import tables

        def make_dataset(batches: int, replicas: int) -> tf.data.Dataset:
            return dataset(
                address,
                tables.TABLE,
                self.rows,
                self.data,
                self.memory,
                lanes=self.lanes,
                signature=self.signature(),
                batches=batches,
                replicas=replicas,
                timeout_ms=SAMPLE_TIMEOUT_MS,
            )

        experiment = self.experiment
        tf.keras.utils.set_random_seed(experiment.seed)
        learner = gin.get_configurable(Learner)(
            self.algo,
            self.memory,
            self.strategy,
            self.environment.observation_spec,
            self.environment.action_spec,
            experiment.train_steps,
            experiment.seed,
        )
        learner.connect(make_dataset, address, tables.TABLE)
        return learner

    def build(self, scratch: Path, port: int | None = None, replay: Path | None = None) -> Parts:
        """Starts the Reverb server (with the contents of `replay`) and puts the parts together.

        `scratch`: a folder for Reverb's own checkpoints.
        """
        import reverb

        from agents.actor import Actor, Policy
        from agents.agent import Agent
        from agents.evaluator import Evaluator
        from pipeline.writer import RolloutWriter, Writer
        from servers import tables

        experiment, algo, data, memory, lanes = self.experiment, self.algo, self.data, self.memory, self.lanes
        table = memory.table(tables.TABLE, data, lanes, self.signature())
        server = tables.serve(table, scratch, replay, port)
        address = f"localhost:{server.port}"
        learner = self.learner(address)
        client = reverb.Client(address)
        if memory.on_policy:
            writer = RolloutWriter(client, tables.TABLE, self.rows, lanes, data.window)
        else:
            writer = Writer(client, tables.TABLE, self.rows, lanes, data.window, data.period, blocks=memory.blocks)
        observation_spec, action_spec = self.environment.observation_spec, self.environment.action_spec
        policy = Policy(algo, learner.params, observation_spec, lanes, experiment.seed, training=True)
        actor = Actor(policy, writer, action_spec, lanes, data)
        agent = Agent(algo, actor, learner, None if self.single else lanes)

        if self._videos is not None:
            self._videos.env_steps = lambda: actor.env_steps

        def evaluator(episodes: int, seed: int, seen: bool) -> Evaluator:
            lanes = self._evaluation_lanes(episodes, seen)
            return Evaluator(algo, learner.params, lanes, episodes, seed, experiment.eval_policy == "greedy")

        return Parts(
            experiment,
            algo,
            self.environment,
            self.crashes,
            server,
            client,
            agent,
            evaluator=evaluator(experiment.eval_episodes, experiment.eval_seed, seen=False),
            tester=evaluator(experiment.test_episodes, experiment.test_seed, seen=True),
        )
