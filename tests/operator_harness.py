"""Run one operator by its reference here and in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from secateur.compiler import ops
from secateur.compiler.graph import Node, Tensor
from secateur.compiler.ops import Operand
from secateur.errors import CompileError

DIGITS = {"rtol": 1e-4, "atol": 1e-5}

OPSETS = {"MaxUnpool": 11, "NonMaxSuppression": 11, "RoiAlign": 16}
"""Operator sets of ONNX Runtime's newest form, where it lacks that of 22."""


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def ours(
    op: str, *arrays: np.ndarray | None, outputs: int = 1, **attributes: Any
) -> tuple[np.ndarray, ...]:
    """Run an operator's reference; what it gives must be what is inferred."""
    node = Node(
        op,
        "tested",
        tuple("" if a is None else f"x{i}" for i, a in enumerate(arrays)),
        tuple(f"y{i}" for i in range(outputs)),
        attributes,
    )
    operator = ops.find(node)
    operands = tuple(None if a is None else Operand(a.dtype, a.shape, a) for a in arrays)
    types = operator.infer(node, operands)
    results = operator.reference(node, arrays)
    assert tuple(Tensor(y.dtype, y.shape) for y in results) == types
    return results[:outputs]


def theirs(
    op: str, *arrays: np.ndarray | None, outputs: int = 1, **attributes: Any
) -> tuple[np.ndarray, ...]:
    """Run an operator in ONNX Runtime."""
    while arrays[-1] is None:  # ONNX Runtime crashes on some absent inputs at the end
        arrays = arrays[:-1]
    names = ["" if a is None else f"x{i}" for i, a in enumerate(arrays)]
    made = [f"y{i}" for i in range(outputs)]
    given_inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in zip(names, arrays, strict=True)
        if a is not None
    ]
    graph = helper.make_graph(
        [helper.make_node(op, names, made, **attributes)],
        "tested",
        given_inputs,
        [helper.make_empty_tensor_value_info(name) for name in made],
    )
    opsets = [helper.make_opsetid("", OPSETS.get(op, 22))]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    feeds = {name: a for name, a in zip(names, arrays, strict=True) if a is not None}
    return tuple(session.run(None, feeds))


def agree(
    op: str, *arrays: np.ndarray | None, outputs: int = 1, **attributes: Any
) -> tuple[np.ndarray, ...]:
    """Check that ONNX Runtime gives what the reference gives, and return that."""
    found = ours(op, *arrays, outputs=outputs, **attributes)
    expected = theirs(op, *arrays, outputs=outputs, **attributes)
    for given_array, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(given_array, wanted, **DIGITS)
    return found


def refused(op: str, *arrays: np.ndarray | None, match: str, **attributes: Any) -> None:
    with pytest.raises(CompileError, match=match):
        ours(op, *arrays, **attributes)
