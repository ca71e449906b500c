"""Loops with a known number of turns are unrolled; others are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_models as om
from secateur.compiler import passes
from secateur.errors import CompileError

BOOL = np.dtype(bool)


def body(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], outputs: str
) -> onnx.GraphProto:
    made = [onnx.ValueInfoProto(name=name) for name in outputs.split()]
    return helper.make_graph(nodes, "body", inputs, made)


def turn(*nodes: onnx.NodeProto, outputs: str = "again s2 seen") -> onnx.GraphProto:
    """A body that carries `s` [3]."""
    inputs = [om.value("i", [], np.int64), om.value("going", [], BOOL), om.value("s", [3])]
    return body(list(nodes), inputs, outputs)


def counted(start: str = "") -> onnx.GraphProto:
    """s2 = (s + i) * x; every name begins so, but that of x."""
    nodes = [
        om.node("Cast", "i", "f", to=1),
        om.node("Add", "s f", "t"),
        om.node("Mul", "t x", "s2"),
        om.node("Identity", "s2", "seen"),
        om.node("Identity", "going", "again"),
    ]
    graph = turn(*nodes)
    for node in graph.node:
        node.name = start + node.name
        node.input[:] = [name if name == "x" else start + name for name in node.input]
        node.output[:] = [start + name for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = start + value.name
    return graph


def loop(graph: onnx.GraphProto, inputs: str, outputs: str = "y z", **more: Any) -> onnx.ModelProto:
    constants = {"four": np.array(4), "yes": np.array(True), "none": np.array(0)}
    nodes = [om.node("Loop", inputs, outputs, body=graph)]
    free = [om.value("x", [3]), om.value("n", [], np.int64), om.value("c", [], BOOL)]
    return om.model(nodes, free, outputs, constants, **more)


def test_a_counted_loop() -> None:
    om.agrees(loop(counted(), "four yes x"))
    om.agrees(loop(counted(), "four - x"))


def test_a_loop_that_stops() -> None:
    stopping = turn(
        om.node("Less", "i two", "again"),
        om.node("Add", "s x", "s2"),
        om.node("Mul", "s2 s", "seen"),
    )
    stopping.initializer.append(onnx.numpy_helper.from_array(np.array(2), "two"))
    graph = om.agrees(loop(stopping, "- yes x"))
    assert om.ops(graph).count("Mul") == 3


def test_loops_in_branches_in_loops() -> None:
    inner = om.branch(
        [om.node("Loop", "four - s", "u v", body=counted("inner "))], "u", four=np.array(2)
    )
    other = om.branch([om.node("Neg", "s", "u")], "u")
    outer = turn(
        om.node("Equal", "i one", "first"),
        om.node("If", "first", "s2", then_branch=inner, else_branch=other),
        om.node("Identity", "s2", "seen"),
        om.node("Identity", "going", "again"),
    )
    outer.initializer.append(onnx.numpy_helper.from_array(np.array(1), "one"))
    om.agrees(loop(outer, "four yes x"))


def test_a_list_that_grows() -> None:
    growing = turn(
        om.node("Mul", "x two", "m"),
        om.node("Identity", "going", "again"),
        om.node("SequenceInsert", "s m", "s2"),
        outputs="again s2",
    )
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [3]))
    growing.input[2].type.CopyFrom(kind)
    growing.initializer.append(onnx.numpy_helper.from_array(np.float32(2), "two"))
    nodes = [
        om.node("SequenceEmpty", "", "e"),
        om.node("Loop", "four yes e", "l", body=growing),
        om.node("ConcatFromSequence", "l", "y", axis=0),
    ]
    constants = {"four": np.array(4), "yes": np.array(True)}
    om.agrees(om.model(nodes, {"x": [3]}, constants=constants))


@pytest.mark.parametrize("backwards", [0, 1])
def test_a_scan(backwards: int) -> None:
    inputs = [om.value("s", [3]), om.value("row", [3])]
    summing = body(
        [om.node("Add", "s row", "s2"), om.node("Mul", "s2 row", "seen")], inputs, "s2 seen"
    )
    scan = om.node(
        "Scan", "x rows", "y z", body=summing, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[backwards], scan_output_axes=[-1],
        scan_output_directions=[1 - backwards],
    )  # fmt: skip
    om.agrees(om.model([scan], {"x": [3], "rows": [3, 5]}, "y z"))


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (
            "n yes x",
            r"its number of turns depends on input 'n'; fix its value with --input-value n=VALUE",
        ),
        ("four c x", "its condition depends on input 'c'; fix its value with"),
        ("none yes x", "it has no turns"),
        ("- yes x", r"its \d+ turns make more than 50,000 nodes"),
        ("four yes x x", "its body does not take"),
    ],
)
def test_refuses(inputs: str, match: str) -> None:
    with pytest.raises(CompileError, match=rf"Loop 'n_y' cannot be compiled: {match}"):
        passes.apply(om.read(loop(counted(), inputs)))
