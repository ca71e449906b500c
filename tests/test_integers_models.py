"""QDQ models: they agree with ONNX Runtime to a level; what is odd is right, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_models as om
from quantised_models import around, model, operators, steps_off, whole
from secateur.compiler import interpreter, passes, pipeline
from secateur.errors import CompileError

pytest.importorskip("onnxruntime")
F32 = np.float32
CONV = om.node("Conv", "d wf", "c", pads=[1, 1, 1, 1])
STEP = 0.08


def inputs(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def steps(count: int, most: float = 0.012) -> np.ndarray:
    return np.linspace(0.004, most, count, dtype=F32)


def conv_constants(outputs: int = 9, channels: int = 3, **more: Any) -> dict[str, np.ndarray]:
    return {"w": whole(outputs, channels, 3, 3), "ws": steps(outputs), **more}


LAYERS = {
    "a convolution": ([CONV], (3, 9, 9), conv_constants()),
    "one with a stride, Relu and a bias": (
        [
            om.node("Conv", "d wf b", "c0", pads=[0, 1, 1, 0], strides=[2, 1]),
            om.node("Relu", "c0", "c"),
        ],
        (3, 9, 9),
        conv_constants(b=np.linspace(-1, 1, 9, dtype=F32)),
    ),
    "depthwise": (
        [om.node("Conv", "d wf", "c", pads=[1, 1, 1, 1], group=8)],
        (8, 9, 7),
        {"w": whole(8, 1, 3, 3), "ws": steps(8)},
    ),
    "of one axis": (
        [om.node("Conv", "d wf", "c", pads=[1, 1])],
        (6, 30),
        {"w": whole(7, 6, 3), "ws": F32(0.01)},
    ),
    "a residual": (
        [om.node("Conv", "d wf", "c0", pads=[1, 1, 1, 1]), om.node("Add", "d c0", "c")],
        (9, 8, 8),
        conv_constants(9, 9),
    ),
    "linear": ([om.node("MatMul", "d wf", "c")], (33,), {"w": whole(33, 17), "ws": F32(0.01)}),
    "linear of tokens": (
        [om.node("MatMul", "d wf", "c")],
        (5, 33),
        {"w": whole(33, 17), "ws": F32(0.01)},
    ),
    "linear with a bias": (
        [om.node("Gemm", "d wf b", "c", transB=1)],
        (33,),
        {"w": whole(17, 33), "ws": steps(17), "b": np.linspace(-2, 2, 17, dtype=F32)},
    ),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(255), np.uint8(117), np.int8(-3)], ids=str)
def test_a_layer_agrees_with_onnx_runtime_to_a_level(name: str, zero: Any) -> None:
    layers, shape, constants = LAYERS[name]
    proto = model(
        layers,
        shape,
        constants,
        grid=(F32(0.02), zero),
        axis=len(constants["w"].shape) == 2 and layers[0].op_type == "MatMul",
    )
    found = operators(proto)
    assert found["QuadConv"] + found["QuadLinear"] == 1, found
    assert not {"FusedConv", "FusedLinear"} & set(found)
    most, share = steps_off(proto, inputs(7, *shape), STEP)
    assert most < 1.01
    assert share < 0.02


def test_sums_and_pools_agree_with_onnx_runtime_to_a_level() -> None:
    total = [*around("d", "u", "m", "e"), om.node("Add", "d e", "a"), om.node("Relu", "a", "c")]
    proto = model(total, (5, 9, 9), {"u": F32(0.05), "m": np.uint8(99)})
    assert operators(proto)["QuadAdd"] == 1
    most, share = steps_off(proto, inputs(7, 5, 9, 9), STEP)
    assert most < 1.01
    assert share < 0.02
    pool = [
        om.node("Conv", "d wf", "c0"), *around("c0", "t", "v", "e"),
        om.node("MaxPool", "e", "c", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    proto = model(pool, (3, 9, 9), conv_constants())
    assert operators(proto)["QuadMaxPool"] == 1
    most, share = steps_off(proto, inputs(7, 3, 9, 9), STEP)
    assert most < 1.01
    assert share < 0.02


def test_levels_may_be_read_on_another_grid_than_they_were_written() -> None:
    proto = model([CONV], (3, 9, 9), conv_constants())
    (read,) = [n for n in proto.graph.node if n.output[0] == "d"]
    read.input[1], read.input[2] = "s2", "z2"
    for name, array in (("s2", F32(0.031)), ("z2", np.uint8(90))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    assert operators(proto)["QuadConv"] == 1
    most, _ = steps_off(proto, inputs(7, 3, 9, 9), STEP)
    assert most < 1.01


def test_levels_that_are_moved_are_read_on_their_own_grid() -> None:
    moved = [om.node("Transpose", "d", "c", perm=[0, 2, 1])]
    proto = model(moved, (4, 30), out=(F32(0.02), np.uint8(117)))
    (read,) = [n for n in proto.graph.node if n.output[0] == "d"]
    read.input[1] = "s2"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(F32(0.05)), "s2"))
    assert steps_off(proto, inputs(5, 4, 30), 0.02)[0] < 1.01


def test_outputs_that_hear_nothing_keep_their_bias() -> None:
    """Where all weights are 0 there is no step of weights to count the bias in."""
    w = whole(9, 3, 3, 3)
    w[2], w[5] = 0, 0
    bias = np.linspace(-0.7, 0.9, 9, dtype=F32)
    constants = {"w": w, "ws": steps(9), "b": bias}
    layers = [om.node("Conv", "d wf b", "c")]
    proto = model(
        layers, (3, 6, 6), constants, grid=(F32(3), np.uint8(100)), out=(F32(0.01), np.uint8(90))
    )
    assert operators(proto)["QuadConv"] == 1
    graph = passes.apply(om.read(proto))
    made = interpreter.run(graph, {"x": inputs(1, 3, 6, 6)})["y"]
    for channel in (2, 5):
        level = np.rint(bias[channel] / F32(0.01)) * F32(0.01)
        np.testing.assert_allclose(made[:, channel], level, rtol=1e-6)


@pytest.mark.parametrize(
    ("terms", "integers"), [(4608, True), (66_311, True), (66_312, False), (70_000, False)]
)
def test_sums_are_exact_to_the_edge_of_int32(terms: int, integers: bool) -> None:
    """255 x 127 x 66,311 = 2,147,481,735 fits; beyond, a layer is float32, and right."""
    w = np.full((terms, 3), 127, np.int8)
    w[:, 1] = -127
    w[::2, 2] = -127
    scale = terms * 127 * 255 / 200
    layers = [om.node("MatMul", "d wf", "c")]
    constants = {"w": w, "ws": F32(1)}
    proto = model(
        layers,
        (terms,),
        constants,
        axis=1,
        grid=(F32(1), np.uint8(0)),
        out=(F32(scale), np.uint8(0)),
    )
    assert operators(proto)["QuadLinear"] == int(integers)
    given = np.full((2, terms), 255, F32)
    given[1, : terms // 2] = 0
    with pipeline.compile_network(proto.SerializeToString()).engine() as engine:
        found = engine(given)
    sums = given.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(found, np.clip(np.rint(sums / scale), 0, 255) * scale, rtol=1e-6)


def test_the_sums_themselves_are_exact() -> None:
    """Where nothing rounds the result, numbers beyond 2^24 are rounded once."""
    rng = np.random.default_rng(0)
    w = rng.choice([-127, 127, 126], (4608, 8)).astype(np.int8)
    nodes = [*around("x", "s", "z", "d"), om.node("DequantizeLinear", "w ws", "wf", axis=1)]
    nodes += [om.node("MatMul", "d wf", "y")]
    constants = {"s": F32(1), "z": np.uint8(0), "w": w, "ws": F32(1)}
    proto = om.model(nodes, {"x": ["N", 4608]}, constants=constants)
    assert operators(proto)["QuadLinear"] == 1
    x = rng.choice([0, 1, 254, 255], (5, 4608)).astype(F32)
    with pipeline.compile_network(proto.SerializeToString()).engine() as engine:
        np.testing.assert_array_equal(engine(x), (x.astype(np.float64) @ w).astype(F32))


@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31), 2**30])
def test_a_bias_that_fills_int32_is_not_wrapped(bias: int) -> None:
    layers = [om.node("DequantizeLinear", "bi bs", "b"), om.node("Conv", "d wf b", "c")]
    constants = conv_constants(bi=np.full(9, bias, np.int32), bs=F32(0.01 * 0.02)) | {
        "ws": F32(0.01)
    }
    proto = model(layers, (3, 9, 9), constants, out=(F32(3000), np.uint8(128)))
    assert operators(proto)["QuadConv"] == int(bias == 2**30)
    assert steps_off(proto, inputs(3, 3, 9, 9), 3000)[0] < 1.01


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("where", ["grid", "out"])
def test_scales_that_float32_hardly_holds_give_what_float32_gives(where: str, scale: float) -> None:
    more: dict[str, Any] = {where: (F32(scale), np.uint8(117))}
    proto = model([CONV], (3, 5, 5), conv_constants(), **more)
    graph = om.read(proto)
    x = inputs(1, 3, 5, 5) * F32(min(scale, 1e30) * 50 if where == "grid" else 1)
    before = interpreter.run(passes.apply(graph, passes.PASSES[:2]), {"x": x})["y"]
    after = interpreter.run(passes.apply(graph), {"x": x})["y"]
    np.testing.assert_array_equal(np.isnan(after), np.isnan(before))
    step = float(more.get("out", (STEP,))[0])
    with np.errstate(all="ignore"):
        away = np.abs(after.astype(np.float64) - before) / step
    # a sum that is 0 but for rounding lies on both sides of a tiny step
    assert (away[np.isfinite(away)] > 1.01).mean() < 0.01


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 0.7, 0.0])
def test_numbers_that_are_none_become_defined_levels(number: float) -> None:
    x = inputs(20, 3, 9, 9)
    x[np.random.default_rng(0).random(x.shape) < 0.2] = number
    x[3] = number
    proto = model([CONV], (3, 9, 9), conv_constants())
    graph = passes.apply(om.read(proto))
    wanted = np.concatenate([interpreter.run(graph, {"x": one[None]})["y"] for one in x])
    as_lowest = np.where(np.isnan(x), F32(-1e9), x)
    lowest = np.concatenate([interpreter.run(graph, {"x": one[None]})["y"] for one in as_lowest])
    np.testing.assert_array_equal(wanted, lowest)
    with pipeline.compile_network(proto.SerializeToString()).engine(2) as engine:
        np.testing.assert_array_equal(engine(x), wanted)
        assert engine(x[:0]).shape == (0, 9, 9, 9)


@pytest.mark.parametrize(
    ("changes", "axis"),
    [
        ({"wz": np.arange(9, dtype=np.int8) - 4}, 0),
        ({"w": whole(9, 3, 3, 3).view(np.uint8), "wz": np.full(9, 128, np.uint8)}, 0),
        ({"w": whole(9, 3, 3, 3).view(np.uint8), "wz": np.full(9, 7, np.uint8)}, 0),
        ({"ws": np.array([0.01, 0.02, 0.03], F32)}, 1),
        ({"ws": steps(3)}, -1),
        ({"ws": steps(9)}, -4),
        ({"ws": F32(0.01)}, 0),
    ],
)
def test_odd_weights_are_computed_right(changes: dict[str, np.ndarray], axis: int) -> None:
    proto = model([CONV], (3, 9, 9), conv_constants() | changes, axis=axis)
    most, share = steps_off(proto, inputs(7, 3, 9, 9), STEP)
    assert most < 1.01
    assert share < 0.02


def test_activations_with_a_scale_for_each_channel_are_computed_in_float32() -> None:
    grid = np.array([0.02, 0.03, 0.04], F32), np.array([3, 100, 250], np.uint8)
    proto = model([CONV], (3, 9, 9), conv_constants(), grid=grid)
    assert operators(proto)["FusedConv"] == 1
    assert steps_off(proto, inputs(7, 3, 9, 9), STEP)[0] < 1.01


@pytest.mark.parametrize("scale", [0.0, -0.5, np.nan, np.inf])
@pytest.mark.parametrize("name", ["s", "t", "ws"])
def test_a_scale_must_be_positive_and_finite(name: str, scale: float) -> None:
    proto = model([CONV], (3, 9, 9), conv_constants() | {"ws": F32(0.01)})
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(F32(scale)), name))
    match = r"node (Deq|Q)uantizeLinear 'n_\w+' cannot be compiled: a scale that is not positive"
    with pytest.raises(CompileError, match=match):
        pipeline.compile_network(proto.SerializeToString())


SMALL = {
    "int4": TensorProto.INT4, "uint4": TensorProto.UINT4,
    "float8e4m3fn": TensorProto.FLOAT8E4M3FN, "float8e5m2": TensorProto.FLOAT8E5M2,
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_smaller_types_are_refused_by_name(kind: str) -> None:
    tensor = helper.make_tensor("w", SMALL[kind], [2, 3], [1.0, 0, 2, 1, 0, 1])
    nodes = [om.node("DequantizeLinear", "w ws", "wf"), om.node("MatMul", "x wf", "y")]
    proto = om.model(nodes, {"x": ["N", 2]}, constants={"ws": np.asarray(F32(0.5))})
    proto.graph.initializer.append(tensor)
    with pytest.raises(CompileError, match=rf"(?i){kind}"):
        pipeline.compile_network(proto.SerializeToString())
    nodes = [om.node("QuantizeLinear", "x s z", "q"), om.node("DequantizeLinear", "q s z", "y")]
    proto = om.model(nodes, {"x": ["N", 2]}, constants={"s": np.asarray(F32(0.5))})
    proto.graph.initializer.append(helper.make_tensor("z", SMALL[kind], [], [0.0]))
    with pytest.raises(CompileError, match=rf"(?i){kind}"):
        pipeline.compile_network(proto.SerializeToString())
