"""The pass that gives convolutions and linear maps what follows them."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.compiler import interpreter
from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.passes import fuse, shapes, verify


class Net:
    """A graph being written; weights are random."""

    def __init__(self, **inputs: tuple[int, ...]) -> None:
        self.random = np.random.default_rng(1)
        self.inputs = inputs
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def const(self, value: Any, dtype: str = "float32") -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def weight(self, *shape: int) -> str:
        return self.const(self.random.standard_normal(shape))

    def __call__(self, op: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node; numbers become constants. Return the name of its output."""
        names = tuple(i if isinstance(i, str) else self.const(i) for i in inputs)
        output = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, f"n{len(self.nodes)}", names, (output,), attributes))
        return output

    def conv(self, x: str, outs: int = 4, channels: int = 4, **attributes: Any) -> str:
        w = self.weight(outs, channels, 3, 3)
        return self("Conv", x, w, self.weight(outs), pads=(1, 1, 1, 1), **attributes)

    def graph(self, *outputs: str, dtype: str = "float32") -> Graph:
        types = {name: Tensor(np.dtype(dtype), shape) for name, shape in self.inputs.items()}
        graph = Graph(tuple(self.nodes), tuple(self.inputs), outputs, self.constants, types)
        return shapes.run(graph)


def fused(net: Net, *outputs: str, dtype: str = "float32") -> Graph:
    """Fuse, and check that the graph is whole and still computes the same."""
    before = net.graph(*outputs, dtype=dtype)
    after = fuse.run(before)
    verify.check(after, "pass fuse")
    inputs = {
        name: np.random.default_rng(2).standard_normal(shape).astype(dtype)
        for name, shape in net.inputs.items()
    }
    expected, given_now = interpreter.run(before, inputs), interpreter.run(after, inputs)
    for name in outputs:
        np.testing.assert_allclose(given_now[name], expected[name], rtol=1e-4, atol=2e-5)
    return after


def brief(graph: Graph) -> list[str]:
    """Write each node as its operator, `r` where it adds a residual, and its activation."""
    return [
        node.op
        + ("+r" if node.op.startswith("Fused") and node.inputs[3] else "")
        + (f":{node.get('activation')}" if node.get("activation") else "")
        for node in graph.nodes
    ]


