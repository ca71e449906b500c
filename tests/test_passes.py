"""Each pass keeps what a network computes, and does what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnx_models as om
from secateur.compiler import interpreter, passes
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.passes import batchnorm, fold, identity, shapes, verify
from secateur.errors import CompileError, UsageError

F32 = np.float32


def folded(nodes: list[onnx.NodeProto], inputs: Any, outputs: str = "y", **constants: Any) -> Graph:
    """Read a network and give its values types."""
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    return fold.run(om.read(om.model(nodes, inputs, outputs, arrays)))


def kept(graph: Graph, *runs: Any) -> Graph:
    """Run passes, and check that the network still computes the same."""
    inputs = om.inputs_for(graph)
    wanted = interpreter.run(graph, inputs)
    for run in runs:
        graph = run(graph)
        verify.check(graph)
    om.same(interpreter.run(graph, inputs), wanted)
    return graph


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


# The list of passes, and the verifier.


def test_every_pass_is_verified() -> None:
    graph = om.read(om.model([om.node("Relu", "x", "y")], {"x": [2]}))
    lost = ("lose", lambda graph: graph.with_(nodes=()))
    with pytest.raises(CompileError, match=r"after pass lose: output 'y' is not made; .*report it"):
        passes.apply(graph, [("fold", fold.run), lost])
    assert [name for name, _ in passes.PASSES][:2] == ["fold", "identity"]


RELU = Node("Relu", "r", ("x",), ("y",))
FLOATS, THREE = (Tensor(np.dtype(F32), (size,)) for size in (2, 3))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"nodes": (RELU, RELU)}, "node 'r' is there twice"),
        ({"nodes": (RELU, Node("Abs", "a", ("x",), ("y",)))}, "value 'y' is there twice"),
        ({"inputs": ("x", "y")}, "value 'y' is there twice"),
        ({"constants": {"x": np.ones(2, F32)}}, "value 'x' is there twice"),
        ({"outputs": ("y", "y")}, "output 'y' is there twice"),
        ({"outputs": ("z",)}, "output 'z' is not made"),
        ({"types": {"x": FLOATS}}, "value 'y' has no type"),
        (
            {"types": {"x": FLOATS, "y": Tensor(np.dtype(F32), (3,))}},
            r"was said to be float32 \[3\]",
        ),
        ({"nodes": (Node("Abs", "a", ("z",), ("y",)),)}, "reads 'z', which nothing before it"),
        (
            {
                "nodes": (Node("Abs", "a", ("z",), ("y",)), Node("Abs", "b", ("y",), ("z",))),
                "types": {"x": FLOATS, "y": FLOATS, "z": FLOATS},
            },
            "reads 'z', which nothing before it makes",
        ),
    ],
)
def test_the_verifier(change: dict[str, Any], fault: str) -> None:
    graph = Graph((RELU,), ("x",), ("y",), {}, {"x": FLOATS, "y": FLOATS})
    verify.check(graph)
    with pytest.raises(CompileError, match=f"wrong after the reader: .*{fault}"):
        verify.check(graph.with_(**change))


# Shapes and values.


def test_shape_arithmetic_folds_away() -> None:
    nodes = [
        om.node("Shape", "x", "s"),
        om.node("Gather", "s zero", "n"),
        om.node("Concat", "n rest", "t", axis=0),
        om.node("Reshape", "x t", "y"),
    ]
    graph = folded(nodes, {"x": ["N", 3, 4]}, zero=np.array([0]), rest=np.array([-1]))
    assert om.ops(graph) == ["Reshape"]
    assert graph.types["y"].shape == (1, 12)
    np.testing.assert_array_equal(graph.constants["t"], [1, -1])


def test_a_cast_to_the_type_of_another_value() -> None:
    nodes = [om.node("CastLike", "c x", "d"), om.node("Add", "x d", "y")]
    graph = folded(nodes, {"x": [3]}, c=np.array([1, 2, 3]))
    assert om.ops(graph) == ["Add"]
    assert graph.constants["d"].dtype == F32


def test_large_results_are_left_to_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [om.node("Expand", "one shape", "e"), om.node("Add", "x e", "y")]
    arrays = {"one": np.ones(1, F32), "shape": np.array([64])}
    assert om.ops(folded(nodes, {"x": [64]}, **arrays)) == ["Add"]
    monkeypatch.setattr(fold, "MAX_BYTES", 255)
    assert om.ops(folded(nodes, {"x": [64]}, **arrays)) == ["Expand", "Add"]


def test_inputs_that_do_not_fit_together() -> None:
    with pytest.raises(CompileError, match=r"node Add 'n_y' cannot be compiled"):
        folded([om.node("Add", "x c", "y")], {"x": [3]}, c=np.ones(2, F32))
    with pytest.raises(CompileError, match=r"operator Det is not supported"):
        folded([om.node("Det", "x", "y")], {"x": [3, 3]})


def test_shapes_are_found_anew() -> None:
    graph = folded([om.node("MatMul", "x w", "y")], {"x": [2, 3]}, w=normal(3, 4))
    smaller = graph.with_(constants={"w": normal(3, 2)})
    assert shapes.run(smaller).types["y"].shape == (2, 2)


# What changes nothing.


@pytest.mark.parametrize(
    "node",
    [
        om.node("Identity", "t", "u"),
        om.node("Cast", "t", "u", to=1),
        om.node("Reshape", "t same", "u"),
        om.node("Expand", "t ones", "u"),
        om.node("Transpose", "t", "u", perm=[0, 1]),
        om.node("Slice", "t zeros huge", "u"),
        om.node("Pad", "t none", "u"),
        om.node("Tile", "t ones", "u"),
        om.node("Concat", "t", "u", axis=0),
        om.node("Split", "t", "u", num_outputs=1),
        om.node("Mul", "t unit", "u"),
        om.node("Add", "t zero", "u"),
        om.node("Dropout", "t", "u"),
    ],
    ids=lambda node: node.op_type,
)
def test_no_ops_go(node: onnx.NodeProto) -> None:
    nodes = [om.node("Relu", "x", "t"), node, om.node("Neg", "u", "y")]
    graph = folded(
        nodes,
        {"x": [3, 4]},
        same=np.array([0, -1]),
        ones=np.array([1, 1]),
        zeros=np.array([0, 0]),
        huge=np.array([1 << 40, 1 << 40]),
        none=np.zeros(4, np.int64),
        unit=np.ones(4, F32),
        zero=np.zeros((), F32),
    )
    graph = kept(graph, identity.run)
    assert om.ops(graph) == ["Relu", "Neg"]
    assert not graph.constants
    assert sorted(graph.types) == ["t", "x", "y"]


@pytest.mark.parametrize(
    "node",
    [
        om.node("Slice", "x last first axis back", "y"),
        om.node("Pad", "x shift", "y"),
        om.node("Transpose", "x", "y"),
        om.node("Add", "x row", "y"),
    ],
    ids=lambda node: node.op_type,
)
def test_what_only_looks_like_a_no_op_stays(node: onnx.NodeProto) -> None:
    graph = folded(
        [node],
        {"x": [3, 3]},
        last=np.array([-1]),
        first=np.array([-1000]),
        axis=np.array([0]),
        back=np.array([-1]),
        shift=np.array([1, 0, -1, 0]),
        row=normal(3),
    )
    assert om.ops(kept(graph, identity.run)) == [node.op_type]


def test_names_of_outputs_stay() -> None:
    nodes = [
        om.node("Relu", "x", "t"),
        om.node("Identity", "t", "a"),
        om.node("Identity", "t", "b"),
        om.node("Identity", "x", "c"),
        om.node("Identity", "w", "d"),
        om.node("Neg", "t", "unread"),
    ]
    graph = kept(folded(nodes, {"x": [3]}, "a b c d w", w=normal(3)), identity.run)
    assert [str(node) for node in graph.nodes] == [
        "Relu 'n_t'",
        "Identity 'b_copy'",
        "Identity 'c_copy'",
    ]
    assert graph.outputs == ("a", "b", "c", "d", "w")
    assert sorted(graph.constants) == ["d", "w"]


def test_reshapes_and_transposes_in_a_row_are_one() -> None:
    nodes = [
        om.node("Flatten", "x", "a"),
        om.node("Unsqueeze", "a axes", "b"),
        om.node("Squeeze", "b axes", "c"),
        om.node("Reshape", "c shape", "d"),
        om.node("Transpose", "d", "e", perm=[1, 2, 0]),
        om.node("Transpose", "e", "f", perm=[1, 2, 0]),
        om.node("Transpose", "f", "y", perm=[2, 0, 1]),
    ]
    arrays = {"axes": np.array([1]), "shape": np.array([4, 3, 2])}
    graph = kept(folded(nodes, {"x": [2, 3, 4]}, **arrays), identity.run)
    assert om.ops(graph) == ["Reshape", "Transpose"]
    assert graph.nodes[1].get("perm") == (1, 2, 0)


@pytest.mark.parametrize(
    ("axis", "left"), [(2, ["Softmax"]), (1, ["Flatten", "Softmax", "Reshape"])]
)
def test_an_old_softmax_over_the_last_axis_needs_no_matrix(axis: int, left: list[str]) -> None:
    proto = om.model([om.node("Softmax", "x", "y", axis=axis)], {"x": [2, 3, 4]}, opset=11)
    assert om.ops(kept(fold.run(om.read(proto)), identity.run)) == left


def test_equal_constants_are_one() -> None:
    nodes = [
        om.node("MatMul", "x a", "t"),
        om.node("MatMul", "t b", "u"),
        om.node("Add", "u c", "y"),
    ]
    same = normal(3, 3)
    graph = folded(nodes, {"x": [3, 3]}, a=same, b=same.copy(), c=same.astype(F32) + 1)
    assert sorted(kept(graph, identity.run).constants) == ["a", "c"]


# Scales and shifts.


def sparse(*shape: int, seed: int = 0) -> np.ndarray:
    """Weights of which about half are zero."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * (rng.random(shape) < 0.5)).astype(F32)


