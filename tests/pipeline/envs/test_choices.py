"""Actions of integers: every value of the space is reached from outputs that count from 0, or they are refused."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
from gymnasium import spaces

from pipeline.envs.choices import MOST
from pipeline.envs.dm import DmEnvironment
from pipeline.envs.environment import Done, Environment, action_kind
from pipeline.envs.make import make
from pipeline.envs.spaces import actions
from pipeline.types import UserError

WIDE = np.iinfo(np.int64)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-2, 2, (1,), np.int64),
        spaces.Box(0, 255, (1,), np.uint8),
        spaces.Box(-128, 127, (2,), np.int8),
        spaces.Box(np.array([3, -7]), np.array([4, -5]), dtype=np.int32),
        spaces.Box(WIDE.min, WIDE.min + 2, (1,), np.int64),
        spaces.Box(2**64 - 4, 2**64 - 1, (1,), np.uint64),
        spaces.Box(10, 12, (), np.int16),
        spaces.Box(-1, 1, (2, 2), np.int32),
        spaces.Box(0, 1, (2,), np.bool_),  # pyright: ignore[reportArgumentType]
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, -1], [0, 9]])),
        spaces.MultiBinary([2, 2]),
        spaces.Discrete(3, start=-1),
    ],
    ids=str,
)
def test_every_value_is_reached_and_counts_from_0(space: Any) -> None:
    spec, own, write = actions(space, "mine")
    assert spec.dtype == np.int32
    assert np.all(spec.minimum == 0)
    first, last = (np.broadcast_to(bound, spec.shape).astype(np.int32) for bound in (spec.minimum, spec.maximum))
    reached = [write(action) for action in (first, last)]
    assert all(space.contains(action) for action in reached)
    if isinstance(space, spaces.Box):
        assert [action.dtype for action in reached] == [space.dtype] * 2
        np.testing.assert_array_equal(reached, [space.low, space.high])
    widest = int(last.max())
    assert len({str(write(np.minimum(last, value))) for value in range(widest + 1)}) == widest + 1
    assert action_kind(spec) == ("discrete" if space.shape == () else "multi-discrete")
    assert own.dtype == space.dtype


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(WIDE.min, WIDE.max, (1,), np.int64),
        spaces.Box(0, 2**64 - 1, (1,), np.uint64),
        spaces.Box(0, 2**32 - 1, (1,), np.uint32),
        spaces.Box(0, 255, (84, 84), np.uint8),
        spaces.Discrete(2**40),
        spaces.MultiDiscrete([MOST, 2]),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, MOST, (1,), np.int32)),
    ],
    ids=str,
)
def test_ranges_that_no_network_can_have_outputs_for_are_refused(space: Any) -> None:
    with pytest.raises(
        UserError, match=r"'mine' has actions of [\d,]+ integer values in all.*at most 65,536 are served"
    ):
        actions(space, "mine")


def test_a_dm_environments_range_is_refused_too() -> None:
    from tests.pipeline.envs.test_dm import World

    with pytest.raises(UserError, match="'World' has actions of 4,294,967,296 integer values"):
        DmEnvironment(World(action_spec=specs.BoundedArray((1,), np.int32, -(2**31), 2**31 - 1)))


class Mine(Environment):
    """An environment of one's own."""

    observation_spec = specs.Array((1,), np.float32)
    action_spec: Any = None

    def _begin(self, seed: int | None) -> Any:
        return np.zeros(1, np.float32)

    def _advance(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, Done.NO


@pytest.mark.parametrize(
    ("action_spec", "said"),
    [
        (specs.BoundedArray((1,), np.int32, -2, 2), "do not count from 0"),
        (specs.Array((1,), np.int32), "without bounds"),
        (specs.BoundedArray((1,), np.int32, 0, 10**6), "1,000,001 integer values"),
        ({"a": specs.DiscreteArray(10**6)}, "1,000,000 integer values"),
    ],
)
def test_an_environment_of_ones_own_is_told_what_its_actions_lack(
    action_spec: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mine, "action_spec", action_spec)
    with pytest.raises(UserError, match=f"'{__name__}:Mine' has actions of .*{said}"):
        make(f"{__name__}:Mine")


def test_an_environment_of_ones_own_has_states_of_at_most_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mine, "action_spec", specs.DiscreteArray(2))
    for dtype in (np.float64, np.float16, np.int64, np.dtype("U3")):
        monkeypatch.setattr(Mine, "observation_spec", {"a": specs.Array((1,), dtype)})
        with pytest.raises(
            UserError, match=r"has the observation_spec\['a'\] .*: use np.float32, or integers of at most"
        ):
            make(f"{__name__}:Mine")