class TestConvolution:
    def test_residual_block(self) -> None:
        net = Net(x=(2, 4, 6, 6))
        y = net("Relu", net.conv("x", strides=(2, 2)))
        short = net("Conv", "x", net.weight(4, 4, 1, 1), strides=(2, 2))
        out = net("Relu", net("Add", net.conv(y), short))
        graph = fused(net, out)
        assert brief(graph) == ["FusedConv:Relu", "FusedConv", "FusedConv+r:Relu"]
        assert [node.name for node in graph.nodes] == ["n0", "n2", "n3"]

    def test_attributes_are_all_there(self) -> None:
        net = Net(x=(1, 4, 5, 5))
        w = net.weight(4, 2, 3, 3)
        y = net("Conv", "x", w, group=2, auto_pad="SAME_UPPER", strides=(2, 2))
        (node,) = fused(net, y).nodes
        assert dict(node.attributes) == {
            "pads": (1, 1, 1, 1), "strides": (2, 2), "dilations": (1, 1), "group": 2,
            "activation": "", "alpha": 0.0, "beta": 0.0,
        }  # fmt: skip
        assert node.inputs == ("x", w, "", "")

    def test_constant_sums_join_the_bias(self) -> None:
        net = Net(x=(1, 4, 5, 5))
        y = net("Add", net.weight(4, 1, 1), net("Add", net.conv("x"), 0.5))
        assert brief(fused(net, y)) == ["FusedConv"]

    def test_a_constant_plane_does_not_join(self) -> None:
        net = Net(x=(1, 4, 5, 5))
        y = net("Add", net.conv("x"), net.weight(5, 5))
        assert brief(fused(net, y)) == ["FusedConv", "Add"]

    def test_activation_before_the_sum_stays_before_it(self) -> None:
        net = Net(x=(1, 4, 5, 5))
        y = net("Add", net("Relu", net.conv("x")), "x")
        assert brief(fused(net, y)) == ["FusedConv:Relu", "Add"]

    def test_outputs_and_what_others_read_are_not_swallowed(self) -> None:
        net = Net(x=(1, 4, 5, 5))
        y = net.conv("x")
        z = net("Relu", y)
        assert brief(fused(net, z, y)) == ["FusedConv", "Activation:Relu"]
        w = net("Mul", y, z)
        assert brief(fused(net, w)) == ["FusedConv", "Activation:Relu", "Mul"]

    def test_a_sum_of_two_takes_one(self) -> None:
        net = Net(x=(1, 4, 5, 5))
        assert brief(fused(net, net("Add", net.conv("x"), net.conv("x")))) == [
            "FusedConv", "FusedConv+r",
        ]  # fmt: skip
        y = net.conv("x")
        assert brief(fused(net, net("Add", y, y))) == ["FusedConv", "Add"]

    def test_only_one_residual_and_one_activation(self) -> None:
        net = Net(x=(1, 4, 5, 5), r=(1, 4, 5, 5), s=(1, 4, 5, 5))
        y = net("Add", net("Add", net.conv("x"), "r"), "s")
        out = net("Sigmoid", net("Tanh", y))
        assert brief(fused(net, out)) == [
            "FusedConv+r", "Add", "Activation:Tanh", "Activation:Sigmoid",
        ]  # fmt: skip

    def test_a_residual_that_is_broadcast_stays_a_sum(self) -> None:
        net = Net(x=(2, 4, 5, 5), r=(1, 4, 5, 5), s=(2, 4, 5, 5))
        y = net("Add", net.conv("x"), "r")
        z = net("Add", net.conv("r"), "s")  # here it is the convolution that is
        assert brief(fused(net, y, z)) == ["FusedConv", "Add", "FusedConv", "Add"]

    def test_weights_that_are_not_constant_stay(self) -> None:
        net = Net(x=(1, 4, 5, 5), w=(4, 4, 3, 3), b=(4,))
        assert brief(fused(net, net("Relu", net("Conv", "x", "w")))) == ["Conv", "Activation:Relu"]
        assert brief(fused(net, net("Conv", "x", net.weight(4, 4, 1, 1), "b"))) == ["Conv"]

    def test_a_node_whose_first_output_nobody_wants(self) -> None:
        net = Net(x=(2, 1, 3))
        net.nodes.append(
            Node("RNN", "rnn", ("x", net.weight(1, 4, 3), net.weight(1, 4, 4)), ("", "h"))
        )
        assert brief(fused(net, net("Relu", "h"))) == ["RNN", "Activation:Relu"]

    def test_pooling_gets_explicit_padding(self) -> None:
        net = Net(x=(1, 2, 7))
        y = net("MaxPool", "x", kernel_shape=(3,), auto_pad="SAME_LOWER", strides=(2,), ceil_mode=1)
        (node,) = fused(net, y).nodes
        assert dict(node.attributes) == {
            "kernel_shape": (3,), "pads": (1, 1), "strides": (2,), "dilations": (1,),
            "ceil_mode": 0,
        }  # fmt: skip


