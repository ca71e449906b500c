"""What ONNX Runtime's `quantize_static` writes: in integers, as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_models as om
from quantised_models import operators
from secateur.compiler import interpreter, passes, pipeline
from secateur.errors import CompileError

pytest.importorskip("onnxruntime")
quantization = pytest.importorskip("onnxruntime.quantization")
F32 = np.float32
SHAPE = (3, 9, 9)
UINT8, UINT16 = quantization.QuantType.QUInt8, quantization.QuantType.QUInt16


def network(opset: int = 21) -> onnx.ModelProto:
    """A layer of each kind, with a bias each, and one output of a single channel."""
    nodes = [
        om.node("Conv", "x v b", "c", pads=[1, 1, 1, 1]), om.node("Relu", "c", "r"),
        om.node("Conv", "r d b", "e", pads=[1, 1, 1, 1], group=8), om.node("Add", "r e", "a"),
        om.node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
        om.node("Conv", "p o u", "s"), om.node("Flatten", "s", "f"),
        om.node("Gemm", "f w t", "y", transB=1),
    ]  # fmt: skip
    draw = np.random.default_rng(0).standard_normal
    shapes = {
        "v": (8, 3, 3, 3), "b": (8,), "d": (8, 1, 3, 3), "o": (1, 8, 1, 1), "u": (1,),
        "w": (5, 16), "t": (5,),
    }  # fmt: skip
    known = {name: (draw(shape) / 3).astype(F32) for name, shape in shapes.items()}
    return om.model(nodes, {"x": ["N", *SHAPE]}, constants=known, opset=opset)


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
    def __init__(self, x: np.ndarray) -> None:
        self.left: Iterator[np.ndarray] = iter([x[:4], x[4:]])

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self.left, None)
        return None if found is None else {"x": found}


OPTIONS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "a step for each output": {"per_channel": True, "reduce_range": True},
    "in uint8": {"activation_type": UINT8, "weight_type": UINT8},
    "around zero": {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True}},
    "weights in pairs": {"extra_options": {"AddQDQPairToWeight": True, "DedicatedQDQPair": True}},
    "biases in float32": {"extra_options": {"QuantizeBias": False}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_networks_agree_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((9, *SHAPE)).astype(F32)
    source, made = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(network(), source)
    quantization.quantize_static(source, made, Reader(x), **OPTIONS[name])
    proto = onnx.load(made)
    found = operators(proto)
    if name != "in uint8":  # whose weights have a zero point each, and so 9 bits
        assert found["QuadConv"] + found["QuadLinear"] == 4, found
    (wanted,) = om.onnxruntime_gives(proto, {"x": x}).values()
    with pipeline.compile_network(proto.SerializeToString()).engine(2) as engine:
        got = engine(x)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    away = np.abs(got - wanted) / np.abs(wanted).max()
    assert away.max() < 0.03  # a level that falls otherwise
    assert np.median(away) < 1e-6


def test_16_bit_may_be_written_in_operators_of_onnx_runtime(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((9, *SHAPE)).astype(F32)
    source, made = tmp_path / "float.onnx", tmp_path / "int16.onnx"
    onnx.save(network(17), source)
    options = {"UseQDQContribOps": True}
    quantization.quantize_static(
        source, made, Reader(x), activation_type=UINT16, extra_options=options
    )
    proto = onnx.load(made)
    assert {node.domain for node in proto.graph.node} >= {"com.microsoft"}
    (wanted,) = om.onnxruntime_gives(proto, {"x": x}).values()
    with pipeline.compile_network(made).engine(2) as engine:
        np.testing.assert_allclose(engine(x), wanted, atol=1e-3 * np.abs(wanted).max())


def others() -> onnx.ModelProto:
    """What else ONNX Runtime's tools write in the QOperator format."""
    nodes = [
        om.node("Conv", "x v b", "c", pads=[1, 1, 1, 1]), om.node("LeakyRelu", "c", "r", alpha=0.1),
        om.node("Sigmoid", "c", "s"), om.node("Mul", "r s", "m"),
        om.node("Concat", "r m", "j", axis=1),
        om.node("AveragePool", "j", "p", kernel_shape=[2, 2], strides=[2, 2]),
        om.node("GlobalAveragePool", "p", "g"), om.node("Flatten", "g", "f"),
        om.node("Gemm", "f w t", "h", transB=1), om.node("Softmax", "h", "y", axis=1),
    ]  # fmt: skip
    draw = np.random.default_rng(0).standard_normal
    shapes = {"v": (8, 3, 3, 3), "b": (8,), "w": (5, 16), "t": (5,)}
    known = {name: draw(shape).astype(F32) for name, shape in shapes.items()}
    return om.model(nodes, {"x": ["N", *SHAPE]}, constants=known, opset=13)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("make", [network, others])
def test_the_qoperator_format_compiles(
    make: Callable[[], onnx.ModelProto], per_channel: bool, tmp_path: Path
) -> None:
    x = np.random.default_rng(1).standard_normal((9, *SHAPE)).astype(F32)
    source, made = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(make(), source)
    form = quantization.QuantFormat.QOperator
    quantization.quantize_static(
        source, made, Reader(x), quant_format=form, per_channel=per_channel
    )
    proto = onnx.load(made)
    found = operators(proto)
    assert found["QuadConv"] + found["QuadLinear"] >= 2, found
    (wanted,) = om.onnxruntime_gives(proto, {"x": x}).values()
    with pipeline.compile_network(made).engine(2) as engine:
        got = engine(x)
    away = np.abs(got - wanted) / np.abs(wanted).max()
    assert away.max() < 0.03  # a level that falls otherwise
    assert np.median(away) < 1e-6