def statistics(count: int) -> dict[str, np.ndarray]:
    """Scale, shift, mean and variance of a batch normalization, some scales negative."""
    return {
        "s": normal(count, seed=1),
        "b": normal(count, seed=2),
        "m": normal(count, seed=3),
        "v": abs(normal(count, seed=4)) + F32(0.1),
    }


NORMALIZED = om.node("BatchNormalization", "t s b m v", "y")


@pytest.mark.parametrize("bias", ["", "bias"])
@pytest.mark.parametrize(
    ("op", "shape", "weights", "attributes"),
    [
        ("Conv", [2, 3, 5, 5], (4, 3, 3, 3), {}),
        ("Conv", [2, 4, 5, 5], (4, 2, 3, 3), {"group": 2}),
        ("ConvTranspose", [2, 3, 5, 5], (3, 4, 2, 2), {"strides": [2, 2]}),
        ("ConvTranspose", [2, 4, 5, 5], (4, 2, 2, 2), {"group": 2}),
        ("Gemm", [2, 3], (3, 4), {"alpha": 0.5, "beta": 2.0}),
        ("Gemm", [2, 3], (4, 3), {"transB": 1}),
    ],
)
def test_batch_normalization_joins_weights(
    op: str, shape: list[int], weights: tuple[int, ...], attributes: dict[str, Any], bias: str
) -> None:
    nodes = [om.node(op, f"x w {bias}", "t", **attributes), NORMALIZED]
    before = sparse(*weights)
    graph = folded(nodes, {"x": shape}, w=before, bias=normal(4, seed=5), **statistics(4))
    graph = kept(graph, batchnorm.run)
    assert om.ops(graph) == [op]
    after = graph.constants[graph.nodes[0].inputs[1]]
    np.testing.assert_array_equal(after == 0, before == 0)
    assert not np.signbit(after[after == 0]).any()


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ([om.node("MatMul", "x w", "t"), NORMALIZED], ["Gemm"]),
        ([om.node("MatMul", "x w", "t"), om.node("Div", "t s", "y")], ["MatMul"]),
        ([om.node("MatMul", "x w", "t"), om.node("Sub", "t s", "y")], ["Gemm"]),
        ([om.node("Relu", "x", "t"), NORMALIZED], ["Relu", "Mul", "Add"]),
        ([om.node("Add", "x s", "t"), om.node("Add", "b t", "y")], ["Add"]),
        ([om.node("Add", "x s", "t"), om.node("Mul", "b t", "y")], ["Mul", "Add"]),
        (
            [
                om.node("MatMul", "x w", "q"),
                om.node("Add", "q s", "r"),
                om.node("Mul", "r b", "t"),
                NORMALIZED,
            ],
            ["Gemm"],
        ),
        ([om.node("MatMul", "x w", "t"), om.node("Sub", "s t", "y")], ["MatMul", "Sub"]),
        ([om.node("MatMul", "x w", "t"), om.node("Add", "t column", "y")], ["MatMul", "Add"]),
    ],
)
def test_scales_and_shifts(nodes: list[onnx.NodeProto], left: list[str]) -> None:
    constants = {"w": sparse(3, 3), "column": normal(2, 1), **statistics(3)}
    assert om.ops(kept(folded(nodes, {"x": [2, 3]}, **constants), batchnorm.run)) == left