class TestLinear:
    @pytest.mark.parametrize("trans_a", [0, 1])
    @pytest.mark.parametrize("trans_b", [0, 1])
    @pytest.mark.parametrize("c", [None, (), (1,), (4,), (1, 4), (2, 1), (2, 4)])
    def test_gemm(self, trans_a: int, trans_b: int, c: tuple[int, ...] | None) -> None:
        net = Net(x=(3, 2) if trans_a else (2, 3))
        inputs = ["x", net.weight(*((4, 3) if trans_b else (3, 4)))]
        if c is not None:
            inputs.append(net.weight(*c))
        y = net("Gemm", *inputs, alpha=0.5, beta=1.5, transA=trans_a, transB=trans_b)
        ops = brief(fused(net, net("Relu", y)))
        as_bias = c not in {(2, 1), (2, 4)}
        tail = ["FusedLinear:Relu"] if as_bias else ["FusedLinear", "Add", "Activation:Relu"]
        assert sorted(ops) == sorted(["Transpose"] * trans_a + tail)

    def test_gemm_with_a_sum_that_flows(self) -> None:
        net = Net(x=(2, 3), r=(2, 4))
        y = net("Tanh", net("Gemm", "x", net.weight(3, 4), "r"))
        assert brief(fused(net, y)) == ["FusedLinear+r:Tanh"]
        y = net("Gemm", "x", net.weight(3, 4), "r", beta=0.5)
        assert brief(fused(net, y)) == ["Mul", "FusedLinear+r"]

    def test_matmul_bias_residual_activation(self) -> None:
        net = Net(x=(2, 5, 3), r=(2, 5, 4))
        y = net("Add", net.weight(4), net("MatMul", "x", net.weight(3, 4)))
        graph = fused(net, net("Relu", net("Add", "r", y)))
        assert brief(graph) == ["FusedLinear+r:Relu"]
        assert graph.types[graph.nodes[0].inputs[1]].shape == (4, 3)

    def test_constant_on_the_left(self) -> None:
        net = Net(x=(2, 3, 5))
        y = net("MatMul", net.weight(4, 3), "x")
        assert brief(fused(net, y)) == ["Transpose", "FusedLinear", "Transpose"]

    def test_shared_weights_are_stored_once(self) -> None:
        net = Net(x=(2, 3))
        w = net.weight(3, 3)
        graph = fused(net, net("MatMul", net("MatMul", "x", w), w))
        assert len(graph.constants) == 1

    def test_other_products_stay(self) -> None:
        net = Net(x=(2, 3, 3), y=(2, 3, 3), v=(3,))
        outputs = [
            net("MatMul", "x", "y"),
            net("MatMul", "v", net.weight(3, 3)),
            net("MatMul", "x", net.weight(2, 3, 3)),
        ]
        assert brief(fused(net, *outputs)) == ["MatMul"] * 3
        net = Net(x=(2, 3))
        w = net.const(np.eye(3), "float64")
        assert brief(fused(net, net("Relu", net("MatMul", "x", w)), dtype="float64")) == [
            "MatMul", "Relu",
        ]  # fmt: skip


def gelu(net: Net, x: str, form: int) -> str:
    if form == 0:  # as older exporters of torch write it
        erf = net("Erf", net("Div", x, sqrt(2)))
        return net("Mul", net("Mul", x, net("Add", erf, 1.0)), 0.5)
    if form == 1:
        erf = net("Erf", net("Mul", 0.7071, x))
        return net("Mul", net("Mul", 0.5, x), net("Add", 1.0, erf))
    if form == 2:
        half = net("Add", net("Mul", net("Erf", net("Mul", x, sqrt(0.5))), 0.5), 0.5)
        return net("Mul", half, x)
    erf = net("Erf", net("Div", x, sqrt(2)))
    return net("Div", net("Mul", net("Add", erf, 1.0), x), 2.0)


def gelu_tanh(net: Net, x: str, form: int) -> str:
    k = sqrt(2 / np.pi)
    if form == 0:
        cubic = net("Add", x, net("Mul", net("Pow", x, 3.0), 0.044715))
        tanh = net("Tanh", net("Mul", cubic, k))
        return net("Mul", net("Mul", x, 0.5), net("Add", tanh, 1.0))
    square = net("Mul", net("Mul", x, 0.044715), x)
    inner = net("Mul", net("Mul", x, k), net("Add", 1.0, square))
    return net("Mul", net("Mul", 0.5, net("Add", 1.0, net("Tanh", inner))), x)


def silu(net: Net, x: str, form: int) -> str:
    return net("Mul", *(x, net("Sigmoid", x))[:: -1 if form else 1])


