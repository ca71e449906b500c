"""Networks of float16 and bfloat16 are computed in float32."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

import onnx_models as om
import secateur
from secateur.compiler import halves, onnx_description, onnx_reader
from secateur.errors import CompileError, UsageError

HALF = np.float16


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {"w": (rng.standard_normal((8, 4)) / 3).astype(HALF), "four": np.array([4])}
    filling = onnx.numpy_helper.from_array(np.full(1, 0.5, HALF))
    nodes = [
        om.node("MatMul", "x w", "a"),
        om.node("Cast", "flag", "f", to=onnx.TensorProto.FLOAT16),
        om.node("ConstantOfShape", "four", "c", value=filling),
        om.node("Add", "a c", "b"),
        om.node("Mul", "b f", "m"),
        om.node("Softmax", "m", "y"),
    ]
    inputs = [om.value("x", ["N", 8], HALF), om.value("flag", ["N", 1], np.int64)]
    return om.model(nodes, inputs, constants=constants)


def test_takes_and_gives_float32_and_takes_float16_too() -> None:
    proto = model()
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(HALF)
    flag = np.array([[0], [1], [1], [2], [3]], np.int64)
    wanted = om.onnxruntime_gives(proto, {"x": x, "flag": flag})["y"]
    for values in ("fp32", "fp16"):
        with secateur.compile(proto, values=values) as engine:
            assert [port["dtype"] for port in engine.info["inputs"]] == ["float32", "int64"]
            y = engine(x, flag)
            assert y.dtype == np.float32
            np.testing.assert_array_equal(engine(x.astype(np.float32), flag), y)
            np.testing.assert_allclose(y, wanted, atol=2e-3)
            with pytest.raises(UsageError, match="float64"):
                engine(x.astype(np.float64), flag)


def test_every_float16_goes_those_in_branches_included() -> None:
    inner = om.branch([om.node("Mul", "x two", "t")], "t", two=np.array(2, HALF))
    node = om.node("If", "yes", "y", then_branch=inner, else_branch=inner)
    proto = om.model([node], [om.value("x", [3], HALF)], constants={"yes": np.array(True)})
    graph = halves.widened(om.read(proto))
    assert {a.dtype for a in graph.constants.values()} == {np.dtype(bool), np.dtype(np.float32)}
    assert graph.types["x"].dtype == np.float32


def brain(raw: bool) -> onnx.ModelProto:
    """y = relu(x @ w + c): weights, an input, a cast and an attribute of bfloat16."""
    kind = onnx.TensorProto.BFLOAT16
    weights = ml_dtypes.bfloat16(np.random.default_rng(0).standard_normal((8, 4)))
    filling = onnx.numpy_helper.from_array(np.full(1, 0.5, ml_dtypes.bfloat16))
    nodes = [
        om.node("Cast", "flag", "f", to=kind),
        om.node("MatMul", "x w", "a"),
        om.node("ConstantOfShape", "four", "c", value=filling),
        om.node("Add", "a c", "b"),
        om.node("Mul", "b f", "m"),
        om.node("Relu", "m", "y"),
    ]
    inputs = [om.value("x", ["N", 8], ml_dtypes.bfloat16), om.value("flag", ["N", 1], np.int64)]
    proto = om.model(nodes, inputs, constants={"four": np.array([4]), "w": weights})
    if not raw:
        tensor = onnx.helper.make_tensor("w", kind, [8, 4], weights.astype(np.float32).ravel())
        assert not tensor.raw_data
        proto.graph.initializer[1].CopyFrom(tensor)
    return proto


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_is_float32_as_well(raw: bool, tmp_path: Path) -> None:
    proto = brain(raw)
    weights = onnx.numpy_helper.to_array(proto.graph.initializer[1]).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(ml_dtypes.bfloat16)
    flag = np.array([[0], [1], [1], [2], [3]], np.int64)
    wanted = np.maximum((x.astype(np.float32) @ weights + 0.5) * flag, 0)
    for values in ("fp32", "bf16"):
        with secateur.compile(proto, values=values) as engine:
            assert [port["dtype"] for port in engine.info["inputs"]] == ["float32", "int64"]
            np.testing.assert_allclose(engine(x, flag), wanted, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(engine(x.astype(np.float32), flag), engine(x, flag))
    onnx.save(proto, tmp_path / "m.onnx")
    found = onnx_description.described(tmp_path / "m.onnx")
    assert found["inputs"][0]["dtype"] == found["tensors"][1]["dtype"] == "bfloat16"


def test_bfloat16_beside_the_file_and_damaged(tmp_path: Path) -> None:
    onnx.save(
        brain(True), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0,
        location="data.bin",
    )  # fmt: skip
    graph = onnx_reader.read(tmp_path / "m.onnx").graph
    assert graph.constants["w"].dtype == np.float32
    proto = brain(True)
    proto.graph.initializer[1].raw_data += b"x"
    om.refused(proto, CompileError, r"constant 'w' has shape \[8, 4\] but 65 bytes")
