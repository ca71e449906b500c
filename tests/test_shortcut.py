"""Slices and zero channels as a convolution: the same values, by one operator."""

from __future__ import annotations

import numpy as np
import pytest

from secateur.compiler import interpreter
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.passes import shapes, shortcut, verify

F32 = np.dtype("float32")


def network(*nodes: Node, **constants: object) -> Graph:
    return shapes.run(
        Graph(
            nodes,
            ("x",),
            (nodes[-1].outputs[0],),
            {
                n: np.asarray(a, np.float32 if n == "value" else np.int64)
                for n, a in constants.items()
            },
            {"x": Tensor(F32, (2, 3, 7, 6))},
        )
    )


def slicing(source: str, out: str, axis: str) -> Node:
    return Node("Slice", out, (source, "zero", "end", axis, "two"), (out,))


def same(before: Graph, after: Graph) -> None:
    verify.check(after, "shortcut")
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 6)).astype(np.float32)
    (wanted,) = interpreter.run(before, {"x": x}).values()
    (got,) = interpreter.run(after, {"x": x}).values()
    np.testing.assert_array_equal(got, wanted)


def test_the_shortcut_of_a_residual_network_is_one_convolution() -> None:
    graph = network(
        slicing("x", "rows", "two"),
        slicing("rows", "columns", "three"),
        Node("Pad", "wide", ("columns", "pads", "value"), ("y",)),
        zero=[0], end=[2**62], two=[2], three=[3], pads=[0, 1, 0, 0, 0, 2, 0, 0], value=0.0,
    )  # fmt: skip
    after = shortcut.run(graph)
    assert [node.op for node in after.nodes] == ["Conv"]
    assert np.count_nonzero(after.constants[after.nodes[0].inputs[1]]) == 3
    same(graph, after)


@pytest.mark.parametrize(
    ("pads", "value", "start"),
    [([0, 0, 1, 0, 0, 0, 0, 0], 0.0, 0), ([0, 1, 0, 0, 0, 1, 0, 0], 1.0, 0), (None, 0.0, 1)],
)
def test_other_slices_and_paddings_stay(pads: list[int] | None, value: float, start: int) -> None:
    sliced = slicing("x", "y" if pads is None else "v", "two")
    nodes = [sliced] if pads is None else [Node("Pad", "p", ("x", "pads", "value"), ("y",))]
    graph = network(*nodes, zero=[start], end=[2**62], two=[2], pads=pads or [0] * 8, value=value)
    after = shortcut.run(graph)
    assert [node.op for node in after.nodes] == [node.op for node in nodes]
    same(graph, after)
