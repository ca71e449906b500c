"""Quantised networks: what QuantizeLinear and its kin become, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import onnx_models as om
from operator_harness import normal, theirs
from secateur.compiler import interpreter
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.passes import dynamic, fold, verify
from secateur.compiler.pipeline import compile_network
from secateur.errors import CompileError

ort = pytest.importorskip("onnxruntime")
TYPES = ("int8", "uint8", "int16", "uint16")


def made(
    op: str, arrays: Sequence[np.ndarray], known: Sequence[int], **attributes: Any
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return what one operator becomes, and the arrays that its graph is given."""
    there = {f"x{k}": a for k, a in enumerate(arrays)}
    constants = {f"x{k}": arrays[k] for k in known}
    types = {n: Tensor(a.dtype, a.shape) for n, a in there.items() if n not in constants}
    node = Node(op, "it", tuple(there), ("y",), attributes)
    graph = dynamic.run(fold.run(Graph((node,), tuple(types), ("y",), constants, types)))
    verify.check(graph)
    return graph, {name: there[name] for name in graph.inputs}


def agree(
    op: str, *arrays: np.ndarray, known: Sequence[int] = (), off: int = 0, **attributes: Any
) -> None:
    """Check that ONNX Runtime gives the same, or integers that are at most `off` away."""
    arrays = tuple(map(np.asarray, arrays))  # ONNX Runtime takes no scalars of numpy
    graph, given = made(op, arrays, known, **attributes)
    found = interpreter.run(graph, given)["y"]
    (wanted,) = theirs(op, *arrays, **attributes)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    if off:
        away = np.abs(found.astype(int) - wanted.astype(int))
        assert away.max() <= off
        assert (away > 0).mean() < 0.05
    else:
        np.testing.assert_array_equal(found, wanted)


def halves(*shape: int) -> np.ndarray:
    """Return numbers that lie on a half of a step, beyond all ends, and between."""
    rng = np.random.default_rng(0)
    ties = rng.integers(-700, 700, shape) / 4
    return np.where(rng.random(shape) < 0.1, 1e6 * ties, ties).astype(np.float32)


