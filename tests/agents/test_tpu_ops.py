"""What a TPU refuses is found, wherever in the compiled step it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.agents.tpu_ops import refused

Step = Callable[[tf.Tensor], tf.Tensor]


def traced(step: Step) -> list[str]:
    function = tf.function(step, autograph=False, jit_compile=True)
    return refused(function.get_concrete_function(tf.TensorSpec([8], tf.float32)))


def healthy(x: tf.Tensor) -> tf.Tensor:
    noise = tf.random.stateless_normal([8], (1, 2))
    body = lambda i, total: (i + 1, tf.cond(i > 2, lambda: total + noise, lambda: tf.sort(total)))  # noqa: E731
    return tf.while_loop(lambda i, _: i < 5, body, (0, x))[1]


def python(x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.py_function(lambda y: y, [x], tf.float32), [8])


def numpy(x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.numpy_function(np.negative, [x], tf.float32), [8])


def text(x: tf.Tensor) -> tf.Tensor:
    return x + tf.strings.to_number(tf.strings.join([tf.strings.as_string(x), "0"]))


def mask(x: tf.Tensor) -> tf.Tensor:
    return x + tf.reduce_sum(tf.boolean_mask(x, x > 0.0))


def unique(x: tf.Tensor) -> tf.Tensor:
    return x + tf.reduce_sum(tf.unique(x).y)


def partition(x: tf.Tensor) -> tf.Tensor:
    return x + tf.reduce_sum(tf.dynamic_partition(x, tf.cast(x > 0.0, tf.int32), 2)[0])


def printed(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.print(x)]):
        return x + 1.0


def asserted(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.assert_positive(x)]):
        return x + 1.0


def double(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(x, tf.float64) ** 2.0, tf.float32)


def sized_by_a_value(x: tf.Tensor) -> tf.Tensor:
    return x + tf.reduce_sum(tf.range(x[0]))


FAULTS: dict[str, tuple[Step, str]] = {
    "python": (python, "EagerPyFunc has no kernel"),
    "numpy": (numpy, "PyFunc has no kernel"),
    "strings": (text, "StringJoin has no kernel"),
    "boolean_mask": (mask, "tf.boolean_mask"),
    "unique": (unique, "Unique gives a shape that depends on values"),
    "dynamic_partition": (partition, "tf.dynamic_partition"),
    "print": (printed, "PrintV2 has no kernel"),
    "float64": (double, "Pow takes or gives float64"),
    "range": (sized_by_a_value, "Range gives the shape (None,)"),
}


@pytest.mark.parametrize("step", [healthy, asserted])
def test_a_healthy_step_is_let_pass(step: Step) -> None:
    assert traced(step) == []


@pytest.mark.parametrize(("step", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found(step: Step, said: str) -> None:
    assert said in " ".join(traced(step))


@pytest.mark.parametrize(("step", "said"), [FAULTS["python"], FAULTS["unique"]], ids=["python", "unique"])
def test_a_fault_is_found_in_functions_in_loops_and_branches(step: Step, said: str) -> None:
    def nested(x: tf.Tensor) -> tf.Tensor:
        inner = tf.function(step, autograph=False)
        body = lambda i, total: (i + 1, tf.cond(i > 2, lambda: inner(total), lambda: total))  # noqa: E731
        return tf.while_loop(lambda i, _: i < 5, body, (0, x))[1]

    assert said in " ".join(traced(nested))


def test_a_summary_is_found(tmp_path: Path) -> None:
    def step(x: tf.Tensor) -> tf.Tensor:
        with writer.as_default():
            tf.summary.scalar("x", x[0], step=0)
        return x + 1.0

    writer = tf.summary.create_file_writer(str(tmp_path))
    assert "WriteSummary has no kernel" in " ".join(traced(step))
    writer.close()


def test_a_batch_of_any_size_is_found() -> None:
    function = tf.function(lambda x: x + 1.0, autograph=False).get_concrete_function(tf.TensorSpec([None, 3]))
    assert "AddV2 gives the shape (None, 3)" in " ".join(refused(function))
