"""Acts in its lanes with the learner's newest weights, and writes what happens to the replay servers."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags as absl_flags

from binaries import console, flags, serving, settings
from binaries.experiment import Plan
from binaries.run_folder import as_text
from binaries.signals import STOPPED, Stop, leave
from pipeline.types import Nest, UserError
from pipeline.waiting import Stopped, Waiting
from servers.limits import MOST_ACTORS

if TYPE_CHECKING:
    import reverb

absl_flags.declare_key_flag("replay")
absl_flags.DEFINE_integer("actor_id", 0, "which of the actors this one is, from 0", lower_bound=0)
absl_flags.DEFINE_integer("num_actors", 1, "how many actors there are", lower_bound=1, upper_bound=MOST_ACTORS)

REPORT_S = 0.5
"""between two reports to the learner"""
IDLE_S = 0.1
ANSWER_S = 5


class Loop:
    """The seed's loop without its `update`: a learner elsewhere updates, and sends its weights."""

    def __init__(
        self,
        plan: Plan,
        number: int,
        count: int,
        clients: list[reverb.Client],
        watchdog: serving.Watchdog,
        stop: Stop,
    ):
        """`number`: which of `count` actors this is; it begins with the server of that number."""
        from agents.algos.algo import acting_variables, networks
        from servers.reports import Reporter
        from servers.variables import Puller

        self._experiment = experiment = plan.experiment
        self._plan = plan
        self._number = number
        self._name = f"Actor {number}"
        self._life = random.SystemRandom().randrange(1, 2**31)
        """every life of an actor explores anew"""
        self._watchdog = watchdog
        self._stop = stop
        first = number % len(clients)
        self._clients = [*clients[first:], *clients[:first]]
        params = networks(plan.algo, plan.observation_spec, plan.action_spec)
        self._puller = Puller(self._clients, acting_variables(params), self._say)
        self._reporters = [Reporter(client) for client in self._clients]
        self._waiting = Waiting(experiment.stall_timeout, self._say, stop, self._explain)
        lanes = plan.lanes * count
        places = [(number * plan.lanes + lane) / max(lanes - 1, 1) for lane in range(plan.lanes)]
        self._actor = plan.actor(params, self._clients, self._life, self._waiting, places)
        self._has_warned = False
        self._max_priority = 1.0
        self._limit = 0
        """environment steps that this life may have made"""
        self._earlier_crashes = 0
        self._reported = 0.0

    def run(self) -> None:
        """Returns when the training is done; raises Stopped where it was asked to stop, and StallError."""
        actor, environment, experiment = self._actor, self._plan.environment, self._experiment
        waiting = Waiting(experiment.startup_timeout, self._say, self._stop)
        while not self._pull():
            waiting.on(lambda: f"{self._name} waits for the learner's first weights")
            time.sleep(serving.POLL_S)
        waiting.over()
        waiting = Waiting(experiment.stall_timeout, self._say, self._stop)
        state = environment.reset(int(np.random.SeedSequence([experiment.seed, self._life]).generate_state(1)[0] >> 1))
        turns = rollouts = 0
        while not self._finished:
            if self._stop():
                raise Stopped
            self._report()
            if actor.env_steps + self._plan.lanes > self._limit:
                # The learner counts the reports, gives more, or says that it is done.
                version = self._puller.version
                time.sleep(IDLE_S)
                self._pull()
                if self._puller.version != version:
                    waiting.over()
                waiting.on(lambda: f"{self._name} waits for the learner, to be given steps to make")
                continue
            waiting.over()
            last_state = state
            action = self._act(state)
            state, reward, done = environment.step(action)
            actor.observe(last_state, action, reward, done, state, self._max_priority)
            turns += 1
            due = actor.items > rollouts if self._plan.memory.on_policy else turns % experiment.pull_period == 0
            if due:
                if self._plan.memory.on_policy:
                    self._report(at_once=True)
                rollouts = actor.items
                self._pull()

    def _act(self, state: Nest) -> Nest:
        """The actions for `state`; says once where the policy is not finite."""
        action = self._actor.act(state)
        if self._actor.not_finite and not self._has_warned:
            self._has_warned = True
            self._say(
                f"WARNING: {self._name}: what the policy says is not finite (nan or inf): it takes action 0 then."
            )
        return action

    def end(self) -> None:
        """Sends what is left, if a server still takes it."""
        for number, _ in enumerate(self._reporters):
            if self._send(number):
                break

    @property
    def _finished(self) -> bool:
        return self._puller.version is not None and self._puller.version.finished

    def _pull(self) -> bool:
        """Takes over newer weights; returns whether there are any at all."""
        before = self._puller.version
        with self._watchdog.during("asks the replay server for weights"):
            self._puller.pull()
        version = self._puller.version
        if version is not None and version != before:
            if before is not None and version.training_id != before.training_id:
                self._begin_anew()
            own = (self._number, self._life)
            _, _, counted, self._limit = next((n for n in version.limits if n[:2] == own), (*own, 0, 0))
            self._actor.run_id = version.run_id
            self._actor.weights_updates = version.updates
            self._actor.others_steps = version.env_steps - counted
            self._max_priority = version.max_priority
        return version is not None

    def _begin_anew(self) -> None:
        """What was made so far was made for another training."""
        self._life = random.SystemRandom().randrange(1, 2**31)
        self._actor.env_steps = self._actor.episodes = 0
        self._actor.finished = []
        self._earlier_crashes = self._plan.crashes.count
        self._say(f"{self._name} acts for another training from here on.")

    def _report(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._reported > REPORT_S:
            self._reported = now
            self._send(0)

    def _send(self, server: int) -> bool:
        """Tells the learner how far this actor is; returns whether it was sent."""
        from servers.reports import Report

        actor, version = self._actor, self._puller.version
        if version is None:
            return False
        report = Report(
            version.training_id,
            self._number,
            self._life,
            actor.env_steps,
            actor.episodes,
            self._plan.crashes.count - self._earlier_crashes,
            actor.weights_updates,
            actor.finished,
        )
        if not self._reporters[server].send(report):
            # The next server's turn, the next time.
            self._reporters = [*self._reporters[1:], self._reporters[0]]
            return False
        actor.finished = []
        return True

    def _say(self, line: str) -> None:
        print(line, flush=True)

    def _explain(self) -> str:
        """Why the servers take no items."""
        from servers import tables

        said = []
        for client in self._clients:
            try:
                info: Any = client.server_info(timeout=ANSWER_S)[tables.TABLE].rate_limiter_info
            except Exception:
                said.append(f"{client.server_address} does not answer")
                continue
            said.append(
                f"{client.server_address} waits for the learner, which drew {info.sample_stats.completed:,} samples and"
                f" may draw {info.samples_per_insert:g} for each of {info.insert_stats.completed:,} items"
            )
        return f" ({'; '.join(said)})"


def main(argv: list[str]) -> int:
    command = flags.parse(argv)
    number, count = absl_flags.FLAGS.actor_id, absl_flags.FLAGS.num_actors
    name = f"Actor {number}"
    # Nothing is lost with an actor, whatever it waits for.
    stop = Stop()
    stop.watch(leave(name))
    addresses = serving.addresses()
    if number >= count:
        raise UserError(f"--actor_id={number}: with --num_actors={count} it lies in [0, {count - 1}].")
    console.NativeLog()
    import tensorflow as tf

    from binaries.devices import leave_to_the_learner

    leave_to_the_learner()
    experiment = command.experiment
    tf.config.threading.set_intra_op_parallelism_threads(experiment.threads)
    settings.apply(command.settings)
    plan = Plan("local")
    watchdog = serving.Watchdog(name, experiment.stall_timeout)
    waiting = Waiting(experiment.startup_timeout, print, stop)
    try:
        clients = serving.clients(addresses, name, as_text(command.settings), waiting, watchdog)
        loop = Loop(plan, number, count, clients, watchdog, stop)
        print(
            f"{name} acts in {console.count(plan.lanes, 'lane')} of {experiment.environment} for"
            f" {','.join(addresses)}.",
            flush=True,
        )
        loop.run()
        print(f"{name}: the training is done.", flush=True)
    except Stopped:
        print(f"{name}: stopped.", flush=True)
        return STOPPED
    finally:
        plan.close()
    loop.end()
    return 0


if __name__ == "__main__":
    flags.main(main)