def hard_swish(net: Net, x: str, form: int) -> str:
    if form == 0:
        return net("Mul", x, net("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    clip = net("Clip", net("Add", x, 3.0), 0.0, 6.0)
    if form == 1:
        return net("Div", net("Mul", x, clip), 6.0)
    return net("Mul", net("Div", clip, 6.0), x)


def hard_sigmoid(net: Net, x: str, form: int) -> str:
    return net("Mul", net("Clip", net("Add", x, 3.0), 0.0, 6.0), 1 / 6)


SPELT = [
    *((gelu, "Gelu", form) for form in range(4)),
    *((gelu_tanh, "GeluTanh", form) for form in range(2)),
    *((silu, "Silu", form) for form in range(2)),
    *((hard_swish, "HardSwish", form) for form in range(3)),
    (hard_sigmoid, "HardSigmoid", 0),
]

SINGLE: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[str, float, float]]] = [
    ("Relu", (), {}, ("Relu", 0, 0)),
    ("LeakyRelu", (), {}, ("LeakyRelu", 0.01, 0)),
    ("PRelu", (0.2,), {}, ("LeakyRelu", np.float32(0.2), 0)),
    ("Clip", (0.0, 6.0), {}, ("Clip", 0, 6)),
    ("Clip", (-1.0,), {}, ("Clip", -1, np.inf)),
    ("Clip", (0.0,), {}, ("Relu", 0, 0)),
    ("Max", (0.0,), {}, ("Relu", 0, 0)),
    ("HardSigmoid", (), {}, ("HardSigmoid", 0.2, 0.5)),
    ("HardSwish", (), {}, ("HardSwish", 0, 0)),
    ("Elu", (), {"alpha": 0.7}, ("Elu", 0.7, 0)),
    ("Gelu", (), {"approximate": "tanh"}, ("GeluTanh", 0, 0)),
    ("Gelu", (), {}, ("Gelu", 0, 0)),
    ("Swish", (), {}, ("Silu", 0, 0)),
    ("Softplus", (), {}, ("Softplus", 0, 0)),
]


class TestActivations:
    @pytest.mark.parametrize(("write", "name", "form"), SPELT)
    def test_spelt_out(self, write: Callable[..., str], name: str, form: int) -> None:
        net = Net(x=(1, 4, 5, 5))
        y = write(net, net.conv("x"), form)
        assert brief(fused(net, y)) == [f"FusedConv:{name}"]

    @pytest.mark.parametrize(("write", "name", "form"), SPELT)
    def test_spelt_out_after_more_arithmetic(
        self, write: Callable[..., str], name: str, form: int
    ) -> None:
        net = Net(x=(2, 3))
        y = net("Mul", write(net, net("Mul", "x", 2.0), form), 3.0)
        assert brief(fused(net, y)) == ["Mul", f"Activation:{name}", "Mul"]

    @pytest.mark.parametrize(("write", "name", "form"), SPELT)
    def test_what_others_read_is_not_swallowed(
        self, write: Callable[..., str], name: str, form: int
    ) -> None:
        net = Net(x=(2, 3))
        y = write(net, "x", form)
        functions = {"Erf", "Tanh", "Sigmoid", "HardSigmoid", "Clip"}
        (t,) = (node.outputs[0] for node in net.nodes if node.op in functions)
        assert f"Activation:{name}" not in brief(fused(net, y, t))
        assert f"Activation:{name}" not in brief(fused(net, y, net("Neg", t)))

    @pytest.mark.parametrize(("op", "inputs", "attributes", "expected"), SINGLE)
    def test_single_nodes(
        self, op: str, inputs: tuple[Any, ...], attributes: Any, expected: tuple[str, float, float]
    ) -> None:
        net = Net(x=(3, 4))
        (node,) = fused(net, net(op, "x", *inputs, **attributes)).nodes
        assert tuple(node.get(key) for key in ("activation", "alpha", "beta")) == expected

    def test_near_misses_stay(self) -> None:
        net = Net(x=(2, 3), low=())
        outputs = [
            net("Mul", "x", net("Sigmoid", net("Mul", "x", 1.702))),
            net("Mul", net("Mul", "x", net("Add", net("Erf", "x"), 1.0)), 0.5),
            net("Clip", "x", "low"),
            net("Clip", "x", 2.0, 1.0),
            net("PRelu", "x", net.weight(3)),
            net("Div", net("Clip", net("Add", "x", 3.0), 0.0, 5.0), 6.0),
            net("Swish", "x", alpha=2.0),
        ]
        found = brief(fused(net, *outputs))
        assert [op for op in found if op.startswith("Activation")] == [
            "Activation:Sigmoid", "Activation:Clip",
        ]  # fmt: skip


