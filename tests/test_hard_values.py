"""Compiled operators at hard values: NaN, infinities, denormals, both zeros, large numbers.

What is computed in float32 is held against float64, each to a stated error, and NaN and infinities
exactly; and against ONNX Runtime, where that is exact enough to hold anything against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_models as om
from secateur.compiler import interpreter, onnx_reader, passes, pipeline, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.compiler.runtime import Engine

pytestmark = pytest.mark.usefixtures("as_shipped")  # whose flags could change such values

F32 = np.float32
LEAST = float(np.finfo(F32).smallest_subnormal)
HALF = np.array([
    0, LEAST, 3e-45, 1e-40, 1.1e-38, 1.2e-38, 1e-30, 1e-10, 1e-4, 0.01, 0.1, 0.3, 0.39, 0.41, 0.5,
    0.62, 0.63, 0.99, 1, 1.01, 1.5, 2, 2.5, 3, 3.91, 3.93, 5, 7.5, 9.5, 10, 15, 17, 19.9, 20.1, 30,
    50, 80, 86, 87, 87.4, 88, 88.5, 88.7, 88.73, 89, 90, 95, 99, 101, 103, 103.9, 104.1, 110, 150,
    177, 200, 1e3, 123456, 1e6, 8388609, 1e10, 1e18, 1e19, 1e30, 1e38, 3.4028235e38, np.inf,
])  # fmt: skip
GRID = np.concatenate([HALF, -HALF, [np.nan]]).astype(F32)
"""135 values: no multiple of a vector's lanes."""

UNARY: Mapping[str, tuple[dict[str, Any], float]] = {
    "Abs": ({}, 0), "Ceil": ({}, 0), "Celu": ({"alpha": 1.3}, 1e-6), "Cos": ({}, 1e-6),
    "Elu": ({"alpha": 0.7}, 1e-6), "Erf": ({}, 1e-6), "Exp": ({}, 3e-7), "Floor": ({}, 0),
    "HardSigmoid": ({}, 1e-6), "HardSwish": ({}, 1e-6), "LeakyRelu": ({"alpha": 0.2}, 1e-6),
    "Log": ({}, 3e-7), "Mish": ({}, 1e-6), "Neg": ({}, 0), "Reciprocal": ({}, 1e-7),
    "Relu": ({}, 0), "Round": ({}, 0), "Selu": ({}, 1e-6), "Sigmoid": ({}, 5e-7), "Sign": ({}, 0),
    "Sin": ({}, 1e-6), "Softplus": ({}, 5e-7), "Softsign": ({}, 1e-6), "Sqrt": ({}, 1e-7),
    "Tan": ({}, 1e-6), "Tanh": ({}, 5e-7), "ThresholdedRelu": ({"alpha": 0.5}, 0),
}  # fmt: skip
"""Attributes, and the largest relative error; denormals may be two of their steps off besides."""

ABSOLUTE: Mapping[str, dict[str, Any]] = {"Gelu": {}, "GeluTanh": {"approximate": "tanh"}}
"""Their error is relative to 1 and to the input, where what is near -x and x nearly cancels."""


def nodes_of_one() -> list[onnx.NodeProto]:
    found = [om.node(op, "x", op, **attributes) for op, (attributes, _) in UNARY.items()]
    found += [om.node("Gelu", "x", name, **attributes) for name, attributes in ABSOLUTE.items()]
    found += [om.node("Clip", f"x {bounds}", f"Clip{k}") for k, bounds in enumerate(CLIPS)]
    found += [om.node("Pow", f"x e{k}", f"Pow{k}") for k in range(len(EXPONENTS))]
    found += [om.node("IsNaN", "x", "IsNaN"), om.node("IsInf", "x", "IsInf")]
    found += [om.node("Cast", "x", "Cast", to=onnx.TensorProto.BOOL)]
    found += [om.node("Softmax", "x", "probable"), om.node("Mul", "x x", "square")]
    return found


