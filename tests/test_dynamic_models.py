"""What ONNX Runtime's `quantize_dynamic` writes: in integers, as ONNX Runtime computes it."""

from __future__ import annotations

from collections import Counter
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
Model = tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[int]]


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32) / F32(np.sqrt(shape[0]))


def layer(x: str, y: str, inputs: int, outputs: int) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    nodes = [om.node("MatMul", f"{x} {y}_w", f"{y}_m"), om.node("Add", f"{y}_m {y}_b", y)]
    return nodes, {
        f"{y}_w": weights(inputs, outputs, seed=len(y)),
        f"{y}_b": weights(1, outputs)[0],
    }


def mlp() -> Model:
    nodes, known = layer("x", "h", 37, 50)
    more, others = layer("r", "y", 50, 11)
    return [*nodes, om.node("Relu", "h", "r"), *more], known | others, [4, 37]


def transformer() -> Model:
    """One head; what three layers read is quantised once."""
    nodes: list[onnx.NodeProto] = []
    known: dict[str, np.ndarray] = {"g": np.ones(32, F32), "o": np.zeros(32, F32)}
    for y in ("q", "k", "v"):
        made, its = layer("x", y, 32, 32)
        nodes, known = nodes + made, known | its
    nodes += [
        om.node("Transpose", "k", "kt", perm=[0, 2, 1]), om.node("MatMul", "q kt", "s"),
        om.node("Softmax", "s", "p", axis=-1), om.node("MatMul", "p v", "c"),
        om.node("Add", "x c", "t"), om.node("LayerNormalization", "t g o", "n", axis=-1),
    ]  # fmt: skip
    first, its = layer("n", "up", 32, 64)
    last, others = layer("a", "down", 64, 32)
    nodes += [*first, om.node("Gelu", "up", "a"), *last, om.node("Add", "n down", "y")]
    return nodes, known | its | others, [2, 9, 32]


def convolutions() -> Model:
    nodes = [
        om.node("Conv", "x v b", "c", pads=[1, 1, 1, 1]), om.node("Relu", "c", "r"),
        om.node("Conv", "r w", "d", pads=[0, 1, 1, 0], strides=[2, 2]),
        om.node("Relu", "d", "y"),
    ]  # fmt: skip
    known = {"v": weights(10, 3, 3, 3), "w": weights(7, 10, 3, 3), "b": weights(1, 10)[0]}
    return nodes, known, [2, 3, 11, 12]


NETWORKS = {
    "mlp": (mlp, {}),
    "mlp, a scale for each output": (mlp, {"per_channel": True}),
    "mlp, unsigned weights": (mlp, {"weight_type": quantization.QuantType.QUInt8}),
    "transformer": (transformer, {}),
    "convolutions": (convolutions, {"weight_type": quantization.QuantType.QUInt8}),
}


def quantised(made: Model, folder: Path, **options: Any) -> onnx.ModelProto:
    nodes, known, shape = made
    onnx.save(om.model(nodes, {"x": shape}, constants=known), folder / "float.onnx")
    quantization.quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", **options)
    return onnx.load(folder / "dynamic.onnx")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    om.need_exact_sums()
    build, options = NETWORKS[name]
    proto = quantised(build(), tmp_path, **options)
    products = Counter(node.op_type for node in proto.graph.node)
    found = operators(proto)
    assert products["MatMulInteger"] + products["ConvInteger"] >= 2
    assert found["QuadLinear"] == products["MatMulInteger"]
    assert found["QuadConv"] == products["ConvInteger"]
    assert found["DynamicGrid"] == products["DynamicQuantizeLinear"]
    x = np.random.default_rng(1).standard_normal(build()[2]).astype(F32)
    (wanted,) = om.onnxruntime_gives(proto, {"x": x}).values()
    with pipeline.compile_network(proto.SerializeToString()).engine(2) as engine:
        got = engine(x)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    size = np.abs(wanted).max()
    away = np.abs(got - wanted) / size
    assert away.max() < 0.02  # a level that falls otherwise
    assert np.median(away) < 1e-6


def test_samples_that_share_a_scale_need_a_batch(tmp_path: Path) -> None:
    nodes, known, shape = mlp()
    proto = quantised((nodes, known, ["N", *shape[1:]]), tmp_path)  # type: ignore[list-item]
    with pytest.raises(CompileError, match="fix the batch"):
        pipeline.compile_network(proto.SerializeToString())


def product(
    nodes: list[onnx.NodeProto], **more: np.ndarray
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    known = {"w": rng.integers(-127, 128, (20, 6)).astype(np.int8), "ws": np.asarray(F32(0.01))}
    start = [
        om.node("DynamicQuantizeLinear", "x", "q s z"),
        om.node("MatMulInteger", "q w z", "m"),
        om.node("Cast", "m", "c", to=1),
        om.node("Mul", "s ws", "t"),
    ]
    given = {"x": rng.standard_normal((5, 20)).astype(F32)}
    return om.model([*start, *nodes], {"x": [5, 20]}, constants=known | more), given


ODD = {
    "sums that something else reads": [
        om.node("Mul", "c t", "n"), om.node("Mul", "n c", "y"),
    ],
    "a scale by steps": [om.node("Mul", "c s", "n"), om.node("Mul", "n ws", "y")],
    "a scale for each row": [
        om.node("Mul", "t rows", "u"), om.node("Mul", "c u", "y"),
    ],
    "no scale": [om.node("Add", "c t", "y")],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_other_forms_are_computed_right(name: str) -> None:
    om.need_exact_sums()
    proto, given = product(ODD[name], rows=np.linspace(1, 2, 5, dtype=F32)[:, None])
    (wanted,) = om.onnxruntime_gives(proto, given).values()
    with pipeline.compile_network(proto.SerializeToString()).engine() as engine:
        np.testing.assert_allclose(engine(given), wanted, rtol=1e-5, atol=1e-5)


def test_products_of_computed_values_are_products_of_numbers() -> None:
    nodes = [
        om.node("DynamicQuantizeLinear", "x", "q s z"), om.node("Transpose", "q", "u"),
        om.node("MatMulInteger", "q u z z", "m"), om.node("Cast", "m", "c", to=1),
        om.node("Mul", "s s", "t"), om.node("Mul", "c t", "y"),
    ]  # fmt: skip
    proto = om.model(nodes, {"x": [5, 300]})
    given = {"x": np.random.default_rng(0).standard_normal((5, 300)).astype(F32)}
    found = operators(proto)
    assert (found["MatMul"], found["QuadLinear"], found["Slice"]) == (1, 0, 0)
    (wanted,) = om.onnxruntime_gives(proto, given).values()
    with pipeline.compile_network(proto.SerializeToString()).engine() as engine:
        np.testing.assert_allclose(engine(given), wanted, rtol=1e-5, atol=1e-3)
