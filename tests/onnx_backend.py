"""The ONNX project's own node tests, as cases for whatever runs networks.

A case is claimed if all operators in its model are ours, those included that ONNX defines by ours.
Every claimed case either runs or is named in `SKIPPED` (or has an element type that is refused),
with the reason.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, defs, numpy_helper

from secateur.compiler import canonical, rewrites
from secateur.compiler.onnx_functions import all_nodes, inlined
from secateur.compiler.ops import operators
from secateur.compiler.ops.cast import ELEMENT_TYPES

DOMAINS = ("", "ai.onnx")

KNOWN = frozenset({*operators(), *rewrites.rules(), *canonical.REPLACED, "CastLike", "If"})
"""Operators that the compiler understands, or that its reader and passes replace."""

STATIC: Mapping[str, tuple[int, ...]] = {
    "Col2Im": (1, 2),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "If": (0,),
    "NonMaxSuppression": (2,),
    "NonZero": (0,),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{f"Reduce{kind}": (1,) for kind in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"
    )},
}  # fmt: skip
"""Inputs that must be known when a network is compiled, by operator.

The tests give them while the network runs; here they are fixed to the values of the test.
"""

SKIPPED: Mapping[str, str] = {
    "test_maxunpool_export_with_output_shape": "runtimes do not agree where numbers then lie",
    "test_qlinearmatmul_*_float16": "scales are of float32",
    "test_training_dropout*": "training: elements are dropped",
}
"""Claimed cases that ask for more than is claimed: pattern of names -> reason."""


AS_FLOAT32 = "bfloat16 is computed in float32, and rounded nowhere"
"""Why a case does not run that is compiled all the same; `test_halves` has such networks."""


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        name: ONNX's name of it.
        operator: that it tests.
        model: gives all inputs by name; those of `fixed` must become constants.
        fixed: arrays that must be known when the model is compiled.
        inputs: arrays by input, in the model's order.
        outputs: what is expected, by output, in the model's order.
        rtol, atol: ONNX's own tolerances.
    """

    name: str
    operator: str
    model: ModelProto
    fixed: Mapping[str, np.ndarray]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rtol: float
    atol: float

    def check(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Compare what something gave with what is expected: dtypes, shapes and values."""
        assert list(outputs) == list(self.outputs)
        for name, expected in self.outputs.items():
            given = outputs[name]
            if self.operator == "NonMaxSuppression":  # rows that are no box come behind the others
                assert (given[len(expected) :] == -1).all()
                given = given[: len(expected)]
            assert (given.dtype, given.shape) == (expected.dtype, expected.shape), name
            rtol = self.rtol
            if expected.dtype == np.float16:  # two units in the last place: ONNX rounds every step
                rtol = max(rtol, 2**-9)
            np.testing.assert_allclose(given, expected, rtol, self.atol, err_msg=name)


def cases(operator: str | None = None) -> tuple[Case, ...]:
    """Return the cases that must pass: all, or those of one operator."""
    return tuple(case for case in _sorted_out()[0] if operator in (None, case.operator))


def skipped() -> tuple[tuple[Case, str], ...]:
    """Return the claimed cases that do not run, each with the reason."""
    return _sorted_out()[1]


@cache
def _sorted_out() -> tuple[tuple[Case, ...], tuple[tuple[Case, str], ...]]:
    run: list[Case] = []
    beyond: list[tuple[Case, str]] = []
    tests = _tests()
    subject = {test.name: test.model.graph.node[0].op_type for test in tests}
    for test in tests:
        model = _lifted(test.model)
        operator = subject[re.sub(r"_expanded(_ver\d+)?$", "", test.name)]
        nodes = _nodes(model)
        if not all(node.op_type in KNOWN and node.domain in DOMAINS for node in nodes):
            continue
        case = _case(test, operator, model, nodes)
        if reason := _beyond(case):
            beyond.append((case, reason))
        else:
            run.append(case)
    return tuple(run), tuple(beyond)


def _tests() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tests overflow on purpose as they are made
        from onnx.backend.test.loader import load_model_tests

        return [test for test in load_model_tests(kind="node") if test.model is not None]


def _lifted(model: ModelProto) -> ModelProto:
    """Return a model of the oldest operator set that is read, where its operators are the same."""
    (entry, *_) = model.opset_import
    ops = {node.op_type for node in model.graph.node}
    if entry.version >= canonical.OLDEST or entry.domain not in DOMAINS or not ops <= KNOWN:
        return model
    if any(defs.get_schema(op, canonical.OLDEST).since_version > entry.version for op in ops):
        return model
    lifted = ModelProto()
    lifted.CopyFrom(model)
    lifted.opset_import[0].version = canonical.OLDEST
    return lifted


def _nodes(model: ModelProto) -> list[NodeProto]:
    """Return all nodes, with operators that we have not replaced by what ONNX defines them as."""
    nodes = list(all_nodes(model.graph.node))
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    if len(versions) != 1 or all(node.op_type in KNOWN for node in nodes):
        return nodes
    return list(all_nodes(inlined(model, versions[0], KNOWN).node))


def _beyond(case: Case) -> str | None:
    """Return why a case asks for more than is claimed."""
    for pattern, reason in SKIPPED.items():
        if fnmatchcase(case.name, pattern):
            return reason
    graph = case.model.graph
    refused = sorted({_kind(value.type) for value in (*graph.input, *graph.output)} - {""})
    if refused == ["bfloat16"]:
        return AS_FLOAT32
    return f"element type {', '.join(refused)} is refused" if refused else None


def _kind(proto: TypeProto) -> str:
    """Return the name of a type that is refused; nothing for one that is not."""
    if not proto.HasField("tensor_type"):
        return str(proto.WhichOneof("value")).removesuffix("_type")
    number = proto.tensor_type.elem_type
    return "" if number in ELEMENT_TYPES else TensorProto.DataType.Name(number).lower()


def _case(test: Any, operator: str, model: ModelProto, nodes: Sequence[NodeProto]) -> Case:
    ((given, expected),) = test.data_sets
    inputs = dict(zip((v.name for v in model.graph.input), map(_array, given), strict=True))
    outputs = dict(zip((v.name for v in model.graph.output), map(_array, expected), strict=True))
    static = _static(nodes)
    return Case(
        test.name,
        operator,
        model,
        {name: array for name, array in inputs.items() if name in static},
        {name: array for name, array in inputs.items() if name not in static},
        outputs,
        test.rtol,
        1e-6 if operator == "DFT" else test.atol,  # ONNX's zeros are not exact
    )


def _static(nodes: Sequence[NodeProto]) -> set[str]:
    """Return the values that static inputs are computed from; shapes are known anyway."""
    maker = {name: node for node in nodes for name in node.output}
    found: set[str] = set()
    waiting = [
        node.input[place]
        for node in nodes
        for place in STATIC.get(node.op_type, ())
        if place < len(node.input)
    ]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if (node := maker.get(name)) and node.op_type not in ("Shape", "Size"):
                inner = (a.g.node for a in node.attribute if a.HasField("g"))
                waiting += node.input
                waiting += (i for body in inner for n in all_nodes(body) for i in n.input)
    return found


def _array(value: Any) -> np.ndarray:
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    # Sequences and absent optional values only ever belong to cases that are refused.
    return np.asarray(value, object if isinstance(value, list) else None)
