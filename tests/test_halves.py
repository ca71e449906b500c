"""Networks of float16 are computed in float32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_models as om
import secateur
from secateur.compiler import halves
from secateur.errors import UsageError

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
