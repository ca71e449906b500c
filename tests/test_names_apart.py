"""Names that secateur makes while it plans stay apart from those of the model's file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_models as om
import secateur

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


def conv_then_linear(names: Mapping[str, str]) -> onnx.ModelProto:
    """Planes so large that they are worked on sample by sample, then a layer of all samples."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 2, 3, 3)), "v": rng.standard_normal((4, 5))}
    n = {part: names.get(part, part) for part in ("x", "h", "g", "f", "y", *constants)}
    nodes = [
        helper.make_node("Conv", [n["x"], n["w"]], [n["h"]], "conv", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", [n["h"]], [n["g"]], "pool"),
        helper.make_node("Flatten", [n["g"]], [n["f"]], "flat"),
        helper.make_node("Gemm", [n["f"], n["v"]], [n["y"]], "gemm"),
    ]
    tensors = [numpy_helper.from_array(v.astype(np.float32), n[k]) for k, v in constants.items()]
    inputs = [om.value(n["x"], ["batch", 2, 24, 24])]
    outputs = [om.value(n["y"], ["batch", 5])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    "names",
    [
        {"g": "one h", "f": "one x", "y": "one w", "h": "h"},
        {"g": "one 0 h", "f": "one 0 x", "y": "one 1 h"},
        {"g": "conv@scratch", "f": "h@scratch", "y": "gemm@scratch"},
        {"g": "h@staged", "f": "one h@staged", "y": "x@0"},
        {"h": "x@0", "g": "x@1", "f": "one x@0", "y": "y@out0"},
        {"h": "conv", "g": "pool", "f": "gemm_bias", "y": "conv_bias", "x": "gemm_rows"},
    ],
)
def test_names_like_those_of_the_planner_are_apart(names: dict[str, str]) -> None:
    proto = conv_then_linear(names)
    engine = secateur.compile(proto)
    x = np.random.default_rng(1).standard_normal((40, 2, 24, 24)).astype(np.float32)
    (wanted,) = om.onnxruntime_gives(proto, {names.get("x", "x"): x}).values()
    np.testing.assert_allclose(engine(x), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["rnn@scratch", "h@scratch", "h@scratch_1"])
def test_scratch_memory_is_apart(name: str) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((1, 4, 3)), "r": rng.standard_normal((1, 4, 4))}
    nodes = [
        helper.make_node("RNN", ["x", "w", "r"], ["h"], "rnn", hidden_size=4),
        helper.make_node("Neg", ["h"], [name]),
        helper.make_node("Add", ["h", name], ["u"]),
        helper.make_node("Add", ["u", name], ["y"]),
    ]
    constants = {k: v.astype(np.float32) for k, v in weights.items()}
    proto = om.model(nodes, {"x": [5, 1, 3]}, constants=constants)
    x = rng.standard_normal((5, 1, 3)).astype(np.float32)
    proto.graph.output[0].CopyFrom(om.value("y", None))
    wanted = om.onnxruntime_gives(proto, {"x": x})["y"]
    np.testing.assert_allclose(secateur.compile(proto)(x), wanted, rtol=1e-4, atol=1e-5)


def test_nodes_that_a_choice_makes_are_apart() -> None:
    branch = om.branch([om.node("Neg", "x", "u"), om.node("Abs", "x", "v")], "u")
    branch.output.append(onnx.ValueInfoProto(name="v"))
    nodes = [
        helper.make_node("If", ["c"], ["s", "t"], "if", then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["s", "t"], ["z"], "if/1"),
        helper.make_node("Relu", ["z"], ["y"], "if/1_1"),
    ]
    proto = om.model(nodes, {"x": ["N", 3]}, "z t y", {"c": np.array(True)})
    x = np.array([[-1, 0, 2]], np.float32)
    z, t, y = secateur.compile(proto)(x)
    np.testing.assert_array_equal(np.concatenate([z, t, y]), [[2, 0, 0], [1, 0, 2], [2, 0, 0]])
