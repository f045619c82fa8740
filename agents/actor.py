"""Batched acting, and the rows it leaves behind."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import dm_env.specs as specs
import numpy as np
import tensorflow as tf
import tree

from agents.algos.algo import Algo
from agents.finite import witness
from agents.learner import AGE, RUN_ID, STAMPS, WEIGHTS
from pipeline.envs.environment import Done
from pipeline.rows import Rows
from pipeline.types import Data, Nest, Params, Step
from pipeline.writer import RolloutWriter, Writer

_COUNTERS = ("env_steps", "episodes")
LATEST = 32
"""steps of all lanes whose states and actions are kept to be shown"""
_UNDER_WAY = ("finished", "_rows", "_extras", "_state", "_first", "_ended", "_returns", "_lengths")


def make_rows(algo: Algo, observation_spec: Nest, action_spec: Nest) -> Rows:
    """The layout of the rows that an `Actor` of this algorithm writes."""
    stamps = {name: specs.Array((), np.int32) for name in STAMPS}
    return Rows(observation_spec, action_spec, {**algo.extras_spec(observation_spec, action_spec), **stamps})


class Policy:
    """`Algo.select_action`, compiled for E lanes; one call serves them all."""

    def __init__(
        self,
        algo: Algo,
        params: Params,
        observation_spec: Nest,
        lanes: int,
        seed: int,
        training: bool,
        places: Sequence[float] | None = None,
    ):
        """`places` [E]: see `Algo.initial_core`; without them these are all lanes there are."""
        self._lanes = lanes
        self._seed = seed
        spread = np.linspace(0, 1, lanes) if places is None else np.array(places)
        self._core = algo.initial_core(params, spread.astype(np.float32))
        self.calls = 0
        """part of the random state: every call has a seed of its own"""
        self.not_finite = 0
        """calls in which an action, or what it was chosen from, was not finite"""

        self._initial = self._core
        self._recurrent = bool(tree.flatten(self._core))

        def act(observation: Nest, clock: tf.Tensor, core: Nest) -> tuple[Nest, Nest]:
            now = params._replace(env_steps=clock[2])
            action, extras, core = algo.select_action(now, observation, core, clock[:2], training)
            return (action, extras, witness((action, extras))), core

        batched = tree.map_structure(lambda spec: tf.TensorSpec([lanes, *spec.shape], spec.dtype), observation_spec)
        core = tree.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), self._core)
        self._function = tf.function(act, autograph=False).get_concrete_function(
            batched, tf.TensorSpec([3], tf.int32), core
        )
        zero: Any = tf.constant(0)
        self._tensor, self._device = type(zero), zero.device
        self._captured = list(self._function.captured_inputs)
        self._dtypes = [output.dtype for output in self._function.outputs]
        self._results, _ = self._function.structured_outputs
        self._count = len(tree.flatten(self._results))

    def __call__(self, observation: Nest, first: np.ndarray, env_steps: int) -> tuple[Nest, dict[str, np.ndarray]]:
        """Arrays [E, ...] -> actions [E, ...] and extras [E, ...], at `env_steps` environment steps.

        `first` [E] bool: lanes whose episode begins here. Where anything is not finite (`not_finite`), all actions
        are 0, which every environment takes, and extras are NaN, which nothing is learnt from.
        """
        self.calls += 1
        if self._recurrent and first.any():
            choose = lambda new, old: tf.where(first.reshape(-1, *[1] * (old.shape.rank - 1)), new, old)  # noqa: E731
            self._core = tree.map_structure(_lean, tree.map_structure(choose, self._initial, self._core))
        clock = np.array([self._seed, self.calls, env_steps], np.int32)
        arrays = [*tree.flatten(observation), clock]
        # What `tf.constant` comes to, and six times as fast.
        tensors = [_lean(self._tensor(array, self._device, None)) for array in arrays]
        inputs = [*tensors, *tree.flatten(self._core), *self._captured]
        # The function's own call spends four fifths of its time on gradients that nobody asks for.
        outputs: Any = tf.raw_ops.StatefulPartitionedCall(args=inputs, Tout=self._dtypes, f=self._function)
        outputs = [_lean(output) for output in outputs]
        if self._recurrent:
            self._core = tree.unflatten_as(self._core, outputs[self._count :])
        results: Any = tree.unflatten_as(self._results, [output.numpy() for output in outputs[: self._count]])
        action, extras, seen = results
        if math.isfinite(seen):
            return action, extras
        self.not_finite += 1
        nothing: Any = tree.map_structure(np.zeros_like, action), tree.map_structure(_nan_like, extras)
        return nothing

    def core(self) -> Nest:
        """What the lanes remember, as arrays [E, ...]."""
        return tree.map_structure(lambda leaf: leaf.numpy(), self._core)

    def set_core(self, core: Nest) -> None:
        """Takes over what `core` gave."""
        self._core = tree.map_structure(tf.constant, core)


class Actor:
    """Acts in E lanes and writes their rows: the seed's `act` and `observe`, for arrays [E, ...].

    With a `RolloutWriter` it ends a rollout after `data.window - 1` rows, or with `data.whole_episodes` as soon as all
    lanes ended; the window's final row is the state after them, where the next rollout begins.
    """

    def __init__(self, policy: Policy, writer: Writer | RolloutWriter, action_spec: Nest, lanes: int, data: Data):
        self._policy = policy
        self._writer = writer
        self._action_spec = action_spec
        self._lanes = lanes
        self._data = data
        self._rows = 0
        """written, of the rollout under way"""
        self._extras: dict[str, np.ndarray] = {}
        self._state: Nest = None
        self._first = np.ones(lanes, bool)
        self._ended = np.zeros(lanes, bool)
        self._returns = np.zeros(lanes)
        self._lengths = np.zeros(lanes, int)
        self.run_id = 0
        """of the learner's life that made the weights"""
        self.weights_updates = 0
        """updates that made them"""
        self.others_steps = 0
        """environment steps of other actors, as far as known"""
        self.env_steps = 0
        """of this actor"""
        self.episodes = 0
        self._earlier_items = 0
        """written before this process began"""
        self.finished: list[tuple[float, int]] = []
        """return and length of the episodes that ended since someone emptied this list"""
        self.latest: collections.deque[tuple[Nest, Nest]] = collections.deque(maxlen=LATEST)
        """states [E, ...] and the actions [E, ...] that were taken in them"""

    @property
    def not_finite(self) -> int:
        """See `Policy.not_finite`."""
        return self._policy.not_finite

    @property
    def items(self) -> int:
        """Items written to the replay so far: windows, or blocks of them, or rollouts."""
        return self._earlier_items + self._writer.items

    def act(self, observation: Nest) -> Nest:
        """The actions [E, ...] for states [E, ...]."""
        first = np.ones(self._lanes, bool) if self._was_reset(observation) else self._first
        action, self._extras = self._policy(observation, first, self.env_steps + self.others_steps)
        return action

    def observe(self, last_state: Nest, action: Nest, reward: Any, done: Any, state: Nest, priority: float) -> None:
        """Writes the row of `last_state`; all arrays are [E, ...], `done` holds values of `Done`.

        The call after a lane's episode ended writes its LAST row: environments spend that step on their reset, or wait
        (and keep saying done) until all lanes ended. A `last_state` that does not follow from the call before means
        that the environments were reset by hand: the episodes under way are cut there, as truncated.
        """
        if self._was_reset(last_state):
            self._cut(priority)
        live = ~self._ended
        reward = np.where(live, reward, 0).astype(np.float32)
        self.latest.append((last_state, action))
        rollouts = isinstance(self._writer, RolloutWriter)
        # A rollout that would begin with LAST rows alone begins with the next.
        if not rollouts or self._rows or live.any():
            self._write(last_state, action, reward, self._ended | (done != Done.TERMINATED), self._ended, priority)
            self._rows += 1
        self._state = state
        ended = done != Done.NO
        self._first = self._ended & ~ended
        self._ended = ended
        self.env_steps += int(np.count_nonzero(live))
        self._returns += reward
        self._lengths += live
        for lane in np.flatnonzero(live & ended):
            self.finished.append((float(self._returns[lane]), int(self._lengths[lane])))
            self.episodes += 1
            self._returns[lane], self._lengths[lane] = 0, 0
        if rollouts and (
            self._rows == self._data.window - 1 or (self._data.whole_episodes and self._rows and ended.all())
        ):
            self._write_state(state, ended, priority)
            self._end_rollout()

    def cut(self, priority: float) -> None:
        """Ends the episodes under way, as truncated: the next `act` meets the first states of others."""
        if self._state is not None:
            self._cut(priority)
            self._state = None

    def flush(self) -> None:
        """Returns once the server holds all that was written; raises StallError where it does not answer."""
        self._writer.flush()

    def counters(self) -> dict[str, int]:
        """What a resumed run needs at least; its lanes then start with new episodes."""
        own = {name: getattr(self, name) for name in _COUNTERS}
        return {**own, "items": self.items, "policy_calls": self._policy.calls}

    def count_from(self, counters: dict[str, int]) -> None:
        """Takes over `counters`."""
        for name in _COUNTERS:
            setattr(self, name, counters[name])
        self._earlier_items = counters["items"] - self._writer.items
        self._policy.calls = counters["policy_calls"]

    def state(self) -> dict[str, Any]:
        """The episodes under way and the rows that no item holds yet; picklable."""
        own = {name: getattr(self, name) for name in _UNDER_WAY}
        return {"own": own, "core": self._policy.core(), "writer": self._writer.state()}

    def restore(self, state: dict[str, Any]) -> Nest:
        """Goes on from `state`, with environments that go on too; returns the states [E, ...] to act in."""
        for name, value in state["own"].items():
            setattr(self, name, value)
        self._policy.set_core(state["core"])
        self._writer.restore(state["writer"])
        return self._state

    def _stamps(self) -> dict[str, np.ndarray]:
        values = {AGE: self.env_steps + self.others_steps, RUN_ID: self.run_id, WEIGHTS: self.weights_updates}
        return {name: np.full(self._lanes, value, np.int32) for name, value in values.items()}

    def _was_reset(self, state: Nest) -> bool:
        """Whether the environments were reset by hand since `observe`."""
        return self._state is not None and state is not self._state and not _same(state, self._state)

    def _cut(self, priority: float) -> None:
        """Writes the LAST row of every lane."""
        ended = np.ones(self._lanes, bool)
        if self._rows:
            self._write_state(self._state, ended, priority)
            self._end_rollout()
        self._first, self._ended = ended, ~ended
        self._returns[:], self._lengths[:] = 0, 0

    def _end_rollout(self) -> None:
        if isinstance(self._writer, RolloutWriter):
            self._rows = 0
            self._writer.end()

    def _write_state(self, state: Nest, last: np.ndarray, priority: float) -> None:
        """Writes a row that holds a state only."""
        action = tree.map_structure(lambda s: np.zeros([self._lanes, *s.shape], s.dtype), self._action_spec)
        self._write(state, action, np.zeros(self._lanes, np.float32), np.ones(self._lanes, bool), last, priority)

    def _write(
        self,
        observation: Nest,
        action: Nest,
        reward: np.ndarray,
        goes_on: np.ndarray,
        last: np.ndarray,
        priority: float,
    ) -> None:
        if last.any():
            action = tree.map_structure(lambda a: np.where(last.reshape(-1, *[1] * (a.ndim - 1)), 0, a), action)
        step = Step(
            observation=observation,
            action=tree.map_structure(lambda a, s: a.astype(s.dtype, copy=False), action, self._action_spec),
            reward=reward,
            discount=goes_on.astype(np.float32),
            first=self._first,
            last=last,
            extras={**self._extras, **self._stamps()},
        )
        self._writer.append(step, priority)


def _lean(tensor: tf.Tensor) -> tf.Tensor:
    """Frees a tensor's attributes now: TensorFlow 2.15 under Python 3.11 never does, 48 bytes of each tensor's."""
    del tensor.__dict__
    return tensor


def _nan_like(leaf: np.ndarray) -> np.ndarray:
    return np.full_like(leaf, np.nan) if leaf.dtype.kind == "f" else leaf


def _same(one: Nest, other: Nest) -> bool:
    return all(map(np.array_equal, tree.flatten(one), tree.flatten(other)))