def test_tokens_keep_the_shift_apart() -> None:
    nodes = [
        om.node("MatMul", "x w", "q"),
        om.node("Add", "q s", "r"),
        om.node("Mul", "r half", "y"),
    ]
    graph = folded(nodes, {"x": [2, 5, 3]}, w=sparse(3, 4), s=normal(4), half=np.array(0.5, F32))
    assert om.ops(kept(graph, batchnorm.run)) == ["MatMul", "Add"]


@pytest.mark.parametrize("outputs", ["y t", "y z"])
def test_weights_whose_result_is_read_elsewhere_stay(outputs: str) -> None:
    nodes = [om.node("Conv", "x w", "t"), NORMALIZED, om.node("Neg", "t", "z")]
    graph = folded(nodes, {"x": [1, 3, 4, 4]}, outputs, w=sparse(3, 3, 1, 1), **statistics(3))
    assert om.ops(kept(graph, batchnorm.run))[:3] == ["Conv", "Mul", "Add"]


def test_statistics_that_are_not_finite_or_not_known_stay() -> None:
    nodes = [om.node("Conv", "x w", "t"), NORMALIZED]
    known = {**statistics(3), "v": np.array([1, 1, -1], F32)}
    graph = folded(nodes, {"x": [1, 3, 4, 4]}, w=sparse(3, 3, 1, 1), **known)
    assert om.ops(batchnorm.run(graph)) == ["Conv", "BatchNormalization"]
    shapes = {"x": [1, 3, 4, 4], "v": [3]}
    del known["v"]
    graph = folded(nodes, shapes, w=sparse(3, 3, 1, 1), **known)
    assert om.ops(batchnorm.run(graph)) == ["Conv", "BatchNormalization"]


