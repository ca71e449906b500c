"""Kernels of generic operators against their numpy references: alone, in tiles, cut over lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_cases import RNG, drawn, extents, normal, possible, values, weights
from kernel_harness import Case, Known, build, check, integers, machine
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.kernels import C_TYPES
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.passes import identity, shapes, verify
from secateur.compiler.plan import plan
from secateur.errors import CompileError

pytestmark = pytest.mark.usefixtures("barely_optimised")

DTYPES = tuple(C_TYPES)
NUMBERS = {dtype.name: number for number, dtype in ELEMENT_TYPES.items()}
SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e38, -1e38, 88.7, -104, 0.5, 1.5, 2.5, -0.5]

UNARY = (
    *("Abs", "Ceil", "Cos", "Exp", "Floor", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round"),
    *("Sign", "Sin", "Sqrt", "Tanh", "Celu", "Elu", "Erf", "HardSigmoid", "HardSwish"),
    *("LeakyRelu", "Mish", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "ThresholdedRelu"),
    *("IsNaN", "IsInf", "Identity", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cosh"),
    *("Sinh", "BitwiseNot"),
)
BINARY = (
    *("Add", "And", "Div", "Mul", "Or", "Sub", "Xor", "Equal", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "Max", "Min", "Mean", "Sum", "Mod", "PRelu"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor"),
)


def test_functions_of_one_number() -> None:
    cases = []
    for op in UNARY:
        for dtype in DTYPES:
            x = values(dtype, 3, 5)
            if x.dtype.kind == "f":
                x[0].flat[: len(SPECIAL)] = SPECIAL
            cases.append(Case(op, [x]))
    for dtype in ("float32", "float64"):
        for mode in ("none", "tanh"):
            cases.append(Case("Gelu", [values(dtype, 40)], {"approximate": mode}))
        cases.append(Case("Tan", [values(dtype, 9, low=-1.5, high=1.5)], tolerance=1e-4))
        cases.append(Case("Elu", [values(dtype, 9)], {"alpha": 0.3}))
        cases.append(Case("Selu", [values(dtype, 9)], {"alpha": 0.3, "gamma": 2.0}))
        cases.append(Case("HardSigmoid", [values(dtype, 9)], {"alpha": 0.3, "beta": -0.1}))
        cases.append(Case("IsInf", [values(dtype, 9)], {"detect_negative": 0}))
    check(possible(cases))


def test_functions_of_two_numbers() -> None:
    cases = []
    for op in BINARY:
        for dtype in DTYPES:
            x, y = values(dtype, 3, 5), values(dtype, 3, 1)
            cases += [Case(op, [x, y]), Case(op, [x, Known(values(dtype)[:1])])]
            if op == "Mod":
                cases.append(Case(op, [x, y], {"fmod": 1}))
            if op in ("Max", "Min", "Sum", "Mean"):
                cases += [Case(op, [x]), Case(op, [x, y, values(dtype, 1, 5), x])]
    nan = normal(4)
    nan[:, 0] = np.nan
    for op in ("Max", "Min"):
        cases += [Case(op, [nan, normal(4)]), Case(op, [normal(4), nan])]
    check(possible(cases))


def test_casts_choices_and_bounds() -> None:
    cases = []
    for dtype in DTYPES:
        for to in DTYPES:
            low, high = (0.0, 99.0) if to.startswith("u") else (-99.0, 99.0)
            cases.append(
                Case("Cast", [values(dtype, 3, 5, low=low, high=high)], {"to": NUMBERS[to]})
            )
        x = values(dtype, 3, 5)
        cases.append(Case("Where", [values("bool", 3, 1), x, values(dtype, 1, 5)]))
        low, high = Known(np.array(2, dtype)), Known(np.array([5], dtype))
        for bounds in ([low, None], [None, high], [low, high], [high, low], []):
            cases.append(Case("Clip", [x, *bounds]))
    check(possible(cases))


def test_shifts() -> None:
    cases = []
    for dtype in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"):
        for direction in ("LEFT", "RIGHT"):
            x, y = values(dtype, 5, 6, low=-99, high=200), values(dtype, 5, 6, low=-3, high=70)
            cases.append(Case("BitShift", [x, y], {"direction": direction}))
    check(cases)


def test_powers() -> None:
    cases = []
    for base in ("float32", "float64", "int32", "int64"):
        for exponent in DTYPES[:2] + DTYPES[3:]:
            x = values(base, 5, 6, low=0.1 if base[0] == "f" else -4, high=4)
            y = np.round(values(exponent, 5, 6, low=0, high=4))
            cases.append(Case("Pow", [x, y.astype(exponent)]))
    for known in (2, 3, 4, 1, 0, -1, 0.5, -0.5, 1.7):
        cases.append(Case("Pow", [np.abs(normal(9)), Known(np.array(known, np.float32))]))
    negative = values("int64", 9, low=-3, high=-1)
    ones = np.sign(values("int64", 9, low=-3, high=-1)) * np.where(RNG.random(9) < 0.5, 1, -1)
    cases += [Case("Pow", [ones, negative]), Case("Pow", [normal(9), Known(np.array([2]))])]
    check(possible(cases))


def test_activations() -> None:
    names = (
        *("", "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu"),
        *("GeluTanh", "Silu", "Elu", "Softplus"),
    )
    cases = []
    for name in names:
        attributes = {"activation": name, "alpha": -0.2 if name == "Clip" else 0.2, "beta": 0.5}
        cases.append(Case("Activation", [normal(7, 6) * 4], attributes))
        cases.append(Case("Activation", [normal(7, 6) * 4], attributes, via="tokens"))
    check(cases)


@st.composite
def broadcasts(draw: st.DrawFn) -> Case:
    via = draw(st.sampled_from(["", "tokens", "plane"]))
    rank = {"tokens": 2, "plane": 3}.get(via) or draw(st.integers(1, 4))
    shape = [draw(st.one_of(extents, st.integers(1, 20))) for _ in range(rank)]
    inputs: list[np.ndarray | Known] = [normal(*shape)]
    for _ in range(2):
        part = [n if draw(st.booleans()) else 1 for n in shape]
        known = draw(st.booleans())
        inputs.append(weights(*part[draw(st.integers(0, rank)) :]) if known else normal(*part))
    op = draw(st.sampled_from(["Max", "Sum", "Add", "Mul", "Sub", "Div", "PRelu"]))
    count = 3 if op in ("Max", "Sum") else 2
    inputs = inputs[:count]
    if op in ("Add", "Mul", "Sub") and not via and draw(st.booleans()):
        inputs.reverse()
    return Case(op, inputs, via=via)


@drawn
@given(st.lists(broadcasts(), min_size=40, max_size=40))
def test_broadcasting(cases: list[Case]) -> None:
    check(cases)


REDUCTIONS = (
    *("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceProd"),
    *("ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum"),
)


@st.composite
def folds(draw: st.DrawFn) -> Case:
    via = draw(st.sampled_from(["", "tokens", "plane", "plane"]))
    rank = {"tokens": 2, "plane": 3}.get(via) or draw(st.integers(1, 4))
    shape = [draw(st.one_of(extents, st.integers(1, 40))) for _ in range(rank)]
    family = draw(st.sampled_from(["reduce", "reduce", "softmax", "position", "running", "layer"]))
    axis = draw(st.integers(1, rank))
    dtype = draw(st.sampled_from(["float32"] if via else ["float32", "float32", "float64"]))
    if family == "softmax":
        op = draw(st.sampled_from(["Softmax", "LogSoftmax"]))
        return Case(op, [values(dtype, *shape)], {"axis": axis}, via=via)
    if family == "position":
        op = draw(st.sampled_from(["ArgMax", "ArgMin"]))
        flags = {"keepdims": draw(st.integers(0, 1)), "select_last_index": draw(st.integers(0, 1))}
        return Case(op, [np.round(values(dtype, *shape))], {"axis": axis, **flags}, via=via)
    if family == "running":
        flags = {"reverse": draw(st.integers(0, 1)), "exclusive": draw(st.integers(0, 1))}
        return Case("CumSum", [values(dtype, *shape), integers(axis)], flags, via=via)
    if family == "layer":
        op = draw(st.sampled_from(["LayerNormalization", "RMSNormalization"]))
        of = shape[draw(st.integers(axis - 1, rank - 1)) :]
        inputs = [values(dtype, *shape), weights(*of, dtype=dtype)]
        outputs = (True,)
        if op == "LayerNormalization":
            outputs = draw(st.sampled_from([(True,), (True, False, True), (True, True, True)]))
            inputs += [weights(*of, dtype=dtype)] if draw(st.booleans()) else []
        wide = {"epsilon": draw(st.sampled_from([1e-5, 0.1]))}
        return Case(op, inputs, {"axis": axis, **wide}, via, outputs, tolerance=1e-4)
    if not via:
        dtype = draw(st.sampled_from(["float32", "float32", "float64", "int32", "int64", "uint32"]))
    op = draw(st.sampled_from(REDUCTIONS))
    axes = sorted(draw(st.sets(st.integers(1, rank), min_size=1)))
    low, high = (0.5, 1.5) if op in ("ReduceProd", "ReduceLogSum") else (-4.0, 9.0)
    x = values(dtype, *shape, low=low, high=high)
    case = Case(op, [x, integers(*axes)], {"keepdims": draw(st.integers(0, 1))}, via=via)
    if not possible([case]):
        case = Case("ReduceSum", case.inputs, case.attributes)
    return case


@drawn
@given(st.lists(folds(), min_size=40, max_size=40))
def test_folds(cases: list[Case]) -> None:
    check(cases)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponentials_of_large_numbers_do_not_overflow(dtype: str) -> None:
    """Each row less its largest: among lanes, along a vector, and cut over the lanes."""
    far = 1000 if dtype == "float32" else 10_000
    x = [values(dtype, 5, 33, low=-far, high=far) for _ in range(4)]
    check(
        [
            Case(op, [x[k]], {"axis": axis}, via=via)
            for op in ("Softmax", "LogSoftmax")
            for k, (axis, via) in enumerate([(1, ""), (2, ""), (1, "tokens"), (2, "tokens")])
            if not via or dtype == "float32"
        ]
    )


@st.composite
def channels(draw: st.DrawFn) -> Case:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    c = groups * each
    via = draw(st.sampled_from(["", "plane"]))
    shape = [draw(st.integers(2, 20)) for _ in range(2 if via else draw(st.integers(1, 3)))]
    op = draw(st.sampled_from(["Instance", "Group", "Batch"])) + "Normalization"
    attributes: dict[str, Any] = {"num_groups": groups} if op.startswith("Group") else {}
    more = [weights(c), weights(c)] if op.startswith("Batch") else []
    inputs = [normal(c, *shape), weights(c), weights(c), *more]
    return Case(op, inputs, attributes, via=via, tolerance=1e-4)


@drawn
@given(st.lists(channels(), min_size=15, max_size=15))
def test_normalization_by_channels(cases: list[Case]) -> None:
    check(cases)


def test_constants_may_depend_on_the_number_of_samples() -> None:
    first = Known(lambda batch: np.full((batch, 1, 6), 2.5, np.float32))
    target = Known(lambda batch: np.array([batch, 4, 6]))
    check(
        [
            Case("Concat", [normal(5, 6), first], {"axis": 1}),
            Case("Expand", [normal(1, 6), target]),
        ]
    )


LARGE = (
    Case("Exp", [normal(9001)]),
    Case("Add", [normal(3, 5003), normal(1, 5003)]),
    Case("Softmax", [normal(37, 301)], {"axis": 2}),
    Case("Softmax", [normal(37, 301)], {"axis": 1}),
    Case("Softmax", [normal(37, 301)], {"axis": 2}, via="tokens"),
    Case("LayerNormalization", [normal(130, 67), weights(67)], via="tokens", tolerance=1e-4),
    Case("LayerNormalization", [normal(130, 67), weights(67)], tolerance=1e-4),
    Case("ReduceMean", [normal(40, 31, 33), integers(2, 3)], via="plane"),
    Case("ReduceMax", [normal(40, 31, 33), integers(1)], via="plane"),
    Case("ReduceSum", [normal(20011), integers(1)]),
    Case("GroupNormalization", [normal(8, 31, 33), weights(8), weights(8)], {"num_groups": 2},
         via="plane", tolerance=1e-4),
    Case("Pad", [normal(20, 31, 33), integers(0, 0, 1, 1, 0, 0, 2, 2)]),
    Case("Concat", [normal(20, 31, 33), normal(3, 31, 33)], {"axis": 1}),
    Case("ArgMax", [normal(20, 31, 33)], {"axis": 1}),
    Case("CumSum", [normal(20, 31, 33), integers(1)]),
)  # fmt: skip


def test_large_values_are_shared_and_threads_change_nothing() -> None:
    many = machine().lanes
    built = build(LARGE, threads=3)
    arrays = [x for case in LARGE for x in case.inputs if isinstance(x, np.ndarray)]
    with built.engine as three, built.load(threads=1) as one:
        built.check((1, many))
        for batch in (1, many + 1):
            found = [engine(*(x[:batch] for x in arrays)) for engine in (one, three)]
            for name, a, b in zip(built.network.reference.outputs, *found, strict=True):
                assert np.array_equal(a, b, equal_nan=True), name


def test_several_samples_share_a_lane() -> None:
    tiles = 3
    more = [np.concatenate([normal(5, 7) for _ in range(tiles)]) for _ in range(4)]
    check(
        [
            Case("Softmax", [more[0]], {"axis": 2}),
            Case("LayerNormalization", [more[1], weights(7)], via="tokens", tolerance=1e-4),
            Case("Add", [more[2], weights(5, 1)]),
            Case("ReduceMean", [more[3], integers(1)], {"keepdims": 0}),
        ],
        tiles=tiles,
    )


def test_parts_of_a_split_that_nobody_needs_stay_unnamed() -> None:
    x = Tensor(np.dtype(np.float32), (1, 6))
    nodes = (
        Node("Split", "s", ("x", "sizes"), ("a", "b", "c"), {"axis": 1}),
        Node("Neg", "n", ("b",), ("y",)),
    )
    graph = Graph(nodes, ("x",), ("y",), {"sizes": np.array([1, 2, 3])}, {"x": x})
    swept = identity.run(shapes.run(graph))
    verify.check(swept)
    assert swept.nodes[0].outputs == ("", "b", "")


def test_half_precision_is_refused_with_the_node() -> None:
    half = Tensor(np.dtype(np.float16), (1, 6))
    graph = Graph((Node("Neg", "minus", ("x",), ("y",)),), ("x",), ("y",), {}, {"x": half})
    with pytest.raises(CompileError, match=r"Neg 'minus' .* float16"):
        plan(shapes.run(graph), machine(), batch=1, lanes=False, batched=True)