class TestLayerNormalization:
    @pytest.mark.parametrize("square", ["Pow", "Mul"])
    @pytest.mark.parametrize("divide", ["Div", "Reciprocal"])
    @pytest.mark.parametrize("subtractions", [1, 2])
    @pytest.mark.parametrize("affine", [0, 1, 2])
    def test_spelt_out(self, square: str, divide: str, subtractions: int, affine: int) -> None:
        net = Net(x=(2, 3, 4))
        y = self._write(net, (-1,), square, divide, subtractions)
        if affine > 0:
            y = net("Mul", net.weight(4), y)
        if affine > 1:
            y = net("Add", y, net.weight(1, 1, 4))
        (node,) = fused(net, y).nodes
        assert (node.op, node.get("axis")) == ("LayerNormalization", -1)
        assert node.get("epsilon") == pytest.approx(1e-3)

    def test_over_two_axes(self) -> None:
        net = Net(x=(2, 3, 4))
        y = net("Mul", self._write(net, (2, 1)), net.weight(3, 1))
        (node,) = fused(net, y).nodes
        assert (node.op, node.get("axis")) == ("LayerNormalization", -2)

    def test_others_stay(self) -> None:
        net = Net(x=(2, 3, 4))
        y = self._write(net, (1,))
        assert "LayerNormalization" not in brief(fused(net, y))
        z = self._write(net, (2,))
        centred = net.nodes[net.nodes.index(next(n for n in net.nodes[7:] if n.op == "Sub"))]
        assert "LayerNormalization" not in brief(fused(net, z, centred.outputs[0]))
        scaled = net("Mul", self._write(net, (2,)), net.weight(3, 1))
        assert brief(fused(net, scaled)) == ["LayerNormalization", "Mul"]

    def _write(
        self,
        net: Net,
        axes: tuple[int, ...],
        square: str = "Pow",
        divide: str = "Div",
        subtractions: int = 1,
    ) -> str:
        where = net.const(axes, "int64")
        centred = [
            net("Sub", "x", net("ReduceMean", "x", where, keepdims=1)) for _ in range(subtractions)
        ]
        squared = (
            net("Pow", centred[-1], 2.0)
            if square == "Pow"
            else net("Mul", centred[-1], centred[-1])
        )
        variance = net("ReduceMean", squared, where)
        deviation = net("Sqrt", net("Add", variance, 1e-3))
        if divide == "Div":
            return net("Div", centred[0], deviation)
        return net("Mul", net("Reciprocal", deviation), centred[0])


@settings(max_examples=60)
@given(data=st.data())
def test_random_networks_compute_the_same(data: st.DataObject) -> None:
    net = Net(x=(1, 4, 3, 3))
    values = ["x"]
    for _ in range(data.draw(st.integers(1, 9))):
        pick = st.sampled_from(values)
        op = data.draw(st.sampled_from(["Conv", "MatMul", "Add", "Bias", "Relu", "Tanh", "Mul"]))
        a = data.draw(pick)
        if op == "Conv":
            w = net.const(net.random.standard_normal((4, 4, 3, 3)) / 6)
            values.append(net("Conv", a, w, net.weight(4), pads=(1,) * 4))
        elif op == "MatMul":
            values.append(net("MatMul", a, net.const(net.random.standard_normal((3, 3)) / 2)))
        elif op == "Bias":
            shape = data.draw(st.sampled_from([(4, 1, 1), (3,), (1,), (3, 3)]))
            values.append(net("Add", net.weight(*shape), a))
        elif op in {"Add", "Mul"}:
            values.append(net(op, a, data.draw(pick)))
        else:
            values.append(net(op, a))
    made = values[1:]
    outputs = data.draw(st.lists(st.sampled_from(made), min_size=1, max_size=2, unique=True))
    graph = fused(net, *outputs)
    assert not {"Conv", "Relu", "Tanh"} & {node.op for node in graph.nodes}