CLIPS = ("low high", "nan high", "low nan", "nan nan", "high low", "- high", "low -", "low")
EXPONENTS = (2.0, 3.0, 4.0, 0.0, 1.0, -1.0, 0.5, -0.5, 1.7, -2.0)
CONSTANTS = {
    "low": np.array(-2, F32), "high": np.array(90, F32), "nan": np.array(np.nan, F32),
    **{f"e{k}": np.array(e, F32) for k, e in enumerate(EXPONENTS)},
}  # fmt: skip

PAIRS = ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Pow", "Mod")
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def machines() -> list[Machine]:
    """Return the machine that is here, and others with fewer lanes, whose code it runs too."""
    native = toolchain.native()
    return [Machine(lanes, native.registers) for lanes in (16, 8, 4) if lanes <= native.lanes]


MACHINES = pytest.mark.parametrize("machine", machines(), ids=lambda m: f"{m.lanes} lanes")


def run(
    proto: onnx.ModelProto, machine: Machine, **inputs: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what the engine and the reference in float64 give of each output."""
    source = proto.SerializeToString()
    network = prepare(source, machine)
    native = toolchain.native()
    with pytest.MonkeyPatch.context() as patch:
        if machine.lanes < native.lanes:  # all effort for what users get here; half of it goes far
            patch.setattr(toolchain, "OPTIMIZE", "-O1")
        content = pipeline.built(pipeline.source_of(network, "hard"), native)
    with Engine(content, 1) as engine:
        got = engine(inputs)
    batch = len(next(iter(inputs.values())))
    graph = passes.apply(onnx_reader.read(source, batch=batch).graph, passes.PASSES[:1])
    wanted = interpreter.run_wide(graph, inputs)
    mine = got if isinstance(got, tuple) else (got,)
    return list(zip(mine, wanted.values(), strict=True))


def off(
    got: np.ndarray, wanted: np.ndarray, error: float, floor: float = 0, steps: float = 2
) -> str:
    """Compare float32 with float64: NaN and infinities exactly, what overflows is infinite."""
    if got.dtype.kind != "f":
        return "" if (got == wanted).all() else f"{got[got != wanted][:5]}"
    with np.errstate(all="ignore"):
        single = wanted.astype(F32)
        away = np.abs(got.astype(np.float64) - wanted)
        room = error * np.maximum(np.abs(wanted), floor) + steps * LEAST
        near = (away <= room) | (got == single) | (np.isnan(got) & np.isnan(single))
        edge = np.abs(np.abs(wanted) / np.finfo(F32).max - 1) <= 1e-6  # overflows, or just not
    bad = ~(near | edge)
    return f"{got[bad][:5]} for {wanted[bad][:5]}" if bad.any() else ""


@MACHINES
@pytest.mark.parametrize("batch", [1, 3, 37])
def test_functions_of_one_number(machine: Machine, batch: int) -> None:
    nodes = nodes_of_one()
    names = " ".join(node.output[0] for node in nodes)
    proto = om.model(nodes, {"x": ["N", len(GRID)]}, names, CONSTANTS, opset=22)
    x = np.stack([np.roll(GRID, 5 * k) for k in range(batch)])
    wrong = {}
    for name, (got, wanted) in zip(names.split(), run(proto, machine, x=x), strict=True):
        if name in ABSOLUTE:
            scale = np.clip(abs(x), 1, 1e30)  # of an infinity, what is finite stays so
            wrong[name] = off(got / scale, wanted / scale, 1e-6, floor=1)
        else:
            steps = 100 if name == "Mish" else 2  # x times a denormal
            wrong[name] = off(got, wanted, UNARY.get(name, ({}, 2e-6))[1], steps=steps)
    assert not any(wrong.values()), {name: text for name, text in wrong.items() if text}


@MACHINES
def test_functions_of_two_numbers(machine: Machine) -> None:
    x, y = (a.reshape(-1, 1) for a in np.meshgrid(GRID[::3], GRID[::4]))
    nodes = [om.node(op, "x y", op, **({"fmod": 1} if op == "Mod" else {})) for op in PAIRS]
    nodes += [om.node(op, "x y", op) for op in COMPARED]
    names = " ".join((*PAIRS, *COMPARED))
    proto = om.model(nodes, {"x": ["N", 1], "y": ["N", 1]}, names, opset=22)
    found = run(proto, machine, x=x, y=y)
    wrong = {name: off(*pair, 1e-6) for name, pair in zip(names.split(), found, strict=True)}
    assert not any(wrong.values()), {name: text for name, text in wrong.items() if text}


FUSED: Mapping[str, dict[str, Any]] = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.2}, "Sigmoid": {}, "HardSigmoid": {}, "HardSwish": {},
    "Tanh": {}, "Elu": {}, "Softplus": {}, "Clip": {},
}  # fmt: skip


@MACHINES
@pytest.mark.parametrize("batch", [1, 19])
def test_activations_that_a_convolution_writes(machine: Machine, batch: int) -> None:
    nodes = []
    for op, attributes in FUSED.items():
        bounds = " low high" if op == "Clip" else ""
        nodes.append(om.node("Conv", "x one", f"c{op}"))
        nodes.append(om.node(op, f"c{op}{bounds}", op, **attributes))
    nodes += [
        om.node("Conv", "x one", "s"), om.node("Sigmoid", "s", "t"), om.node("Mul", "s t", "Silu"),
    ]  # fmt: skip
    names = " ".join((*FUSED, "Silu"))
    constants = CONSTANTS | {"one": np.ones((1, 1, 1, 1), F32)}
    proto = om.model(nodes, {"x": ["N", 1, 1, len(GRID)]}, names, constants, opset=22)
    x = np.stack([np.roll(GRID, 5 * k).reshape(1, 1, -1) for k in range(batch)])
    wrong = {
        name: off(*pair, 1e-6, steps=100)
        for name, pair in zip(names.split(), run(proto, machine, x=x), strict=True)
    }
    assert not any(wrong.values()), {name: text for name, text in wrong.items() if text}


REDUCED = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
inf, nan = np.inf, np.nan
ROWS = np.array([
    [0, 0, 0, 0, 0, 0, 0], [-inf] * 7, [inf] * 7, [nan] * 7, [-inf, 1, 2, 3, 4, 5, 6],
    [inf, 1, 2, 3, 4, 5, 6], [1, 2, nan, 3, 4, 5, 6], [nan, 1, 2, 3, 4, 5, 6],
    [1, 2, 3, 4, 5, 6, nan], [inf, -inf, 0, 0, 0, 0, 0], [1e38, 1e30, 1, 2, -1, 2, 3],
    [-1e38, -1e30, -1, -2, -1, -2, -3], [88, 89, 90, 91, 100, 1e4, 3e4], [3, 3, 3, 3, 3, 3, 3],
    [0, -80, -87, -88, -90, -95, -100], [1e-40, 2e-40, 3e-40, 1e-45, 0, 1e-42, 1e-39],
    [1e-20, 1e-19, -1e-20, 1e-21, 0, 1e-25, 1e-22], [5, 5, -5, -5, 4, 0, 5],
], F32)  # fmt: skip


def reductions(axis: int) -> tuple[list[onnx.NodeProto], str]:
    nodes = [om.node(f"Reduce{kind}", "x a", f"Reduce{kind}") for kind in REDUCED]
    for op in ("ArgMax", "ArgMin"):
        nodes += [om.node(op, "x", f"{op}{k}", axis=axis, select_last_index=k) for k in (0, 1)]
    nodes += [om.node(op, "x", op, axis=axis) for op in ("Softmax", "LogSoftmax")]
    return nodes, " ".join(node.output[0] for node in nodes)


@MACHINES
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("batch", [1, 18])
def test_reductions(machine: Machine, axis: int, batch: int) -> None:
    nodes, names = reductions(axis)
    x = ROWS if axis == 2 else ROWS.T
    constants = {"a": np.array([axis])}
    proto = om.model(nodes, {"x": ["N", *x.shape]}, names, constants, opset=22)
    x = np.stack([np.roll(x, k, 2 - axis) for k in range(batch)])
    wrong = {}
    for name, (got, wanted) in zip(names.split(), run(proto, machine, x=x), strict=True):
        # squares overflow, as in other runtimes
        limit = np.where(wanted > 1.8e19, inf, wanted) if name == "ReduceL2" else wanted
        wrong[name] = off(got, limit, 2e-6, floor=1e-30, steps=4)
    assert not any(wrong.values()), {name: text for name, text in wrong.items() if text}


@MACHINES
def test_normalizations_of_equal_and_of_large_numbers(machine: Machine) -> None:
    nodes = [
        om.node("LayerNormalization", "x seven", "layer", epsilon=1e-5),
        om.node("LayerNormalization", "x seven", "bare", epsilon=0.0),
        om.node("InstanceNormalization", "x many many", "instance", epsilon=1e-5),
    ]
    rows = np.delete(ROWS, [10, 11, 12], 0)  # whose squares overflow
    constants = {"seven": np.ones(7, F32), "many": np.ones(len(rows), F32)}
    names = "layer bare instance"
    proto = om.model(nodes, {"x": ["N", *rows.shape]}, names, constants, opset=22)
    x = np.stack([rows, rows[::-1]] * 9)
    finite = np.isfinite(rows).all(1) & (np.abs(rows).max(1) > 1e-18)
    with np.errstate(invalid="ignore"):
        steady = finite & (np.ptp(rows, axis=1) > 1)
    for name, (got, wanted) in zip(names.split(), run(proto, machine, x=x), strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted), name)
        assert not off(got[::2][:, steady], wanted[::2][:, steady], 1e-5, floor=1), name


@MACHINES
def test_logarithms_of_small_probabilities(machine: Machine) -> None:
    nodes = [
        om.node("Softmax", "x", "p"), om.node("Log", "p", "soft"),
        om.node("Softplus", "x", "q"), om.node("Log", "q", "plus"),
        om.node("Sigmoid", "x", "r"), om.node("Log", "r", "moid"),
    ]  # fmt: skip
    proto = om.model(nodes, {"x": ["N", 9]}, "soft plus moid", opset=22)
    row = np.array([0, -10, -50, -80, -86, -87.2, -88, -90, -95], F32)
    x = np.stack([np.roll(row, k) for k in range(19)])
    for got, wanted in run(proto, machine, x=x):
        np.testing.assert_allclose(
            got, wanted, rtol=1e-6, atol=2e-4
        )  # of digits that denormals have


@MACHINES
@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint8", "uint64"])
def test_integers(machine: Machine, dtype: str) -> None:
    kind = np.iinfo(dtype)
    numbers = [kind.min, kind.min + 1, -7, -2, -1, 0, 1, 2, 3, 7, kind.max - 1, kind.max]
    numbers = [n for n in numbers if n >= kind.min]
    x, y = (
        a.reshape(-1, 1) for a in np.meshgrid(np.array(numbers, dtype), np.array(numbers, dtype))
    )
    x, y = x[y != 0][:, None], y[y != 0][:, None]
    ops = ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Less", "Equal"]
    nodes = [om.node(op, "x y", op) for op in ops]
    nodes += [om.node("Mod", "x y", "rest", fmod=1), om.node("Clip", "x low high", "clip")]
    nodes += [om.node("Clip", "x high low", "swapped"), om.node("Cast", "x", "true", to=9)]
    names = [node.output[0] for node in nodes]
    values = [om.value(name, ["N", 1], np.dtype(dtype)) for name in "xy"]
    constants = {"low": np.array(1, dtype), "high": np.array(5, dtype)}
    proto = om.model(nodes, values, " ".join(names), constants, opset=22)
    least = (y == -1) & (x == kind.min)  # the quotient is no number of this type
    for name, (got, wanted) in zip(names, run(proto, machine, x=x, y=y), strict=True):
        keep = ~least if name in {"Div", "Mod", "rest"} else np.ones_like(least)
        np.testing.assert_array_equal(got[keep], wanted[keep], name)


@MACHINES
def test_casts_of_what_fits(machine: Machine) -> None:
    kinds = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
    x = np.array([0, -0.0, 0.9, -0.9, 1, 1.5, 2.5, 99.9, 126.99, LEAST], F32)[:, None]
    big = np.array([2.0**31 - 128, -(2.0**31), 2.0**31, 2.0**62, -(2.0**63)], F32)[:, None]
    nodes = [
        om.node("Cast", "x", kind, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
        for kind in kinds
    ]
    proto = om.model(nodes, {"x": ["N", 1]}, " ".join(kinds), opset=22)
    for kind, (got, _) in zip(kinds, run(proto, machine, x=x), strict=True):
        np.testing.assert_array_equal(got, np.trunc(x).astype(kind), kind)
    for kind, (got, _) in zip(kinds, run(proto, machine, x=big), strict=True):
        info = np.iinfo(kind)
        fits = (big >= float(info.min)) & (big.astype(np.float64) <= float(info.max))
        np.testing.assert_array_equal(got[fits], big[fits].astype(kind), kind)


@MACHINES
def test_pooling_of_nan_and_infinities(machine: Machine) -> None:
    """NaN in a window is its greatest number, in torch and in numpy; runtimes do not agree."""
    nodes = [
        om.node("MaxPool", "x", "two", kernel_shape=[2, 2], strides=[2, 2]),
        om.node("MaxPool", "x", "three", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        om.node("GlobalMaxPool", "x", "whole"),
        om.node("AveragePool", "x", "mean", kernel_shape=[2, 2]),
    ]
    proto = om.model(nodes, {"x": ["N", 2, 8, 20]}, "two three whole mean", opset=22)
    x = np.random.default_rng(0).standard_normal((19, 2, 8, 20)).astype(F32)
    x[:, 0, 0, 0] = x[:, 0, 1, 3] = x[:, 0, 7, 19] = x[:, 0, 4, 10] = nan
    x[:, 1, 2:4, 2:8] = -inf
    x[:, 1, 6, 6] = inf
    for got, wanted in run(proto, machine, x=x):
        assert not off(got, wanted, 1e-5, floor=0.1)


THEIRS = set(UNARY) - {"Mish", "Sigmoid"}
"""What ONNX Runtime computes as exactly: its sigmoid gives 0 from -19 on."""


def test_onnx_runtime_agrees_on_every_class_of_number() -> None:
    everything = nodes_of_one()
    made = " ".join(node.output[0] for node in everything)
    proto = om.model(everything, {"x": ["N", len(GRID)]}, made, CONSTANTS, opset=22)
    x = np.stack([GRID, GRID[::-1]])
    mine = {
        name: got
        for name, (got, _) in zip(made.split(), run(proto, machines()[0], x=x), strict=True)
    }
    nodes = [n for n in nodes_of_one() if n.op_type in THEIRS | {"IsNaN", "IsInf", "Cast", "Pow"}]
    nodes += [n for n in nodes_of_one() if n.op_type == "Clip" and "-" not in n.input]
    bounded = {f"Clip{k}" for k, bounds in enumerate(CLIPS) if len(bounds.split()) < 2}
    nodes = [n for n in nodes if n.output[0] not in bounded and "" not in n.input]
    names = " ".join(node.output[0] for node in nodes)
    proto = om.model(nodes, {"x": ["N", len(GRID)]}, names, CONSTANTS, opset=22)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wrong = {}
    for name, its in zip(names.split(), session.run(None, {"x": x}), strict=True):
        got = mine[name]
        with np.errstate(all="ignore"):
            same = (np.abs(got - its.astype(np.float64)) <= 1e-4 * np.abs(its) + 2e-6) | (
                got == its
            )
        same |= np.isnan(its) & np.isnan(got)
        wrong[name] = "" if same.all() else f"{x[~same][:5]}: {got[~same][:5]}, {its[~same][:5]}"
    assert not any(wrong.values()), {name: text for name, text in wrong.items() if text}
