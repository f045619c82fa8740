"""What of a compiled step a TPU would refuse: operations, types and shapes, by two sources that can be looked up.

A TPU runs what XLA compiles. TensorFlow's bridge to XLA has one table of kernels for all its devices: the TPU's filter
lets every one of them pass (`TpuOpFilter` in tensorflow/core/tpu/tpu_node_device_util.cc). The table is read from the
TensorFlow that is installed, under the name of the device that it serves without a TPU. `TYPES` and `REFUSED` are what
the table does not say: https://cloud.google.com/tpu/docs/tensorflow-ops, read in November 2026.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import kernels

XLA_DEVICE = "XLA_CPU_JIT"
TYPES = frozenset(["bfloat16", "bool", "complex64", "float32", "int32", "int64", "uint32", "uint64"])
"""that graph operators take on a Cloud TPU"""
STORED = frozenset(["int8", "uint8"])
"""types of pictures: a TPU holds and casts them (`kTpuAllTypes` in tensorflow/core/tpu/tpu_defs.h)"""
HANDLES = frozenset(["resource", "variant"])
"""variables and tensor lists, which have no shape of their own"""
REFUSED = {
    "Where": "tf.where of one argument, and tf.boolean_mask",
    "Unique": "tf.unique",
    "UniqueV2": "tf.unique",
    "ListDiff": "tf.setdiff1d",
    "DynamicPartition": "tf.dynamic_partition",
}
"""operations that XLA has for CPUs, and that Cloud TPU names as unavailable: their results' shapes depend on values"""
ARGUMENTS = ("Placeholder", "_Arg", "_Retval")
"""of functions: they compute nothing"""


@functools.cache
def xla_kernels() -> dict[str, list[dict[str, set[int]]]]:
    """By operation, its kernels in TensorFlow's bridge to XLA: for each attribute that is restricted, its types."""
    # The table is filled when something is compiled for the first time.
    tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    table: dict[str, list[dict[str, set[int]]]] = {}
    for kernel in kernels.get_all_registered_kernels().kernel:
        if kernel.device_type == XLA_DEVICE:
            allowed = {rule.name: set(rule.allowed_values.list.type) for rule in kernel.constraint}
            table.setdefault(kernel.op, []).append(allowed)
    return table


def operations(function: Any) -> Iterator[tf.Operation]:
    """Every operation of a concrete function, and of the functions it calls: loops' bodies, branches, partitions."""
    seen: set[str] = set()
    graphs = [function.graph]
    while graphs:
        graph = graphs.pop()
        for operation in graph.get_operations():
            yield operation
            for attribute in operation.node_def.attr.values():
                called = [attribute.func] if attribute.HasField("func") else attribute.list.func
                for name in {one.name for one in called} - seen:
                    seen.add(name)
                    graphs.append(graph._get_function(name).graph)


def refused(function: Any) -> list[str]:
    """A sentence for everything in a concrete function that a TPU would refuse."""
    return sorted({f"{said} ({operation.name})" for operation in operations(function) for said in _faults(operation)})


def _faults(operation: tf.Operation) -> Iterator[str]:
    kind = operation.type
    if kind in REFUSED:
        yield f"{kind} gives a shape that depends on values: {REFUSED[kind]}"
    if kind not in ARGUMENTS:
        table = xla_kernels()
        if kind not in table:
            yield f"{kind} has no kernel for XLA"
        elif not any(_serves(kernel, operation) for kernel in table[kind]):
            yield f"{kind} has no kernel for XLA with these types"
    for tensor in (*operation.inputs, *operation.outputs):
        if tensor.dtype.name not in TYPES | STORED | HANDLES and not _said_by_assertions(tensor):
            yield f"{kind} takes or gives {tensor.dtype.name}"
    for tensor in operation.outputs:
        # A loop's condition has arguments that it does not look at.
        unread = kind in ARGUMENTS and not tensor.consumers()
        if tensor.dtype.name not in HANDLES and not unread and not tensor.shape.is_fully_defined():
            yield f"{kind} gives the shape {tensor.shape}"


def _said_by_assertions(tensor: tf.Tensor) -> bool:
    """Whether it is an assertion's message: `TpuOpFilter` lets these strings pass, and assertions are ignored."""
    readers = {operation.type for operation in tensor.consumers()}
    return tensor.dtype == tf.string and tensor.op.type == "Const" and readers <= {"Assert"}


def _serves(kernel: dict[str, set[int]], operation: tf.Operation) -> bool:
    attributes = operation.node_def.attr
    for name, allowed in kernel.items():
        attribute = attributes[name]
        types = attribute.list.type or [attribute.type]
        if allowed and not allowed.issuperset(types):
            return False
    return True