def test_an_operator_of_onnx_runtime_that_is_not_known_is_refused_with_what_to_do() -> None:
    model = om.model([om.node("Relu", "x", "y")], {"x": ["N", 3]})
    model.graph.node[0].op_type, model.graph.node[0].domain = "QLinearWhere", "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)
    with pytest.raises(CompileError, match=r"com.microsoft.QLinearWhere .*quant_format=QuantForm"):
        pipeline.compile_network(model.SerializeToString())


def of_onnx_runtime(op: str, inputs: str, **attributes: Any) -> onnx.ModelProto:
    """A model of one operator of ONNX Runtime's, on levels of x, and what its output stands for."""
    nodes = [
        om.node("QuantizeLinear", "x s z", "q"), om.node(op, inputs, "p", **attributes),
        om.node("DequantizeLinear", "p s z", "y"),
    ]  # fmt: skip
    nodes[1].domain = "" if op == "QLinearMatMul" else "com.microsoft"
    known = {
        "s": np.array(0.03, F32), "z": np.array(120, np.uint8), "m": np.array(5, np.int8),
        "s4": np.full(4, 0.03, F32), "z4": np.full(4, 120, np.uint8),
        "s5": np.full(5, 0.03, F32), "z5": np.full(5, 120, np.uint8),
        "w": np.ones((5, 5), np.uint8),
    }  # fmt: skip
    model = om.model(nodes, {"x": ["N", 3, 4, 5]}, constants=known, opset=13)
    model.opset_import.add(domain="com.microsoft", version=1)
    return model


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("QLinearSoftmax", "q s z s z", {"axis": 1, "opset": 11}),
        ("QLinearSoftmax", "q s z s z", {"axis": -1, "opset": 13}),
        ("QLinearConcat", "s z q s z q s z", {"axis": 2}),
        ("QLinearMul", "q s z q s z s z", {}),
        ("QLinearAveragePool", "q s z s z", {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1]}),
    ],
)
def test_an_operator_of_integers_gives_what_onnx_runtime_gives(
    op: str, inputs: str, attributes: dict[str, Any]
) -> None:
    model = of_onnx_runtime(op, inputs, **attributes)
    x = np.random.default_rng(0).standard_normal((4, 3, 4, 5)).astype(F32)
    (wanted,) = om.onnxruntime_gives(model, {"x": x}).values()
    with pipeline.compile_network(model.SerializeToString()).engine(1) as engine:
        got = engine(x)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() < 0.0301  # a level: ONNX Runtime rounds some its own way
    assert (got == wanted).mean() > 0.9


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("QLinearAdd", "q s m q s m s", {}),
        ("QLinearAveragePool", "q s m s", {"kernel_shape": [2, 2]}),
    ],
)
def test_integers_without_a_zero_point_are_of_the_inputs_type(
    op: str, inputs: str, attributes: dict[str, Any]
) -> None:
    nodes = [om.node("QuantizeLinear", "x s m", "q"), om.node(op, inputs, "y", **attributes)]
    nodes[1].domain = "com.microsoft"
    known = {"s": np.array(0.03, F32), "m": np.array(5, np.int8)}
    model = om.model(nodes, {"x": [1, 3, 4, 5]}, constants=known, opset=13)
    model.opset_import.add(domain="com.microsoft", version=1)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(F32)
    (wanted,) = om.onnxruntime_gives(model, {"x": x}).values()
    (got,) = interpreter.run(passes.apply(om.read(model)), {"x": x}).values()
    assert got.dtype == wanted.dtype == np.int8
    assert np.abs(got.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "why"),
    [
        ("QLinearGlobalAveragePool", "q s z s z", {"channels_last": 1}, "channels_last=1"),
        ("QLinearAdd", "q s z q s z", {}, "the scale of its output is absent"),
        ("QLinearConcat", "s z q s z q s", {}, "5 inputs, not three for each part"),
        ("QLinearConcat", "s z", {}, "0 inputs, not three for each part"),
        ("QLinearSoftmax", "q s z s z", {"axis": 4, "opset": 11}, "axis=4 of 4"),
        ("QLinearSigmoid", "x s z s z", {}, "data of float32"),
        ("QLinearSigmoid", "q s z - z", {}, "the scale of its output is absent"),
        ("QLinearSigmoid", "q - z s z", {}, "data or their scale are absent"),
        ("QLinearSigmoid", "q s4 z4 s z", {}, r"shape \(4,\) where one number is due"),
        ("QLinearSigmoid", "q s z s4 z4", {}, r"shape \(4,\) where one number is due"),
        ("QLinearMatMul", "q s4 z4 w s z s z", {}, r"shape \(4,\) where one number is due"),
        ("QLinearMatMul", "q s z w s z s5 z5", {}, r"shape \(5,\) where one number is due"),
        (
            "QLinearAveragePool",
            "q s z s z",
            {"kernel_shape": [2, 2], "dilations": [2, 2]},
            "attribute 'dilations' is not known",
        ),
        (
            "QLinearAveragePool",
            "q s z s z",
            {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1},
            "ceil_mode with count_include_pad",
        ),
        ("QGemm", "q s z w s z - s", {}, "a scale and no zero point"),
    ],
)
def test_an_odd_operator_of_integers_is_refused(
    op: str, inputs: str, attributes: dict[str, Any], why: str
) -> None:
    with pytest.raises(CompileError, match=f"{op} .*{why}"):
        pipeline.compile_network(of_onnx_runtime(op, inputs, **attributes).SerializeToString())
