"""Layers of no inputs or no outputs: they give nothing, or their bias, as in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import secateur
from secateur.errors import CompileError

FLOAT = TensorProto.FLOAT
Arrays = dict[str, np.ndarray]


def model(nodes: list[Any], rows: tuple[int, ...], constants: Arrays) -> bytes:
    """Return a network of x [N, *rows] and y."""
    graph = helper.make_graph(
        nodes,
        "empty",
        [helper.make_tensor_value_info("x", FLOAT, ["N", *rows])],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in ("y", "z")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "bias"),
    [
        ("MatMul", (8, 0), {}, 0),
        ("MatMul", (0, 5), {}, 0),
        ("Gemm", (8, 0), {}, 0),
        ("Gemm", (0, 5), {}, 5),
        ("Gemm", (5, 0), {"transB": 1}, 5),
    ],
)
def test_a_linear_layer(
    op: str, shape: tuple[int, ...], attributes: dict[str, int], bias: int
) -> None:
    inputs = shape[attributes.get("transB", 0)]
    constants = {
        "w": np.zeros(shape, np.float32),
        "v": np.ones((inputs or 1, 6), np.float32),
        "b": np.arange(bias, dtype=np.float32),
    }
    layer = helper.make_node(op, ["x", "w", *(["b"] if bias else [])], ["y"], **attributes)
    if inputs:
        nodes = [layer, helper.make_node("MatMul", ["x", "v"], ["z"])]
    else:
        nodes = [layer, helper.make_node("Relu", ["y"], ["z"])]
        del constants["v"]
    if not bias:
        del constants["b"]
    content = model(nodes, (inputs,), constants)
    x = np.ones((4, inputs), np.float32)
    wanted = onnxruntime.InferenceSession(content).run(None, {"x": x})
    with secateur.compile(content) as engine:
        for found, right in zip(engine(x), wanted, strict=True):
            np.testing.assert_array_equal(found, right)
    if inputs:
        made = secateur.quantize(content, x)
        assert len(made.int8) == 1
        assert [row.why for row in made.rows if row.why] == ["it has no weights"]
    else:
        with pytest.raises(CompileError, match=r"no layer is left .* it has no weights"):
            secateur.quantize(content, x)


@pytest.mark.parametrize("shape", [(8, 0), (0, 6)])
def test_a_linear_layer_of_an_int8_file(shape: tuple[int, int]) -> None:
    constants = {
        "w": np.zeros(shape, np.int8), "step": np.float32(0.125), "zero": np.uint8(3),
        "even": np.int8(0),
    }  # fmt: skip
    pairs = {"x": "zero", "y": "zero"}
    nodes = [helper.make_node("DequantizeLinear", ["w", "step", "even"], ["w_"])]
    for value, zero in pairs.items():
        if value == "y":
            nodes.append(helper.make_node("MatMul", ["x_", "w_"], ["y"]))
        stored = f"{value}_q"
        nodes.append(helper.make_node("QuantizeLinear", [value, "step", zero], [stored]))
        nodes.append(helper.make_node("DequantizeLinear", [stored, "step", zero], [f"{value}_"]))
    nodes.append(helper.make_node("Relu", ["y_"], ["z"]))
    content = model(nodes, (shape[0],), {k: np.asarray(v) for k, v in constants.items()})
    x = np.ones((4, shape[0]), np.float32)
    wanted = onnxruntime.InferenceSession(content).run(None, {"x": x})
    with secateur.compile(content) as engine:
        for found, right in zip(engine(x), wanted, strict=True):
            np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("shape", [(0, 3, 1, 1), (3, 0, 1, 1)])
def test_a_convolution_is_refused(op: str, shape: tuple[int, ...]) -> None:
    channels = shape[0 if op == "ConvTranspose" else 1]
    nodes = [helper.make_node(op, ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    content = model(nodes, (channels, 4, 4), {"w": np.zeros(shape, np.float32)})
    for call in (secateur.compile, lambda c: secateur.quantize(c, np.ones((4, channels, 4, 4)))):
        with pytest.raises(
            CompileError, match=rf"node {op} .* cannot be compiled: input .* weight"
        ):
            call(content)
