"""Channels that do nothing go, and the network computes what it did."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_models as om
from secateur.compiler import interpreter
from secateur.compiler.graph import Graph
from secateur.compiler.passes import batchnorm, dead, fold, identity, verify

F32 = np.float32
IMAGES = {"x": [2, 3, 6, 6]}
EDGE = {"pads": [1, 1, 1, 1]}


def weights(*shape: int, dead: tuple[int, ...] = (), unread: tuple[int, ...] = ()) -> np.ndarray:
    """Draw weights; rows of `dead` outputs and columns of `unread` inputs are zero."""
    array = np.random.default_rng(sum(shape)).standard_normal(shape).astype(F32)
    array[list(dead)] = 0
    array[:, list(unread)] = 0
    return array


def bias(count: int, zero: tuple[int, ...] = ()) -> np.ndarray:
    array = np.linspace(-1, 1, count, dtype=F32) + F32(0.3)
    array[list(zero)] = 0
    return array


def smaller(nodes: list[onnx.NodeProto], inputs: Any, outputs: str = "y", **arrays: Any) -> Graph:
    """Run the pass on a network, check that it still computes the same, and return it."""
    constants = {name: np.asarray(array) for name, array in arrays.items()}
    graph = fold.run(om.read(om.model(nodes, inputs, outputs, constants)))
    given = om.inputs_for(graph)
    wanted = interpreter.run(graph, given)
    graph = dead.run(graph)
    verify.check(graph, "dead")
    om.same(interpreter.run(graph, given), wanted)
    return graph


def sizes(graph: Graph) -> list[tuple[int, ...]]:
    """Return the shapes of the weights of each linear node, in order."""
    linear = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    return [graph.constants[n.inputs[1]].shape for n in graph.nodes if n.op in linear]


def two_convolutions(b: np.ndarray, first: str = "Relu", **second: Any) -> Graph:
    nodes = [
        om.node("Conv", "x w b", "s", **EDGE),
        om.node(first, "s", "t"),
        om.node("Conv", "t v", "y", **second),
    ]
    w, v = weights(4, 3, 3, 3, dead=(0, 2)), weights(2, 4, 3, 3)
    return smaller(nodes, IMAGES, w=w, b=b, v=v)


def test_a_constant_channel_goes_into_the_bias_of_its_reader() -> None:
    graph = two_convolutions(bias(4))
    assert sizes(graph) == [(2, 3, 3, 3), (2, 2, 3, 3)]
    assert len(graph.nodes[2].inputs) == 3
    assert graph.types["t"].shape == (2, 2, 6, 6)


def test_with_padding_only_a_channel_of_zeros_goes() -> None:
    # The biases of the dead channels are -0.7 and +0.633: a Relu makes only one of them zero.
    assert sizes(two_convolutions(bias(4), **EDGE)) == [(3, 3, 3, 3), (2, 3, 3, 3)]
    assert sizes(two_convolutions(bias(4), **{"auto_pad": "SAME_UPPER"}))[0] == (3, 3, 3, 3)
    assert sizes(two_convolutions(bias(4), "Sigmoid", **EDGE))[0] == (4, 3, 3, 3)
    assert sizes(two_convolutions(bias(4, zero=(0, 2)), "Tanh", **EDGE))[0] == (2, 3, 3, 3)


def test_a_channel_that_nobody_reads_goes() -> None:
    nodes = [om.node("Conv", "x w b", "t"), om.node("Conv", "t v", "y", **EDGE)]
    v = weights(2, 4, 3, 3, unread=(1, 3))
    graph = smaller(nodes, IMAGES, w=weights(4, 3, 1, 1), b=bias(4), v=v)
    assert sizes(graph) == [(2, 3, 1, 1), (2, 2, 3, 3)]


def test_what_is_dead_behind_what_is_dead_goes_too() -> None:
    nodes = [
        om.node("Gemm", "x a", "s", transB=1),
        om.node("Gemm", "s b", "t", transB=1, beta=2.0),
        om.node("Gemm", "t c d", "y", transB=1, alpha=0.5, beta=3.0),
    ]
    a = weights(5, 3)
    b = weights(4, 5, dead=(1,), unread=(0,))
    b[2, :4] = 0  # reads channel 4 alone
    c = weights(2, 4, unread=(2,))
    b[[0, 3], 4] = 0
    graph = smaller(nodes, {"x": [2, 3]}, a=a, b=b, c=c, d=bias(2))
    assert sizes(graph) == [(3, 3), (2, 3), (2, 2)]


def test_whole_fours_go_where_zeros_lie_in_fours() -> None:
    """Channels 1 and 4 to 7 are unread: without 1 alone, the fours of the others would move."""
    nodes = [om.node("Conv", "x w", "t"), om.node("Conv", "t v", "y")]
    v = weights(8, 16, 1, 1, unread=(1, 4, 5, 6, 7))
    v[:4, 8:12], v[4:, :4] = 0, 0
    graph = fold.run(om.read(om.model(nodes, IMAGES, "y", {"w": weights(16, 3, 1, 1), "v": v})))
    assert sizes(dead.run(graph)) == [(11, 3, 1, 1), (8, 11, 1, 1)]
    assert sizes(dead.in_fours(graph)) == [(12, 3, 1, 1), (8, 12, 1, 1)]
    assert sizes(dead.in_fours(fold.run(om.read(om.model(nodes, IMAGES, "y", {
        "w": weights(16, 3, 1, 1), "v": weights(8, 16, 1, 1, unread=(1, 4, 5, 6, 7))
    }))))) == [(11, 3, 1, 1), (8, 11, 1, 1)]  # fmt: skip


def test_outputs_of_the_network_stay() -> None:
    nodes = [om.node("Conv", "x w", "t"), om.node("Conv", "t v", "y")]
    w, v = weights(4, 3, 1, 1, dead=(1,)), weights(2, 4, 1, 1, dead=(0,))
    assert sizes(smaller(nodes, IMAGES, "y t", w=w, v=v)) == [(4, 3, 1, 1), (2, 4, 1, 1)]


def test_one_channel_stays_of_a_layer_that_is_all_dead() -> None:
    nodes = [
        om.node("Conv", "x w b", "s"),
        om.node("Relu", "s", "t"),
        om.node("Conv", "t v", "y"),
    ]
    w = np.zeros((4, 3, 1, 1), F32)
    graph = smaller(nodes, IMAGES, w=w, b=bias(4), v=weights(2, 4, 1, 1))
    assert sizes(graph) == [(1, 3, 1, 1), (2, 1, 1, 1)]


@pytest.mark.parametrize(("second", "left"), [((1, 2), 3), ((0,), 4)])
def test_channels_of_a_sum_go_together(second: tuple[int, ...], left: int) -> None:
    nodes = [
        om.node("Conv", "x w", "s"),
        om.node("Conv", "x v", "t"),
        om.node("Add", "s t", "u"),
        om.node("Relu", "u", "z"),
        om.node("Conv", "z q", "y", **EDGE),
    ]
    w, v = weights(4, 3, 1, 1, dead=(1, 3)), weights(4, 3, 1, 1, dead=second)
    graph = smaller(nodes, IMAGES, w=w, v=v, q=weights(2, 4, 3, 3))
    assert [shape[0] for shape in sizes(graph)] == [left, left, 2]


def test_a_sum_with_an_input_keeps_its_channels() -> None:
    nodes = [om.node("Conv", "x w", "s"), om.node("Add", "s x", "t"), om.node("Conv", "t v", "y")]
    w, v = weights(3, 3, 1, 1, dead=(1,)), weights(2, 3, 1, 1, unread=(0,))
    assert sizes(smaller(nodes, IMAGES, w=w, v=v)) == [(3, 3, 1, 1), (2, 3, 1, 1)]


@pytest.mark.parametrize(
    "middle",
    [
        om.node("MaxPool", "t", "u", kernel_shape=[2, 2]),
        om.node("MaxPool", "t", "u", kernel_shape=[3, 3], strides=[2, 2], **EDGE),
        om.node("AveragePool", "t", "u", kernel_shape=[3, 3], **EDGE),
        om.node("AveragePool", "t", "u", kernel_shape=[2, 2], count_include_pad=1),
        om.node("GlobalAveragePool", "t", "u"),
        om.node("ReduceMean", "t axes", "u"),
        om.node("Mul", "t scale", "u"),
        om.node("Add", "t plane", "u"),
        om.node("PRelu", "t scale", "u"),
        om.node("Clip", "t zero one", "u"),
        om.node("Mul", "t t", "u"),
    ],
    ids=lambda node: node.op_type,
)
def test_channels_are_followed_through(middle: onnx.NodeProto) -> None:
    nodes = [om.node("Conv", "x w b", "t"), middle, om.node("Conv", "u v", "y")]
    graph = smaller(
        nodes,
        IMAGES,
        w=weights(4, 3, 1, 1, dead=(1, 3)),
        b=bias(4),
        v=weights(2, 4, 1, 1, unread=(0,)),
        axes=np.array([2, 3]),
        scale=weights(4, 1, 1),
        plane=weights(4, 6, 6),
        zero=np.zeros((), F32),
        one=np.ones((), F32),
    )
    differs = middle.input[1:] == ["plane"]
    assert sizes(graph)[0] == ((3 if differs else 1), 3, 1, 1)


def test_padding_that_counts_keeps_a_constant_channel() -> None:
    pool = om.node("AveragePool", "t", "u", kernel_shape=[3, 3], count_include_pad=1, **EDGE)
    nodes = [om.node("Conv", "x w b", "t"), pool, om.node("Conv", "u v", "y")]
    w, v = weights(4, 3, 1, 1, dead=(1, 3)), weights(2, 4, 1, 1)
    graph = smaller(nodes, IMAGES, w=w, b=bias(4, zero=(1,)), v=v)
    assert sizes(graph)[0] == (3, 3, 1, 1)


@pytest.mark.parametrize("pads", [{}, EDGE])
def test_depthwise_convolutions(pads: dict[str, Any]) -> None:
    nodes = [
        om.node("Conv", "x w b", "s"),
        om.node("Conv", "s d e", "t", group=4, **pads),
        om.node("Conv", "t v", "y"),
    ]
    graph = smaller(
        nodes,
        IMAGES,
        w=weights(4, 3, 1, 1, dead=(1,)),
        b=bias(4),
        d=weights(4, 1, 3, 3, dead=(2,)),
        e=bias(4),
        v=weights(2, 4, 1, 1),
    )
    left = 3 if pads else 2
    assert sizes(graph) == [(left, 3, 1, 1), (left, 1, 3, 3), (2, left, 1, 1)]
    assert graph.nodes[1].get("group") == left


def test_grouped_convolutions_are_left_alone() -> None:
    nodes = [om.node("Conv", "x w", "s"), om.node("Conv", "s d", "t", group=2)]
    nodes.append(om.node("Conv", "t v", "y"))
    w, d, v = weights(4, 3, 1, 1, dead=(1,)), weights(4, 2, 1, 1, dead=(2,)), weights(2, 4, 1, 1)
    graph = smaller(nodes, IMAGES, w=w, d=d, v=v)
    assert sizes(graph) == [(4, 3, 1, 1), (4, 2, 1, 1), (2, 4, 1, 1)]


def test_transposed_convolutions() -> None:
    nodes = [
        om.node("ConvTranspose", "x w b", "s", strides=[2, 2]),
        om.node("Relu", "s", "t"),
        om.node("ConvTranspose", "t v", "y"),
    ]
    w = weights(3, 4, 2, 2, unread=(0, 2))  # weights are (inputs, outputs)
    graph = smaller(nodes, IMAGES, w=w, b=bias(4), v=weights(4, 2, 2, 2))
    assert sizes(graph) == [(3, 3, 2, 2), (3, 2, 2, 2)]  # channel 2 is constant, not zero


def test_concatenations() -> None:
    nodes = [
        om.node("Conv", "x w", "s"),
        om.node("Conv", "x v b", "t"),
        om.node("Concat", "s x t", "u", axis=1),
        om.node("Conv", "u q", "y"),
    ]
    w, v = weights(4, 3, 1, 1, dead=(1,)), weights(2, 3, 1, 1, dead=(0,))
    q = weights(2, 9, 1, 1, unread=(3, 5))  # the second is a channel of the input, and stays
    graph = smaller(nodes, IMAGES, w=w, v=v, b=bias(2), q=q)
    assert sizes(graph) == [(2, 3, 1, 1), (1, 3, 1, 1), (2, 6, 1, 1)]


@pytest.mark.parametrize("shape", [[0, -1], [2, 144], [-1, 144]])
def test_flattening(shape: list[int]) -> None:
    nodes = [
        om.node("Conv", "x w b", "s"),
        om.node("Reshape", "s shape", "t"),
        om.node("Gemm", "t v c", "y", transB=1),
    ]
    v = weights(5, 144)
    v[:, 36:72] = 0
    v[:, 72:80] = 0
    graph = smaller(
        nodes,
        IMAGES,
        w=weights(4, 3, 1, 1, dead=(3,)),
        b=bias(4),
        v=v,
        c=bias(5),
        shape=np.array(shape),
    )
    assert sizes(graph) == [(2, 3, 1, 1), (5, 72)]


def test_neurons_of_tokens() -> None:
    nodes = [
        om.node("MatMul", "x w", "s"),
        om.node("Add", "b s", "t"),
        om.node("Gelu", "t", "u"),
        om.node("MatMul", "u v", "z"),
        om.node("Add", "z c", "r"),
        om.node("Add", "r x", "y"),
    ]
    graph = smaller(
        nodes,
        {"x": [2, 5, 3]},
        w=weights(3, 8, unread=(1, 6)),
        b=bias(8),
        v=weights(8, 3, dead=(2,)),
        c=bias(3),
    )
    assert sizes(graph) == [(3, 5), (5, 3)]
    assert om.ops(batchnorm.run(graph)) == ["MatMul", "Add", "Gelu", "MatMul", "Add", "Add"]


def test_other_operators_need_all_that_they_read() -> None:
    nodes = [
        om.node("MatMul", "x w", "s"),
        om.node("LayerNormalization", "s one", "t"),
        om.node("MatMul", "t v", "y"),
    ]
    graph = smaller(
        nodes,
        {"x": [2, 3]},
        w=weights(3, 4, unread=(1,)),
        one=np.ones(4, F32),
        v=weights(4, 2, dead=(2,)),
    )
    assert sizes(graph) == [(3, 4), (4, 2)]


# Random networks.


class Network:
    """Draws a network layer by layer; values are images of 6 x 6, or smaller."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 999)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: list[tuple[str, int]] = [("x", 3)]

    def constant(self, *shape: int, density: float = 1.0) -> str:
        name = f"c{len(self.constants)}"
        array = self.rng.standard_normal(shape) * (self.rng.random(shape) < density)
        self.constants[name] = array.astype(F32)
        return name

    def weight(self, *shape: int) -> str:
        """Draw weights with zeros, and with rows and columns of zeros."""
        name = self.constant(*shape, density=self.draw(st.sampled_from([0.1, 0.5, 1])))
        array = self.constants[name]
        array[self.rng.random(shape[0]) < 0.3] = 0
        array[:, self.rng.random(shape[1]) < 0.3] = 0
        return name

    def add(self, op: str, inputs: str, channels: int, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(om.node(op, inputs, name, **attributes))
        self.values.append((name, channels))

    def layer(self) -> None:
        value, count = self.draw(st.sampled_from(self.values[-3:]))
        size = self.draw(st.integers(1, 5))
        bias = self.constant(size, density=0.5) if self.draw(st.booleans()) else ""
        edge = self.draw(st.sampled_from([{}, EDGE]))
        match self.draw(st.sampled_from(LAYERS)):
            case "conv":
                kernel = 3 if edge else 1
                weight = self.weight(size, count, kernel, kernel)
                self.add("Conv", f"{value} {weight} {bias}", size, **edge)
            case "deconv":
                weight = self.weight(count, size, 1, 1)
                self.add("ConvTranspose", f"{value} {weight} {bias}", size)
            case "depthwise":
                self.add("Conv", f"{value} {self.weight(count, 1, 1, 1)}", count, group=count)
            case "norm":
                parts = " ".join(self.constant(count, density=0.7) for _ in range(3))
                variance = self.constant(count)
                self.constants[variance] = abs(self.constants[variance]) + F32(0.1)
                self.add("BatchNormalization", f"{value} {parts} {variance}", count)
            case "sum":
                others = [name for name, c in self.values if c == count]
                other = self.draw(st.sampled_from(others))
                self.add(self.draw(st.sampled_from(["Add", "Mul"])), f"{value} {other}", count)
            case "concat":
                other, more = self.draw(st.sampled_from(self.values))
                self.add("Concat", f"{other} {value}", count + more, axis=1)
            case "pool":
                op = self.draw(st.sampled_from(["MaxPool", "AveragePool"]))
                self.add(op, value, count, kernel_shape=[3, 3], **EDGE)
            case "scale":
                op = self.draw(st.sampled_from(["Add", "Mul", "Sub"]))
                self.add(op, f"{self.constant(count, 1, 1, density=0.7)} {value}", count)
            case op:
                self.add(op, value, count)


LAYERS = ["conv", "conv", "deconv", "depthwise", "norm", "sum", "concat", "pool", "scale"]
LAYERS += ["Relu", "Sigmoid", "Tanh", "Softplus"]


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    network = Network(draw)
    for _ in range(draw(st.integers(1, 12))):
        network.layer()
    value, count = network.values[-1]
    if draw(st.booleans()):
        network.add("Flatten", value, 36 * count)
        weight = network.weight(36 * count, 4)
        network.add("Gemm", f"{network.values[-1][0]} {weight}", 4)
    outputs = {network.values[-1][0], draw(st.sampled_from(network.values[1:]))[0]}
    return om.model(network.nodes, IMAGES, " ".join(sorted(outputs)), network.constants)


@given(networks(), st.sampled_from([dead.run, dead.in_fours, partial(dead.run, together=4)]))
@settings(max_examples=150)
def test_random_networks(proto: onnx.ModelProto, remove: Callable[[Graph], Graph]) -> None:
    graph = fold.run(om.read(proto))
    given = om.inputs_for(graph)
    wanted = interpreter.run(graph, given)
    for run in (identity.run, batchnorm.run, remove, batchnorm.run, identity.run):
        graph = run(graph)
        verify.check(graph, str(run))
        found = interpreter.run(graph, given)
        assert list(found) == list(wanted)
        for output, array in wanted.items():
            scale = abs(array).max(initial=1)
            np.testing.assert_allclose(found[output] / scale, array / scale, atol=1e-5)
    assert remove(graph) is graph
    assert identity.run(graph).nodes == graph.nodes
