"""What a run consists of, and how its parts are put together. Imports TensorFlow only to build."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gin

from pipeline import index
from pipeline.checks import check_positive
from pipeline.types import UserError

if TYPE_CHECKING:
    import reverb
    import tensorflow as tf

    from agents.actor import Actor
    from agents.agent import Agent
    from agents.algos.algo import Algo
    from agents.evaluator import Evaluator, FirstSeen
    from agents.learner import Learner
    from pipeline.dataset import Shares
    from pipeline.envs.block import Block
    from pipeline.envs.crashes import Crashes
    from pipeline.envs.environment import Environment
    from pipeline.envs.lanes import Lanes
    from pipeline.envs.recorder import Videos
    from pipeline.types import Data, Params
    from pipeline.waiting import Waiting
    from servers.memory.memory import Ratio

SAMPLE_TIMEOUT_MS = 60_000
SLACK_DRAWS = 8
"""the learner's draws that actors in processes of their own may be ahead of it"""
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
    wrappers: tuple[str, ...] = ()
    """names of pipeline/envs/wrappers around each environment, the innermost first"""
    lanes: int = 8
    """environments stepped together"""
    env_processes: int = 0
    """processes that the lanes are spread over, for environments whose step is costly; 0: they are in this one"""
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
    eval_lanes: int = 100
    """environments that an evaluation steps together, at most"""
    eval_episode_steps: int = 27_000
    """after which an evaluation cuts an episode, whose return counts as far as it went; Atari's games end there too"""
    exclusive_environment: bool = False
    """whether only one environment may exist at a time (a port, a licence): evaluations close training's, and its
    episode, and make it anew"""
    eval_policy: str = "greedy"
    """how evaluations act: 'greedy', or 'sampled' as in training"""
    log_period: int = 1_000
    """steps between two points in TensorBoard"""
    distribution_period: int = 10_000
    """steps between two histograms in TensorBoard"""
    checkpoint_period: float = 60.0
    """seconds between two checkpoints; one is also written at the end"""
    kept_checkpoints: int = 3
    """the newest ones; the network of the best evaluation is kept beside them"""
    stop_when_unsaved: bool = False
    """whether a checkpoint that cannot be written, on a full disk for example, ends the run"""
    crash_rate: float = 0.001
    """failures of environments an environment step that are borne; more of them end the run"""
    step_timeout: float = 60.0
    """seconds after which a step of all lanes counts as failed"""
    publish_period: int = 100
    """in processes of their own: updates between two publications of the weights; a queue's come after every call"""
    pull_period: int = 10
    """in processes of their own: steps of all lanes after which an actor asks for newer weights"""
    replay_checkpoint_period: float = 60.0
    """seconds between two checkpoints of a replay server that is a process of its own"""
    startup_timeout: float = 600.0
    """seconds that a process may wait for the others at the beginning"""
    stall_timeout: float = 300.0
    """seconds that a process may wait for the others later on; then it ends, and says who waited for whom"""
    record_period: int = 50
    """with --record_video: episodes of the first lane from one video to the next in training"""
    video_codec: str = "libx264"
    """of the videos, ffmpeg's name; browsers play H.264"""
    threads: int = 1
    """that share one TensorFlow operation: small networks lose more by handing work over than they win"""

    def __post_init__(self) -> None:
        numbers = {k: v for k, v in dataclasses.asdict(self).items() if type(v) in (int, float)}
        may_be_zero = ("seed", "env_processes")
        check_positive("Experiment", **{k: v for k, v in numbers.items() if k not in may_be_zero})
        if self.env_processes < 0:
            raise UserError(f"Experiment.env_processes is {self.env_processes}: it must not be negative.")
        if self.train_steps < self.lanes:
            raise UserError(
                f"Experiment.train_steps is {self.train_steps}, and one step of all {self.lanes} environments is"
                f" {self.lanes} steps: train for more, or make Experiment.lanes smaller."
            )
        if self.exclusive_environment and self.lanes > 1:
            raise UserError(
                f"Experiment.exclusive_environment allows one environment and Experiment.lanes is {self.lanes}: set"
                " Experiment.lanes=1."
            )
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

    plan: Plan
    experiment: Experiment
    algo: Algo
    environment: Lanes | Environment
    crashes: Crashes
    server: reverb.Server
    client: reverb.Client
    agent: Agent
    evaluators: dict[str, Evaluator | FirstSeen]
    testers: dict[str, Evaluator | FirstSeen]
    scratch: Path

    def close(self) -> None:
        """Ends environments and server."""
        self.plan.close()
        self.server.stop()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Plan:
    """An experiment whose classes are imported and whose settings are valid, before anything is started or written."""

    def __init__(
        self,
        sys: str,
        tpu: str = "",
        single: bool = False,
        videos: Videos | None = None,
        window: bool = False,
        acts: bool = True,
        stop: Callable[[], bool] = lambda: False,
        seen_episodes: int | None = None,
    ):
        """`sys`, `tpu`: where to learn, as the flags say. Everything else comes from gin.

        `acts`: whether the process acts in training's environments; else it holds none once it knows their specs.
        `stop`: whether the process was asked to stop, which evaluations hear. `videos`: where the first lane's episodes
        and the first `seen_episodes` (None: all) of the evaluation at the end are recorded. With `window` they are
        shown instead. With `single`, agent and environment are made for the seed's loop by hand: one environment, whose
        states and actions have no leading dimension.
        """
        from agents.actor import make_rows
        from agents.algos.registry import ALGOS
        from agents.learner import make_strategy
        from pipeline.dataset import check_divides
        from pipeline.envs import generators
        from pipeline.envs.closing import close
        from pipeline.envs.crashes import Crashes
        from pipeline.envs.recorder import check_pictures
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
        self._seen_episodes = seen_episodes
        self._stop = stop
        self._opened: list[Lanes | Environment | Evaluator] = []
        """to be closed"""
        self.crashes = Crashes(experiment.crash_rate, experiment.step_timeout)
        # Environments may draw from them as soon as they are made.
        generators.seed(experiment.seed)
        if self.seen:
            check_pictures(self._maker(True, "human" if window else "rgb_array"), window)
        one = self.environment if acts else self._maker(True)()
        self.observation_spec, self.action_spec = one.observation_spec, one.action_spec
        if not acts:
            close(one)
        try:
            self.algo.check(self.observation_spec, self.action_spec)
            self.rows = make_rows(self.algo, self.observation_spec, self.action_spec)
            check_divides(self.data, self.memory, self.lanes, self.strategy.num_replicas_in_sync)
        except UserError:
            self.close()
            raise

    @property
    def seen(self) -> bool:
        """Whether somebody sees episodes: as videos, or in a window."""
        return self._videos is not None or self._window

    @functools.cached_property
    def environment(self) -> Lanes | Environment:
        """Training's environments."""
        from pipeline.envs.lanes import Lanes

        made = (
            self._maker(True)()
            if self.single
            else Lanes(self._training_block(), self.data.whole_episodes, self.crashes)
        )
        self._opened.append(made)
        return made

    def renew_environment(self) -> None:
        """Makes training's environments anew after they were closed; they begin with a reset."""
        assert not self.single
        self.environment.replace(self._training_block())  # pyright: ignore[reportAttributeAccessIssue]

    def close(self) -> None:
        """Closes every environment that was made; what goes wrong in it is said."""
        from pipeline.envs.closing import close

        for opened in self._opened:
            close(opened)
        self._opened.clear()

    def _maker(self, training: bool, render_mode: str | None = None) -> Callable[[], Environment]:
        from pipeline.envs.make import make

        experiment = self.experiment
        return functools.partial(make, experiment.environment, render_mode, training, experiment.wrappers)

    def _block(self, lanes: int, training: bool) -> Block:
        """Lanes that nobody looks at; those of evaluations hear that the process was asked to stop."""
        from pipeline.envs.make import make_block

        experiment = self.experiment
        return make_block(
            experiment.environment,
            lanes,
            training,
            experiment.wrappers,
            experiment.env_processes if training else 0,
            experiment.step_timeout,
            None if training else self._stop,
        )

    def _seen(self, part: str, lane: int, lanes: int, period: int, training: bool) -> Callable[[], Environment]:
        """The maker of an environment that is recorded or shown."""
        from pipeline.envs.recorder import Recorder

        if self._videos is None:
            return self._maker(training, "human")
        maker = self._maker(training, "rgb_array")
        return functools.partial(Recorder, maker, self._videos, part, lane, lanes, period)

    def _training_block(self) -> Block:
        from pipeline.envs.block import InProcess

        if not self.seen:
            return self._block(self.lanes, True)
        first = self._seen("train", 0, 1, self.experiment.record_period, True)
        return InProcess([first, *[self._maker(True)] * (self.lanes - 1)])

    def _check_evaluation(self) -> None:
        """Raises UserError where an evaluation's environment cannot be made beside training's."""
        from pipeline.envs.block import ONE_ONLY
        from pipeline.envs.closing import close, told

        try:
            close(self._maker(False)())
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"An environment for evaluations cannot be made beside training's ({told(error)}). {ONE_ONLY}"
            ) from error

    def _evaluation_lanes(self, episodes: int, seen: bool, training_levels: bool) -> Lanes:
        from pipeline.envs.block import InProcess
        from pipeline.envs.lanes import Lanes

        experiment = self.experiment
        most = 1 if experiment.exclusive_environment else experiment.eval_lanes
        if not seen:
            block = self._block(min(episodes, most), training_levels)
        else:
            # So that no round is left with lanes that have no episode of their own to play.
            most = 1 if self._videos is None else min(most, RECORDED_LANES)
            count = max(n for n in range(1, most + 1) if episodes % n == 0)
            makers = [self._seen("test", lane, count, 1, training_levels) for lane in range(count)]
            block = InProcess(makers, self._stop)
        return Lanes(block, together=True, crashes=self.crashes)

    def budget(self, servers: int = 0) -> int:
        """Resident bytes that the replay is expected to take in one of `servers` programs of their own; 0: in this one.

        In this one what is learnt from a rollout counts too.
        """
        from servers import tables

        replicas = None if servers else self.strategy.num_replicas_in_sync
        return tables.budget(self._part(servers), self.memory, self.rows, self.lanes, replicas)

    def _check_budget(self, servers: int = 0) -> None:
        """Raises UserError where there is too little memory for it, with the setting that it grows with."""
        from servers import tables

        tables.check_budget(self.budget(servers), *self._size_setting())

    def _part(self, servers: int) -> Data:
        """What one of `servers` replay servers holds of the data; all of it where they are no programs of their own."""
        return self.data._replace(size=max(1, self.data.size // max(1, servers)))

    def _size_setting(self) -> tuple[str, int]:
        """The setting that the replay grows with, and its value."""
        algo = next(entry for entry in index.scan("agents.algos") if entry.name == self.experiment.algo)
        steps = self.data.window - 1
        of_rollouts = {"rollout_length": steps, "longest_episode": steps}
        names = of_rollouts if self.memory.on_policy else {"replay_size": self.data.size}
        for name, value in names.items():
            if name in algo.parameters:
                return f"{algo.class_name}.{name}", value
        # An algorithm of somebody's own.
        if self.memory.on_policy:
            return "Experiment.lanes", self.lanes
        return f"the size in {algo.class_name}.data", self.data.size

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

    def learner(self) -> Learner:
        """A learner that reads from nowhere yet: see `connect`."""
        import tensorflow as tf

        from agents.learner import Learner

        experiment = self.experiment
        tf.keras.utils.set_random_seed(experiment.seed)
        return gin.get_configurable(Learner)(
            self.algo,
            self.memory,
            self.strategy,
            self.observation_spec,
            self.action_spec,
            experiment.train_steps,
            experiment.seed,
        )

    def connect(
        self,
        learner: Learner,
        addresses: Sequence[str],
        alive: Sequence[int] = (0,),
        shares: Shares | None = None,
        inline: bool = False,
    ) -> None:
        """Lets `learner` read from the replay servers at `addresses` ('host:port'); see `pipeline.dataset.dataset`."""

        from pipeline.dataset import dataset
        from servers import tables

        def make_dataset(batches: int, replicas: int) -> tf.data.Dataset:
            return dataset(
                addresses,
                tables.TABLE,
                self.rows,
                self.data,
                self.memory,
                lanes=self.lanes,
                signature=self.signature(),
                batches=batches,
                replicas=replicas,
                timeout_ms=SAMPLE_TIMEOUT_MS,
                alive=alive,
                shares=shares,
                inline=inline,
            )

        learner.connect(make_dataset, addresses, tables.TABLE)

    def items_per_draw(self, learner: Learner) -> float:
        """Items that one call of `learner` takes from the tables."""
        return learner.windows_per_draw / (1 if self.memory.on_policy else self.windows)

    def ratio(self, learner: Learner) -> Ratio:
        """How much is learnt from what comes in, where actors and learner are processes of their own; in items."""
        from servers.memory.memory import Ratio

        drawn = self.items_per_draw(learner)
        if self.memory.on_policy:
            return Ratio(1.0, 0.0, drawn)
        steps = self.windows * self.data.period
        return Ratio(learner.samples_per_insert() * self.data.period, self.data.min_size / steps, SLACK_DRAWS * drawn)

    def tables(self, learner: Learner, servers: int) -> list[reverb.Table]:
        """The tables of one of `servers` replay servers that are processes of their own."""
        from agents.algos.algo import acting_variables
        from servers import identity, reports, tables, variables

        self._check_budget(servers)
        ratio = self.ratio(learner)
        ratio = ratio._replace(min_items=ratio.min_items / servers)
        return [
            self.memory.table(tables.TABLE, self._part(servers), self.lanes, self.signature(), ratio),
            variables.table(acting_variables(learner.params)),
            reports.table(),
            *identity.tables(),
        ]

    def actor(
        self,
        params: Params,
        clients: Sequence[reverb.Client],
        seed: int,
        waiting: Waiting | None = None,
        places: Sequence[float] | None = None,
    ) -> Actor:
        """An actor of the training's lanes that acts with `params` and writes to the servers of `clients`.

        `places`: of each lane among all of the training's, in [0, 1]; evenly spread where they are not given.
        """
        from agents.actor import Actor, Policy
        from pipeline.writer import RolloutWriter, Writer
        from servers import tables

        data, lanes, table = self.data, self.lanes, tables.TABLE
        if self.memory.on_policy:
            writer = RolloutWriter(clients, table, self.rows, lanes, data.window, waiting)
        else:
            writer = Writer(
                clients, table, self.rows, lanes, data.window, data.period, self.memory.blocks, waiting=waiting
            )
        policy = Policy(self.algo, params, self.observation_spec, lanes, seed, training=True, places=places)
        return Actor(policy, writer, self.action_spec, lanes, data)

    def evaluators(self, params: Params, kind: str) -> dict[str, Evaluator | FirstSeen]:
        """By the name of its results, what plays the episodes of `kind`, 'eval' or 'test', in environments of its own.

        They are made when they are needed. Those of the test are recorded or shown if the run asks for it. A world that
        holds levels out from training has a second evaluation, of the levels that are trained on.
        """
        from agents.evaluator import Evaluator, FirstSeen
        from pipeline.envs.make import has_held_out

        experiment, test = self.experiment, kind == "test"
        episodes = experiment.test_episodes if test else experiment.eval_episodes
        seed = experiment.test_seed if test else experiment.eval_seed

        def evaluator(training_levels: bool, first: int, count: int, seen: bool) -> Evaluator:
            made = Evaluator(
                self.algo,
                params,
                functools.partial(self._evaluation_lanes, count, seen, training_levels),
                count,
                seed,
                greedy=experiment.eval_policy == "greedy",
                episode_steps=experiment.eval_episode_steps,
                keep_lanes=not experiment.exclusive_environment,
                first=first,
            )
            self._opened.append(made)
            return made

        seen = episodes if self._seen_episodes is None else min(episodes, self._seen_episodes)
        if not test or not self.seen:
            counts = evaluator(False, 0, episodes, False)
        elif seen == episodes:
            counts = evaluator(False, 0, episodes, True)
        else:
            counts = FirstSeen(evaluator(False, 0, seen, True), evaluator(False, seen, episodes - seen, False))
        held_out = has_held_out(experiment.environment)
        trained = {f"{kind}/training_levels": evaluator(True, 0, episodes, False)} if held_out else {}
        # The one that counts comes last, in what is said and in results.jsonl.
        return {**trained, kind: counts}

    def build(self, scratch: Path, port: int | None = None, replay: Path | None = None) -> Parts:
        """Starts the Reverb server (with the contents of `replay`) and puts the parts together.

        `scratch`: a folder for Reverb's own checkpoints.
        """
        import reverb

        from agents.agent import Agent
        from servers import tables

        self._check_budget()
        experiment = self.experiment
        if not experiment.exclusive_environment and not self.single:
            self._check_evaluation()
        table = self.memory.table(tables.TABLE, self.data, self.lanes, self.signature())
        server = tables.serve([table], scratch, replay, port)
        address = f"localhost:{server.port}"
        learner = self.learner()
        self.connect(learner, [address], inline=True)
        client = reverb.Client(address)
        actor = self.actor(learner.params, [client], experiment.seed)
        if self._videos is not None:
            self._videos.env_steps = lambda: actor.env_steps
        return Parts(
            self,
            experiment,
            self.algo,
            self.environment,
            self.crashes,
            server,
            client,
            Agent(self.algo, actor, learner, None if self.single else self.lanes),
            evaluators=self.evaluators(learner.params, "eval"),
            testers=self.evaluators(learner.params, "test"),
            scratch=scratch,
        )
