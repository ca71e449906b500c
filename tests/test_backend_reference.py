"""What operators mean, held against the ONNX project's own tests of them, and what they refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
from onnx import defs

import onnx_backend
from onnx_backend import Case
from secateur.compiler import coverage, interpreter, onnx_reader
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.ops import Operand, find
from secateur.compiler.passes import fold
from secateur.errors import CompileError, UsageError


def graph_of(case: Case) -> Graph:
    return fold.run(onnx_reader.read(case.model.SerializeToString(), fixed=dict(case.fixed)).graph)


def failures(cases: tuple[Case, ...]) -> str:
    """Run cases; return a line for each that failed."""
    found = []
    for case in cases:
        try:
            case.check(interpreter.run(graph_of(case), case.inputs))
        except Exception as error:
            found.append(f"{case.name}: {type(error).__name__}: {error}")
    return "\n".join(found)


UNTESTED = {"GlobalLpPool"}
"""Operators that ONNX has no node test of; `test_rewrites` has."""


@pytest.mark.parametrize(
    "operator", sorted(op for op in onnx_backend.KNOWN - UNTESTED if defs.has(op))
)
def test_operator_passes_its_cases(operator: str) -> None:
    cases = onnx_backend.cases(operator)
    assert cases
    assert failures(cases) == ""


def test_functions_that_onnx_defines_by_our_operators_pass_their_cases() -> None:
    cases = tuple(c for c in onnx_backend.cases() if c.operator not in onnx_backend.KNOWN)
    assert {c.operator for c in cases if defs.has(c.operator)} == coverage.BY_ONNX
    assert failures(cases) == ""


def test_a_case_beyond_what_is_claimed_is_refused_by_name() -> None:
    accepted = []
    for case, reason in onnx_backend.skipped():
        try:
            graph_of(case)
        except CompileError:
            continue
        if reason == onnx_backend.AS_FLOAT32:
            continue
        accepted.append((case.name, reason))
    assert not accepted


def test_no_skip_is_out_of_date() -> None:
    names = [case.name for case, _ in onnx_backend.skipped()]
    stale = [p for p in onnx_backend.SKIPPED if not any(fnmatchcase(n, p) for n in names)]
    assert not stale


F32 = np.dtype(np.float32)


def image(*shape: int, dtype: Any = np.float32) -> Operand:
    """Return an operand that is only known when the network runs."""
    return Operand(np.dtype(dtype), shape)


def ints(*values: int) -> Operand:
    array = np.array(values, np.int64)
    return Operand(array.dtype, array.shape, array)


def node_of(op: str, count: int, attributes: Mapping[str, Any], outputs: int = 1) -> Node:
    inputs = tuple(f"in{index}" for index in range(count))
    return Node(op, "it", inputs, tuple(f"out{index}" for index in range(outputs)), attributes)


def infer(
    op: str, operands: Sequence[Operand | None], attributes: Mapping[str, Any], outputs: int = 1
) -> tuple[Tensor, ...]:
    node = node_of(op, len(operands), attributes, outputs)
    return find(node).infer(node, tuple(operands))


def compute(op: str, *arrays: np.ndarray | None, **attributes: Any) -> np.ndarray:
    node = node_of(op, len(arrays), attributes)
    return find(node).reference(node, arrays)[0]


UNKNOWN = image(2, dtype=np.int64)

REFUSED: list[tuple[str, list[Operand | None], dict[str, Any], str]] = [
    ("Add", [image(2, 3), image(2)], {}, r"shapes \(2, 3\) and \(2,\) do not fit"),
    ("Add", [image(2), image(2, dtype=np.int32)], {}, r"mix float32 and int32"),
    ("Add", [image(2)], {}, r"at least 2 inputs"),
    ("Add", [image(2), image(2), image(2)], {}, r"3 inputs, and 2 are understood"),
    ("And", [image(2), image(2)], {}, r"input 0 is float32; it may be bool"),
    ("ArgMax", [image(2, 0)], {"axis": 1}, r"empty"),
    ("Cast", [image(2)], {"to": 16}, r"element type number 16"),
    ("Clip", [image(2), image(2)], {}, r"not a scalar"),
    ("Concat", [image(2, 3), image(2, 4)], {"axis": 0}, r"do not fit together along axis 0"),
    ("ConstantOfShape", [UNKNOWN], {}, r"shape is not constant"),
    ("CumSum", [image(2), image(dtype=np.int64)], {}, r"axis is not constant"),
    ("DepthToSpace", [image(1, 6, 2, 2)], {"blocksize": 2}, r"6 channels"),
    ("Expand", [image(2), UNKNOWN], {}, r"shape is not constant"),
    ("Expand", [image(2), ints(3)], {}, r"do not fit"),
    ("Flatten", [image(2, 3)], {"axis": 3}, r"axis 3 of a value of 2 axes"),
    ("Gather", [image(2, 3), ints(2)], {"axis": 0}, r"index lies outside the axis of 2"),
    ("Gather", [image(2, 3), image(2)], {}, r"input indices is float32"),
    ("GatherElements", [image(2, 3), image(3, 3, dtype=np.int64)], {"axis": 1}, r"\(3, 3\)"),
    ("Gelu", [image(2)], {"approximate": "fast"}, r"approximate=fast"),
    ("Mod", [image(2), image(2)], {"fmod": 2}, r"fmod=2"),
    ("PRelu", [image(2), image(2, 2)], {}, r"slope of shape \(2, 2\)"),
    ("Pad", [image(2), UNKNOWN], {}, r"pads is not constant"),
    ("Pad", [image(2), ints(-2, -1)], {}, r"pads \(-2, -1\)"),
    ("Pad", [image(2), ints(2, 0)], {"mode": "reflect"}, r"wider than the shape"),
    ("Pad", [image(2), ints(1)], {}, r"pads \(1,\) for 1 axes"),
    ("Pad", [image(2), ints(1, 1)], {"mode": "mirror"}, r"mode=mirror"),
    ("Range", [ints(0), ints(5), ints(0)], {}, r"from 0 to 5 in steps of 0"),
    ("ReduceSum", [image(2, 3), ints(0, -2)], {}, r"one axis twice"),
    ("ReduceSum", [image(2, 3), UNKNOWN], {}, r"axes is not constant"),
    (
        "Reshape",
        [image(2, 3), UNKNOWN],
        {},
        r"its shape is not constant: it depends on the network.s inputs; export",
    ),
    ("Reshape", [image(2, 3), ints(4, -1)], {}, r"cannot take the shape"),
    ("Reshape", [image(2, 3), ints(-1, -1)], {}, r"cannot take the shape"),
    ("Reshape", [image(6), ints(6, 0)], {}, r"copies an axis"),
    ("Reshape", [image(0, 3), ints(0, -1)], {"allowzero": 1}, r"cannot take the shape"),
    ("Slice", [image(4), ints(0), UNKNOWN], {}, r"ends is not constant"),
    ("Slice", [image(4), ints(0), ints(4), ints(0), ints(0)], {}, r"steps \(0,\)"),
    ("Slice", [image(4), ints(0), ints(4), ints(1)], {}, r"axis 1 of a value of 1 axes"),
    ("SpaceToDepth", [image(1, 1, 3, 4)], {"blocksize": 2}, r"an image of 3 by 4"),
    ("Split", [image(4), ints(1, 2)], {}, r"it has 1 outputs"),
    ("Split", [image(4), ints(3)], {}, r"cuts an axis of 4 into \(3,\)"),
    ("Sqrt", [image(2, dtype=np.int32)], {}, r"input 0 is int32"),
    ("Squeeze", [image(2, 1), ints(0)], {}, r"not all of extent 1"),
    ("Tile", [image(2, 1), ints(2)], {}, r"repeats \(2,\)"),
    ("Transpose", [image(2, 1)], {"perm": (0, 0)}, r"perm=\(0, 0\)"),
    ("Trilu", [image(2)], {}, r"no rows and columns"),
    ("Unsqueeze", [image(2), ints(0, 0)], {}, r"one axis twice"),
    ("Where", [image(2), image(2), image(2)], {}, r"condition is float32; it may be bool"),
]


@pytest.mark.parametrize(("op", "operands", "attributes", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(
    op: str, operands: list[Operand | None], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompileError, match=rf"node {op} 'it' cannot be compiled: .*{message}"):
        infer(op, operands, attributes)


def test_an_attribute_that_is_not_understood_is_refused() -> None:
    with pytest.raises(CompileError, match=r"node Add 'it' .*attribute axis is not supported"):
        infer("Add", [image(2), image(2)], {"axis": 1})


def test_an_uneven_split_leaves_less_for_the_last() -> None:
    types = infer("Split", [image(2, 7)], {"axis": 1, "num_outputs": 3}, outputs=3)
    assert types == (Tensor(F32, (2, 3)), Tensor(F32, (2, 3)), Tensor(F32, (2, 1)))


def test_an_index_from_the_input_must_exist() -> None:
    words = np.ones((3, 2), np.float32)
    with pytest.raises(UsageError, match=r"node Gather 'it': an index lies outside the 3 entries"):
        compute("Gather", words, np.array([0, 3]))


@pytest.mark.parametrize("op", ["Sigmoid", "Gelu", "Softplus", "Swish", "Mish", "Elu", "Tanh"])
def test_the_truth_is_exact_far_from_zero(op: str) -> None:
    x = np.array([-80, -12, -5, -1e-3, 0, 1e-3, 5, 80], np.float32)
    exact = compute(op, x.astype(np.float64))
    np.testing.assert_allclose(compute(op, x), exact, rtol=1e-5, atol=1e-37)


def test_sums_do_not_depend_on_their_order() -> None:
    x = np.array([1e8, 1, -1e8, 1], np.float32)
    assert compute("ReduceSum", x, None, keepdims=0) == 2
    assert compute("ReduceMean", x[::-1], None, keepdims=0) == np.float32(0.5)
