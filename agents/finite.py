"""Whether parameters, and the numbers that actions are chosen from, are finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tree

from pipeline.types import Nest

LINEAR = ("BatchMatMulV2", "BiasAdd", "Conv2D", "Einsum", "MatMul")
"""operations that a layer's output is made by"""


def are_finite(tensors: Iterable[Any]) -> tf.Tensor:
    """[] bool: whether all numbers of `tensors` or variables are finite; whole ones always are."""
    floats = [tensor for tensor in tensors if tensor.dtype.is_floating]
    parts = [tf.reduce_all(tf.math.is_finite(tensor)) for tensor in floats]
    return tf.reduce_all(parts)


def witness(results: Nest) -> tf.Tensor:
    """[] f32, not finite where a number of `results`, tensors of a graph, is not, or of what they were chosen from.

    That are the outputs of the last layers that they were computed from. An action that is the largest of some values
    looks sound where the values are not. It is a sum, which costs acting less than a look at each number.
    """
    found, seen = list(tree.flatten(results)), set()
    waiting = [tensor.op for tensor in found]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen:
            continue
        seen.add(operation.name)
        if operation.type in LINEAR:
            found += operation.outputs
        else:
            waiting += [tensor.op for tensor in operation.inputs]
    floats = {id(tensor): tensor for tensor in found if tensor.dtype.is_floating}.values()
    sums = [tf.cast(tf.reduce_sum(tensor), tf.float32) for tensor in floats]
    return tf.add_n(sums) if sums else tf.constant(0.0)