def zero(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(1).integers(info.min, info.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("known", [(), (1, 2)])
def test_quantize_rounds_to_even_and_saturates(dtype: str, known: Sequence[int]) -> None:
    x = halves(3, 4, 50)
    agree("QuantizeLinear", x, np.float32(0.5), zero(dtype), known=known)
    for axis in (0, 1, -2):
        extent = x.shape[axis]
        scales = np.linspace(0.25, 2, extent, dtype=np.float32)
        agree("QuantizeLinear", x, scales, zero(dtype, extent), known=known, axis=axis)


def test_quantize_gives_uint8_unless_it_is_told() -> None:
    agree("QuantizeLinear", halves(40), np.float32(0.5))
    agree("QuantizeLinear", halves(40), np.float32(0.5), output_dtype=3)  # int8


@pytest.mark.parametrize("dtype", TYPES)
def test_dequantize_is_exact(dtype: str) -> None:
    q = zero(dtype, 3, 4, 50)
    agree("DequantizeLinear", q, np.float32(0.013), zero(dtype))
    scales = np.linspace(0.25, 2, 4, dtype=np.float32)
    agree("DequantizeLinear", q, scales, zero(dtype, 4), known=(0, 1, 2))
    agree("DequantizeLinear", q, scales)
    agree("DequantizeLinear", np.arange(-9, 9, dtype=np.int32), np.float32(0.1))


@pytest.mark.parametrize("x", [normal(0, 7, 9), np.abs(normal(1, 9)), np.zeros(5, np.float32)])
def test_dynamic_quantize_takes_in_zero(x: np.ndarray) -> None:
    node = Node("DynamicQuantizeLinear", "it", ("x",), ("y", "s", "z"))
    types = {"x": Tensor(x.dtype, x.shape)}
    graph = fold.run(Graph((node,), ("x",), ("y", "s", "z"), {}, types))
    found = interpreter.run(graph, {"x": x})
    y, scale, point = theirs("DynamicQuantizeLinear", x, outputs=3)
    np.testing.assert_allclose(found["s"], scale, rtol=1e-6)
    assert found["z"] == point
    assert np.abs(found["y"].astype(int) - y.astype(int)).max() <= 1  # the scale is rounded


def test_quantised_layers_agree_to_a_step() -> None:
    om.need_exact_sums()
    x, w = zero("uint8", 2, 3, 8, 8), zero("int8", 5, 3, 3, 3)
    scales = np.linspace(0.01, 0.02, 5, dtype=np.float32)
    bias = np.arange(-2, 3, dtype=np.int32) * 1000
    agree(
        "QLinearConv", x, np.float32(0.02), np.uint8(120), w, scales, np.zeros(5, np.int8),
        np.float32(0.5), np.uint8(99), bias, known=range(1, 9), off=1, pads=(1, 1, 1, 1),
    )  # fmt: skip
    a, b = zero("uint8", 6, 20), zero("int8", 20, 7)
    agree(
        "QLinearMatMul", a, np.float32(0.02), np.uint8(120), b, np.float32(0.01), np.int8(3),
        np.float32(0.3), np.uint8(99), known=range(1, 8), off=1,
    )  # fmt: skip


@pytest.mark.parametrize("edge", [False, True])
def test_sums_of_integers_are_exact(edge: bool) -> None:
    om.need_exact_sums()

    def data(dtype: str, *shape: int) -> np.ndarray:
        return np.full(shape, np.iinfo(dtype).max, dtype) if edge else zero(dtype, *shape)

    for extent in (1, 257, 259, 4608):
        a, b = data("uint8", 2, 3, extent), data("int8", extent, 5)
        agree("MatMulInteger", a, b)
        agree("MatMulInteger", a, b, np.uint8(0), zero("int8", 5), known=(1, 2, 3))
    for channels, kernel, groups in ((3, 3, 1), (70, 3, 1), (512, 3, 1), (6, 5, 3)):
        x, w = data("uint8", 2, channels, 6, 7), data("int8", 6, channels // groups, kernel, kernel)
        more = {"pads": (1, 1, 1, 1), "group": groups}
        agree("ConvInteger", x, w, np.uint8(7), known=(1, 2), **more)


def test_a_quantised_network_runs_as_in_onnxruntime() -> None:
    nodes = [
        om.node("QuantizeLinear", "x s z", "q"),
        om.node("DequantizeLinear", "q s z", "d"),
        om.node("DequantizeLinear", "w ws wz", "wf", axis=0),
        om.node("Conv", "d wf", "c", pads=[1, 1, 1, 1]),
        om.node("Relu", "c", "r"),
        om.node("QuantizeLinear", "r t z", "p"),
        om.node("DequantizeLinear", "p t z", "y"),
    ]
    constants = {
        "s": np.float32(0.05), "t": np.float32(0.1), "z": np.uint8(128),
        "w": zero("int8", 6, 3, 3, 3), "wz": np.zeros(6, np.int8),
        "ws": np.linspace(0.01, 0.02, 6, dtype=np.float32),
    }  # fmt: skip
    model = om.model(nodes, {"x": ["N", 3, 9, 9]}, constants=constants).SerializeToString()
    x = normal(3, 20, 3, 9, 9)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": x})
    with compile_network(model).engine() as engine:
        steps = [name.split()[0] for name, _ in engine.profile(x)]
        found = engine(x)
    assert "QuadConv" in steps
    away = np.abs(found - wanted) / 0.1  # in steps
    assert away.max() < 1.01
    assert (away > 0.01).mean() < 0.01


def refused(
    match: str, op: str, *arrays: np.ndarray, known: Sequence[int] = (), **more: Any
) -> None:
    with pytest.raises(CompileError, match=rf"node {op} 'it' cannot be compiled: .*{match}"):
        made(op, arrays, known, **more)


def test_what_cannot_be_meant_is_refused() -> None:
    x, one = halves(4, 6), np.float32(1)
    refused("not positive", "QuantizeLinear", x, np.float32(0), known=(1,))
    refused("not positive", "QuantizeLinear", x, np.float32(np.nan), known=(1,))
    refused("in blocks of 2", "QuantizeLinear", x, one, block_size=2)
    refused(r"shape \(5,\) along axis 1", "QuantizeLinear", x, np.ones(5, np.float32))
    refused("zero point", "QuantizeLinear", x, one, np.zeros(6, np.uint8))
    refused("element type 17", "QuantizeLinear", x, one, output_dtype=17)  # float8
    refused("a scale of float64", "DequantizeLinear", zero("int8", 4), np.float64(1))
    refused(r"\(4,\) and \(4, 2\)", "MatMulInteger", zero("int8", 4), zero("int8", 4, 2))
    refused("x is int32", "DynamicQuantizeLinear", np.arange(5, dtype=np.int32))
    refused("data of int16", "MatMulInteger", zero("int16", 2, 4), zero("int8", 4, 2))
    w = zero("int8", 1, 2, 17, 17)
    refused("with 289 taps", "ConvInteger", zero("uint8", 1, 2, 20, 20), w)
