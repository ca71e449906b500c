"""Operators of old ONNX operator sets mean what they meant: ONNX Runtime is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_models as om
from secateur.compiler import passes
from secateur.errors import CompileError

F32 = np.float32
X = {"x": [2, 3, 4]}
IMAGE = {"x": [1, 2, 4, 6]}


def one(op: str, opset: int, shapes: Any, inputs: str = "x", **attributes: Any) -> onnx.ModelProto:
    return om.model([om.node(op, inputs, "y", **attributes)], shapes, opset=opset)


@pytest.mark.parametrize(
    "proto",
    [
        one("Squeeze", 11, {"x": [2, 1, 3, 1]}, axes=[1, -1]),
        one("Squeeze", 11, {"x": [2, 1, 3, 1]}),
        one("Unsqueeze", 11, X, axes=[0, -1]),
        one("ReduceSum", 11, X, axes=[-1], keepdims=0),
        one("ReduceSum", 11, X),
        one("ReduceMean", 17, X, axes=[0, 2]),
        one("ReduceMax", 11, X, axes=[1]),
        one("ReduceL2", 13, X, axes=[1]),
        one("Slice", 9, X, starts=[1, -3], ends=[1000, -1], axes=[0, 2]),
        one("Slice", 9, X, starts=[0, 1], ends=[1, 2]),
        one("Clip", 10, X, min=-0.5, max=0.25),
        one("Clip", 7, X, max=0.25),
        one("Clip", 7, X),
        one("Pad", 10, X, pads=[0, 1, 2, 1, 0, 0], value=1.5),
        one("Pad", 7, X, pads=[0, 1, 2, 1, 0, 0], mode="reflect"),
        one("Softmax", 11, X),
        one("Softmax", 11, X, axis=0),
        one("Softmax", 11, X, axis=2),
        one("Softmax", 11, X, axis=-1),
        one("LogSoftmax", 7, X, axis=1),
        one("Cast", 9, X, to=TensorProto.DOUBLE),
        one("MaxPool", 8, IMAGE, kernel_shape=[2, 2], storage_order=1),
        one("Upsample", 7, IMAGE, scales=[1.0, 1.0, 2.0, 3.0]),
        one("Upsample", 7, IMAGE, scales=[1.0, 1.0, 2.0, 2.0], mode="linear"),
        one("Dropout", 7, X),
        one("Dropout", 12, X),
    ],
    ids=lambda proto: proto.graph.node[0].op_type,
)
def test_old_attributes(proto: onnx.ModelProto) -> None:
    om.agrees(proto)


@pytest.mark.parametrize(("opset", "split"), [(11, [1, 3]), (11, None), (13, None), (18, None)])
def test_split(opset: int, split: list[int] | None) -> None:
    attributes: dict[str, Any] = {"axis": 2}
    if split:
        attributes["split"] = split
    if opset == 18:
        attributes["num_outputs"] = 2
    nodes = [om.node("Split", "x", "a b", **attributes), om.node("Concat", "b a", "y", axis=2)]
    om.agrees(om.model(nodes, X, opset=opset))


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset: int) -> None:
    attributes = {7: {"spatial": 1, "momentum": 0.5}, 9: {"momentum": 0.5}}.get(
        opset, {"training_mode": 0}
    )
    nodes = [om.node("BatchNormalization", "x s b m v", "y", epsilon=1e-3, **attributes)]
    shapes: dict[str, list[int]] = {"x": [2, 3, 4], **{name: [3] for name in "sbm"}}
    om.agrees(om.model(nodes, shapes, constants={"v": np.array([1, 2, 3], F32)}, opset=opset))


@pytest.mark.parametrize(("opset", "dtype"), [(9, np.float32), (11, np.bool_)])
def test_the_mask_of_a_dropout(opset: int, dtype: Any) -> None:
    proto = om.model([om.node("Dropout", "x", "y m")], X, "y m", opset=opset)
    graph = passes.apply(om.read(proto), passes.PASSES[:2])
    assert om.ops(graph) == ["Identity"]
    np.testing.assert_array_equal(graph.constants["m"], np.ones((2, 3, 4), dtype))


@pytest.mark.parametrize("scales", [[1, 1, 2, 1.5], [1, 1, 0.5, 0.6]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_set_10(scales: list[float], mode: str) -> None:
    nodes = [om.node("Resize", "x s", "y", mode=mode)]
    constants = {"s": np.array(scales, F32)}
    om.agrees(om.model(nodes, IMAGE, constants=constants, opset=10))


def test_resize_with_empty_inputs() -> None:
    nodes = [om.node("Resize", "x none none sizes", "y", mode="nearest")]
    constants = {"none": np.zeros(0, F32), "sizes": np.array([1, 2, 8, 3])}
    om.agrees(om.model(nodes, IMAGE, constants=constants, opset=11))


@pytest.mark.parametrize(
    ("node", "opset", "match"),
    [
        (om.node("BatchNormalization", "x s s s s", "y", spatial=0), 7, "spatial=0"),
        (om.node("BatchNormalization", "x s s s s", "y a b", training_mode=0), 15, "in training"),
        (om.node("BatchNormalization", "x s s s s", "y a b c d"), 9, "in training"),
        (om.node("Dropout", "x ratio yes", "y"), 13, "in training"),
        (om.node("Resize", "x mixed", "y"), 10, "operator set 13 or newer"),
    ],
)
def test_what_cannot_be_said_today(node: onnx.NodeProto, opset: int, match: str) -> None:
    constants = {
        "s": np.ones(2, F32),
        "ratio": np.array(0.5, F32),
        "yes": np.array(True),
        "mixed": np.array([1, 1, 2, 0.5], F32),
    }
    with pytest.raises(CompileError, match=rf"node {node.op_type} 'n_y' cannot .*{match}"):
        om.read(om.model([node], IMAGE, constants=constants, opset=opset))
