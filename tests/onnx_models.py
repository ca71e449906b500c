"""Small ONNX models for tests, and what another runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import secateur
from secateur.compiler import interpreter, onnx_reader, passes
from secateur.compiler.graph import Graph
from secateur.errors import CompileError

Shape = Sequence[int | str | None]
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node; inputs and outputs are names between blanks, `-` for an absent one."""
    names = [["" if name == "-" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name=f"n_{names[1][0]}", **attributes)


def value(name: str, shape: Shape | None, dtype: Any = np.float32) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape | None] | Sequence[onnx.ValueInfoProto],
    outputs: str = "y",
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 21,
    **more: Any,
) -> onnx.ModelProto:
    """Make a model; inputs given by shape alone are float32."""
    if isinstance(inputs, Mapping):
        inputs = [value(name, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(
        nodes,
        "test",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs.split()],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    more.setdefault("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, ir_version=10, **more)


def linear(**more: Any) -> onnx.ModelProto:
    """y = relu(x @ WEIGHTS), x: [N, 3]."""
    nodes = [node("MatMul", "x w", "t"), node("Relu", "t", "y")]
    return model(nodes, {"x": ["N", 3]}, constants={"w": WEIGHTS}, **more)


def branch(nodes: list[onnx.NodeProto], output: str, **constants: np.ndarray) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    return helper.make_graph(nodes, output, [], [value(output, None)], tensors)


def if_model(condition: list[onnx.NodeProto]) -> onnx.ModelProto:
    """y = -(x if c else 2 x) where both branches name their values alike, and as outside."""
    yes = branch([node("Identity", "x", "t")], "t")
    inner = branch([node("Mul", "x two", "t")], "t", two=np.array(2, np.float32))
    no = branch([node("If", "c", "u", then_branch=inner, else_branch=inner)], "u")
    nodes = [
        *condition,
        node("If", "c", "z", then_branch=yes, else_branch=no),
        node("Neg", "z", "y"),
    ]
    return model(nodes, [value("x", [2, 3]), value("flag", [1])])


def refused(proto: onnx.ModelProto, kind: type[Exception], match: str, **more: Any) -> None:
    with pytest.raises(kind, match=match):
        passes.apply(read(proto, **more))


def read(proto: onnx.ModelProto, **more: Any) -> Graph:
    return onnx_reader.read(proto.SerializeToString(), **more).graph


def inputs_for(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw an array for each input of a graph."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in graph.inputs:
        tensor = graph.types[name]
        floats = tensor.dtype.kind == "f"
        drawn = rng.standard_normal(tensor.shape) if floats else rng.integers(0, 2, tensor.shape)
        found[name] = drawn.astype(tensor.dtype)
    return found


def onnxruntime_gives(
    proto: onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Run a model with ONNX Runtime, whose outputs must say their types."""
    typed = onnx.ModelProto()
    typed.CopyFrom(proto)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        typed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def need_exact_sums() -> None:
    """Skip what is compared with ONNX Runtime's sums of products of 8 bits, if they overflow.

    On x86 without VNNI it adds pairs of them in 16 bits.
    """
    most = {"a": np.full((4, 4), 255, np.uint8), "b": np.full((4, 4), 127, np.int8)}
    inputs = [value(name, array.shape, array.dtype) for name, array in most.items()]
    (found,) = onnxruntime_gives(model([node("MatMulInteger", "a b", "y")], inputs), most).values()
    if (found != 4 * 255 * 127).any():
        pytest.skip("ONNX Runtime's sums of products of 8 bits overflow on this processor")


def agrees(proto: onnx.ModelProto, **more: Any) -> Graph:
    """Compare what a model computes, before and after all passes, with ONNX Runtime.

    Returns:
        The graph with known values folded and no-ops removed.
    """
    graph = read(proto, **more)
    plain = passes.apply(graph, passes.PASSES[:2])
    inputs = inputs_for(graph)
    wanted = onnxruntime_gives(proto, inputs | more.get("fixed", {}))
    same(interpreter.run(plain, inputs), wanted)
    same(interpreter.run(passes.apply(graph), inputs), wanted)
    return plain


def same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Compare outputs: names, dtypes, shapes, and values to single precision."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def ops(graph: Graph) -> list[str]:
    """Return the operators of a graph, in order."""
    return [one.op for one in graph.nodes]


def refused_compiled(proto: onnx.ModelProto, match: str) -> None:
    with pytest.raises(CompileError, match=match):
        secateur.compile(proto)
