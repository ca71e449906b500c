"""Pools between levels: in words, whatever made the levels and whoever reads them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_models as om
from quantised_models import around, model, operators, steps_off, whole
from secateur.compiler import interpreter, passes, pipeline

pytest.importorskip("onnxruntime")
F32 = np.float32
CONV = [om.node("Conv", "d wf", "c0", pads=[1, 1, 1, 1]), *around("c0", "u", "m", "e")]
WEIGHTS = {"w": whole(10, 3, 3, 3), "ws": np.linspace(0.004, 0.012, 10, dtype=F32)}
GRID = {"u": np.asarray(F32(0.08)), "m": np.asarray(np.uint8(20))}
MEANS = {
    "a plane": om.node("GlobalAveragePool", "e", "c"),
    "all axes of a plane": om.node("ReduceMean", "e axes", "c", keepdims=1),
    "axes that go": om.node("ReduceMean", "e axes", "c", keepdims=0),
    "windows": om.node("AveragePool", "e", "c", kernel_shape=[3, 2], strides=[2, 1]),
    "with a border": om.node(
        "AveragePool", "e", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]
    ),
    "with a border that counts": om.node(
        "AveragePool", "e", "c", kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1
    ),
    "that hang over": om.node(
        "AveragePool", "e", "c", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
}


@pytest.mark.parametrize("name", MEANS)
def test_means_agree_with_onnx_runtime_to_a_level(name: str) -> None:
    constants = WEIGHTS | GRID | {"axes": np.array([2, 3])}
    proto = model([*CONV, MEANS[name]], (3, 10, 12), constants, out=(F32(0.03), np.uint8(101)))
    found = operators(proto)
    assert found["QuadAveragePool"] == found["QuadConv"] == 1
    assert not {"AveragePool", "GlobalAveragePool", "ReduceMean"} & set(found)
    # ONNX Runtime's level of the convolution may be one apart, and moves a mean by that
    most, share = steps_off(proto, inputs(9, 3, 10, 12), 0.03)
    assert most < 1.01
    assert share < 0.02


def test_the_largest_of_a_plane_stays_a_level() -> None:
    nodes = [*CONV, om.node("GlobalMaxPool", "e", "c")]
    proto = model(nodes, (3, 10, 12), WEIGHTS | GRID)
    found = operators(proto)
    assert found["QuadMaxPool"] == found["QuadConv"] == 1
    assert "GlobalMaxPool" not in found
    assert steps_off(proto, inputs(19, 3, 10, 12), 0.08)[0] < 1.01


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(F32)


def plain(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **constants: np.ndarray) -> bytes:
    """A model whose `y` is what is made of numbers `d` that stand for levels."""
    known = {"s": np.asarray(F32(0.02)), "z": np.asarray(np.uint8(117)), **constants}
    proto = om.model([*around("x", "s", "z", "d"), *nodes], {"x": ["N", *shape]}, constants=known)
    return proto.SerializeToString()


@pytest.mark.parametrize("side", [5, 21])
def test_means_that_nobody_rounds_are_one_product_each(side: int) -> None:
    """A plane of 21 x 21 has more levels than 16 bits can add up."""
    nodes = [
        om.node("GlobalAveragePool", "d", "p"),
        om.node("ReduceMean", "d axes", "m", keepdims=0),
        om.node("Unsqueeze", "m axes", "n"),
        om.node("Add", "p n", "y"),
    ]
    content = plain(nodes, (6, side, side), axes=np.array([2, 3]))
    x = inputs(19, 6, side, side) * F32(2)
    x[3] = 9  # all of it at the highest level
    levels = np.clip(np.rint(x / F32(0.02)) + 117, 0, 255) - 117
    sums = levels.reshape(19, 6, -1).sum(2).astype(F32)
    wanted = 2 * sums * F32(float(F32(0.02)) / side**2)
    with pipeline.compile_network(content).engine(2) as engine:
        np.testing.assert_array_equal(engine(x)[:, :, 0, 0], wanted)


def test_means_over_other_axes_stay_in_float32() -> None:
    content = plain([om.node("ReduceMean", "d axes", "y")], (6, 5, 5), axes=np.array([1, 2]))
    found = {node.op for node in passes.apply(om.read(onnx.load_from_string(content))).nodes}
    assert "ReduceMean" in found
    assert "QuadAveragePool" not in found


def test_the_first_layer_after_a_pool_of_numbers_reads_words() -> None:
    """Levels that no layer made become words before the pool, of which there is less after it."""
    nodes = [
        om.node("MaxPool", "d", "p", kernel_shape=[2, 2], strides=[2, 2]),
        *around("p", "s", "z", "e"),
        om.node("DequantizeLinear", "w ws", "wf", axis=0),
        om.node("Conv", "e wf", "y"),
    ]
    content = plain(nodes, (3, 12, 12), **WEIGHTS)
    graph = passes.apply(om.read(onnx.load_from_string(content)))
    found = [node.op for node in graph.nodes]
    assert found == ["ToQuads", "QuadMaxPool", "QuadConv"]
    x = inputs(18, 3, 12, 12)
    x[2, 0, 3] = np.nan
    wanted = np.concatenate([interpreter.run(graph, {"x": one[None]})["y"] for one in x])
    with pipeline.compile_network(content).engine() as engine:
        np.testing.assert_array_equal(engine(x), wanted)
