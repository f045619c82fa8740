"""Packing and unpacking rows changes no bit of what was packed."""

from __future__ import annotations

from typing import Any

import dm_env.specs as specs
import numpy as np
import pytest
import tensorflow as tf
import tree
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.rows import LARGE, PACKED, Rows
from pipeline.types import Nest, Step

ACTION = specs.DiscreteArray(4, np.int32)


def step_of(lanes: int, observation: Nest, action: Any = None, **changes: Any) -> Step:
    """A row of `lanes` lanes of zeros, but for what is given."""
    zeros = {
        "action": np.zeros(lanes, np.int32) if action is None else action,
        "reward": np.zeros(lanes, np.float32),
        "discount": np.zeros(lanes, np.float32),
        "first": np.zeros(lanes, bool),
        "last": np.zeros(lanes, bool),
        "extras": {},
    }
    return Step(observation=observation, **(zeros | changes))


def spec_of(arrays: Nest) -> Nest:
    return tree.map_structure(lambda a: specs.Array(a.shape[1:], a.dtype), arrays)


def round_trip(step: Step) -> tuple[Rows, Step]:
    rows = Rows(spec_of(step.observation), spec_of(step.action), spec_of(step.extras))
    columns = {name: tf.constant(column) for name, column in rows.pack(step).items()}
    unpacked: Any = tree.map_structure(lambda t: t.numpy(), rows.unpack(columns))
    return rows, unpacked


def assert_same_bits(one: Nest, other: Nest) -> None:
    tree.assert_same_structure(one, other)
    for a, b in zip(tree.flatten(one), tree.flatten(other), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    "bits",
    [0x7FC00000, 0xFFC00001, 0x7F800001, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7F7FFFFF],
    ids=["nan", "-nan", "signalling nan", "-0", "subnormal", "-subnormal", "inf", "-inf", "max"],
)
def test_special_floats_keep_their_bits(bits: int) -> None:
    value = np.full([2, 3], bits, np.uint32).view(np.float32)
    step = step_of(2, value, reward=value[:, 0], discount=value[:, 1])
    assert_same_bits(step, round_trip(step)[1])


LEAF = st.sampled_from([np.float32, np.int32, np.uint32, np.int16, np.uint16, np.int8, np.uint8, np.bool_])
SHAPE = arrays.array_shapes(min_dims=0, max_dims=3, max_side=8)


@st.composite
def leaves(draw: st.DrawFn, lanes: int) -> np.ndarray:
    """Any bits of any dtype, small and large."""
    dtype, shape = np.dtype(draw(LEAF)), (lanes, *draw(SHAPE))
    if dtype == np.bool_:
        return draw(arrays.arrays(np.bool_, shape))
    size = int(np.prod(shape)) * dtype.itemsize
    pattern = draw(st.binary(min_size=1, max_size=64))
    return np.resize(np.frombuffer(pattern, np.uint8), size).view(dtype).reshape(shape)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    lanes = draw(st.integers(1, 3))
    leaf = leaves(lanes)
    nest = st.recursive(leaf, lambda part: st.tuples(part, part) | st.dictionaries(st.text("ab", min_size=1), part))
    flags = arrays.arrays(np.bool_, lanes)
    return step_of(
        lanes,
        observation=draw(nest),
        action=draw(nest),
        first=draw(flags),
        last=draw(flags),
        extras=draw(st.dictionaries(st.text("ab", min_size=1), leaf)),
    )


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(steps())
def test_any_nest_of_any_bits_comes_back(step: Step) -> None:
    rows, unpacked = round_trip(step)
    assert_same_bits(step, unpacked)
    for name, column in rows.pack(step).items():
        spec = rows.columns()[name]
        assert (column.shape[1:], column.dtype) == (tuple(spec.shape), spec.dtype.as_numpy_dtype)


def test_strided_arrays_come_back() -> None:
    wide = np.arange(48, dtype=np.float32).reshape(4, 12)
    step = step_of(2, {"every other": wide[::2, ::3], "turned": wide.reshape(12, 4).T[:2]})
    assert_same_bits(step, round_trip(step)[1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float16])
def test_large_leaves_have_a_column_of_their_own_in_their_dtype(dtype: type) -> None:
    image = np.full([2, 16, LARGE // 16], 255, dtype)
    small = np.full([2, LARGE - 1], 254, np.uint8)
    step = step_of(2, {"image": image, "small": small})
    rows, unpacked = round_trip(step)
    columns = rows.columns()
    assert set(columns) == {PACKED, "observation/image"}
    assert columns["observation/image"].shape == image.shape[1:]
    assert columns["observation/image"].dtype == dtype
    assert columns[PACKED].shape == [LARGE - 1 + 5]  # and action, reward, discount, first, last
    assert_same_bits(step, unpacked)
    assert (unpacked.observation["image"] == 255).all()


def test_a_row_of_large_leaves_takes_its_own_bytes_only() -> None:
    rows = Rows(specs.Array((84, 84), np.uint8), ACTION, {})
    assert rows.row_bytes() == 84 * 84 + 4 * 5


def test_unpacking_keeps_leading_dimensions_and_static_shapes() -> None:
    rows = Rows({"a": specs.Array((2, 3), np.float32), "b": specs.Array((300,), np.uint8)}, ACTION, {})
    columns = {name: tf.zeros([4, 5, *spec.shape], spec.dtype) for name, spec in rows.columns().items()}
    shapes: list[Any] = []

    @tf.function
    def unpack(columns: dict[str, tf.Tensor]) -> None:
        shapes.append(tree.map_structure(lambda t: tuple(t.shape), rows.unpack(columns)))

    unpack(columns)
    assert shapes[0].observation == {"a": (4, 5, 2, 3), "b": (4, 5, 300)}
    assert shapes[0].action == shapes[0].reward == shapes[0].last == (4, 5)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint64, np.complex64])
@pytest.mark.parametrize("part", ["observation", "action", "extras"])
def test_wide_numbers_are_refused(part: str, dtype: type) -> None:
    parts: dict[str, Nest] = {"observation": specs.Array((2,), np.float32), "action": ACTION, "extras": {}}
    parts[part] = {"deep": specs.Array((2,), dtype)}
    with pytest.raises(ValueError, match=rf"{part}.*deep.*{np.dtype(dtype)}.*at most 32 bits"):
        Rows(parts["observation"], parts["action"], parts["extras"])


def test_small_floats_of_16_bits_are_refused_as_packing_would_cut_them() -> None:
    with pytest.raises(ValueError, match="float16"):
        Rows(specs.Array((2,), np.float16), ACTION, {})
