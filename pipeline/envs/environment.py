"""The Environment that agents meet: reset -> state; step -> state, reward, done."""

from __future__ import annotations

import abc
import enum
import io
import pickle
import sys
from typing import Any

import numpy as np
import tree

from pipeline.envs.guard import failure, guarded
from pipeline.envs.own import as_it_is
from pipeline.envs.states import Place, Read, reader
from pipeline.types import Nest, UserError


class Done(enum.IntEnum):
    """Whether, and how, an episode ended: false while it goes on."""

    NO = 0
    TERMINATED = 1
    """the task is over: nothing can be earned after this state"""
    TRUNCATED = 2
    """the episode was cut, by a time limit for example: the final state still has a value"""


class Environment(abc.ABC):
    """One environment. It starts the next episode by itself.

    The step after the one that ended an episode ignores its action and returns the first state of the next
    episode, with reward 0 and `Done.NO`; so the true final state is never lost, and many environments stay in step.
    """

    observation_spec: Nest
    """`dm_env.specs` of one state"""
    action_spec: Nest
    """`dm_env.specs` of one action"""
    frame_rate: float = 30.0
    """pictures a second at which it looks natural"""
    _ended = True
    _name = ""
    """for messages; '': the class's"""
    _reader: Read | None = None

    def reset(self, seed: int | None = None) -> Nest:
        """Starts an episode and returns its first state; with `seed`, all randomness starts anew."""
        self._ended = False
        try:
            return self._read(self._begin(seed))
        except Exception:
            raise
        except BaseException as error:
            raise failure(error) from error

    def step(self, action: Nest) -> tuple[Nest, Any, Any]:
        """Returns the next state, the reward (a float) and whether the episode ended with it (a `Done`)."""
        if self._ended:
            return self.reset(), 0.0, Done.NO
        try:
            state, reward, done = self._advance(action)
            state, reward = self._read(state), reward if type(reward) is float else self._number(reward)
        except Exception:
            raise
        except BaseException as error:
            raise failure(error) from error
        self._ended = bool(done)
        return state, reward, done

    def own_observation(self) -> Nest:
        """How a state of the world behind stands to ours: an `Own` for each array of `observation_spec`."""
        return tree.map_structure(as_it_is, self.observation_spec)

    def own_action(self) -> Nest:
        """The same of an action."""
        return tree.map_structure(as_it_is, self.action_spec)

    def render(self) -> np.ndarray:
        """A picture of its present state, u8 [height, width, 3]; raises UserError where it can give none."""
        raise UserError(f"{type(self).__name__} has no pictures to record.")

    def state(self) -> bytes | None:
        """All that its next steps depend on; None where that cannot be had."""
        return pickled({name: value for name, value in vars(self).items() if name != "_reader"})

    def restore(self, state: bytes) -> None:
        """Goes on from `state`, which a like environment gave."""
        vars(self).update(pickle.loads(state))

    def close(self) -> None:  # noqa: B027 most environments hold nothing
        """Frees windows and processes."""

    @abc.abstractmethod
    def _begin(self, seed: int | None) -> Nest:
        """Starts an episode."""

    @abc.abstractmethod
    def _advance(self, action: Nest) -> tuple[Nest, Any, Done]:
        """Takes one step inside an episode."""

    def _read(self, state: Nest, /) -> Nest:
        """What `_begin` or `_advance` gave, as arrays of the specs' kinds that are nobody else's; raises StateError."""
        if self._reader is None:
            self._reader = reader(self.observation_spec, Place(self._name or type(self).__name__))
        return self._reader(state)

    def _number(self, reward: Any) -> float:
        """A reward as a float; raises UserError where it is not one number."""
        try:
            return float(reward.item() if isinstance(reward, np.ndarray) else reward)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"'{self._name or type(self).__name__}' gives the reward {reward}: it must be one number, as"
                " mo_gymnasium's LinearReward makes of several."
            ) from error


def pickled(parts: Any) -> bytes | None:
    """`parts` as bytes for `pickle.loads`; None where that cannot be."""
    stream = io.BytesIO()
    try:
        with guarded():
            _Pickler(stream).dump(parts)
    except Exception:  # whatever a library's object raises that cannot be pickled
        return None
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.random.Generator):
            # gym 0.23's subclass cannot be read back with the numpy of today.
            return type(obj), (obj.bit_generator,)
        # What an environment is drawn with is no part of its state: without it, it makes another.
        pygame = sys.modules.get("pygame")
        drawing = pygame is not None and isinstance(obj, (pygame.Surface, pygame.time.Clock))
        return (type(None), ()) if drawing else NotImplemented


def action_kind(action_spec: Nest) -> str:
    """'discrete' (one of n), 'continuous' (reals), 'multi-discrete' (a vector of integers) or 'nested' (several)."""
    if tree.is_nested(action_spec):
        return "nested"
    if hasattr(action_spec, "num_values"):
        return "discrete"
    return "continuous" if np.issubdtype(action_spec.dtype, np.floating) else "multi-discrete"
