"""What ONNX Runtime's `quantize_static` writes: in integers, as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_models as om
from quantised_models import operators
from secateur.compiler import pipeline
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


def test_operators_of_onnx_runtime_alone_are_refused_with_what_to_do(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((9, *SHAPE)).astype(F32)
    source, made = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(network(), source)
    form = quantization.QuantFormat.QOperator
    quantization.quantize_static(source, made, Reader(x), quant_format=form)
    with pytest.raises(CompileError, match=r"com.microsoft.QLinearAdd .*quant_format=QuantForma"):
        pipeline.compile_network(made)