# The interpreter.


def test_the_interpreter_takes_what_the_network_takes() -> None:
    graph = folded([om.node("Relu", "x", "y")], {"x": [2, 3]})
    for wrong, match in (
        ({}, r"takes inputs x, not none"),
        ({"z": normal(2, 3)}, r"takes inputs x, not z"),
        ({"x": normal(3, 2)}, r"'x' takes float32 \[2, 3\], not float32 \[3, 2\]"),
        ({"x": np.ones((2, 3))}, r"not float64 \[2, 3\]"),
    ):
        with pytest.raises(UsageError, match=match):
            interpreter.run(graph, wrong)


def test_the_interpreter_compares_with_what_was_inferred() -> None:
    graph = Graph((RELU,), ("x",), ("y",), {}, {"x": FLOATS, "y": Tensor(np.dtype(F32), (3,))})
    with pytest.raises(
        CompileError, match=r"inferred to give float32 \[3\] and gave float32 \[2\]"
    ):
        interpreter.run(graph, {"x": np.ones(2, F32)})


def test_outputs_that_nothing_computes() -> None:
    nodes = [om.node("Split", "x", "- y", num_outputs=2)]
    graph = folded(nodes, {"x": [4], "unread": [1]}, "y x c", c=normal(2))
    inputs = om.inputs_for(graph)
    found = interpreter.run(graph, inputs)
    np.testing.assert_array_equal(found["y"], inputs["x"][2:])
    assert found["x"] is inputs["x"]
    assert list(found) == ["y", "x", "c"]
