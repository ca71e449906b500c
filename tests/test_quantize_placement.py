"""Where a quantised network rounds: the patterns that integer kernels are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_models as om
import secateur

rng = np.random.default_rng(0)
W = {
    "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "v": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "u": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "b": rng.standard_normal(4).astype(np.float32),
    "m": rng.standard_normal((4, 5)).astype(np.float32),
    "c": rng.standard_normal(5).astype(np.float32),
}
CONV = om.node("Conv", "x w b", "a", pads=[1, 1, 1, 1])
LAST = om.node("Conv", "z v", "y")


class Made:
    """A quantised network, to look at."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        outputs: str = "y",
        constants: Mapping[str, np.ndarray] | None = None,
        shape: Sequence[int] = (3, 6, 6),
    ) -> None:
        proto = om.model(nodes, {"x": ["N", *shape]}, outputs, {**W, **(constants or {})})
        data = np.random.default_rng(1).standard_normal((8, *shape)).astype(np.float32)
        self.result = secateur.quantize(proto, data)
        self.graph = onnx.load_from_string(self.result.content).graph
        self.makers = {out: node for node in self.graph.node for out in node.output}
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        wanted = om.onnxruntime_gives(proto, {"x": data})
        found = om.onnxruntime_gives(onnx.load_from_string(self.result.content), {"x": data})
        for name, array in wanted.items():
            off = np.linalg.norm(found[name] - array) / np.linalg.norm(array)
            assert off < 0.06, name

    def scale(self, value: str) -> tuple[str, str] | None:
        """Return scale and zero point of a value that is stored in 8 bit; None for others."""
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear" and node.input[0] == value:
                return node.input[1], node.input[2]
        return None

    def stored(self, value: str) -> bool:
        return self.scale(value) is not None

    def reads(self, op: str) -> list[str]:
        """Return what makes each input of the only node of an operator."""
        (node,) = (node for node in self.graph.node if node.op_type == op)
        made = [self.makers[v].op_type if v in self.makers else v for v in node.input]
        return [name for name in made if name not in self.constants]


def test_weights_and_biases_are_integers_along_the_outputs() -> None:
    made = Made([CONV, om.node("Relu", "a", "z"), LAST])
    first, last = (node for node in made.graph.node if node.op_type == "Conv")
    for node, name in ((first, "w"), (last, "v")):
        weight = made.makers[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert {a.name: a.i for a in weight.attribute} == {"axis": 0}
        q, scale = (made.constants[v] for v in weight.input)
        assert q.dtype == np.int8
        assert scale.dtype == np.float32
        assert scale.shape == (4,)
        np.testing.assert_allclose(q * scale[:, None, None, None], W[name], atol=scale.max())
    bias = made.makers[first.input[2]]
    q, scale = (made.constants[v] for v in bias.input)
    assert q.dtype == np.int32
    step = made.constants[made.makers[first.input[0]].input[1]]
    weights = made.constants[made.makers[first.input[1]].input[1]]
    np.testing.assert_array_equal(scale, step * weights)


def test_nothing_is_rounded_between_a_layer_and_what_is_fused_to_it() -> None:
    made = Made([CONV, om.node("Relu", "a", "z"), LAST])
    assert not made.stored("a")
    assert made.stored("z")
    assert not made.stored("y")
    zero = made.constants[made.scale("z")[1]]  # type: ignore[index]
    assert zero == 0
    assert zero.dtype == np.uint8


def test_a_residual_is_added_before_rounding_by_the_later_layer() -> None:
    nodes = [
        CONV,
        om.node("Relu", "a", "r"),
        om.node("Conv", "r u", "p"),
        om.node("Conv", "r v", "q"),
        om.node("Add", "p q", "s"),
        om.node("Relu", "s", "z"),
        om.node("Conv", "z m2", "y"),
    ]
    made = Made(nodes, constants={"m2": W["u"]})
    assert made.stored("p")
    assert not made.stored("q")
    assert not made.stored("s")
    assert made.stored("z")
    assert made.reads("Add") == ["DequantizeLinear", "Conv"]


def test_a_residual_nobody_needs_in_8_bit_stays_float() -> None:
    nodes = [
        om.node("Conv", "x w b", "a", pads=[1, 1, 1, 1]),
        om.node("Softmax", "a", "s", axis=1),
        om.node("Conv", "s v", "q"),
        om.node("Add", "q a", "y"),
    ]
    made = Made(nodes)
    assert not made.stored("a")
    assert made.stored("s")


@pytest.mark.parametrize(
    "nodes",
    [
        [om.node("Sigmoid", "a", "z")],
        [om.node("Sigmoid", "a", "g"), om.node("Mul", "a g", "z")],
        [om.node("HardSwish", "a", "z")],
        [om.node("LeakyRelu", "a", "z", alpha=0.1)],
        [om.node("Tanh", "a", "z")],
        [om.node("Gelu", "a", "z")],
        [
            om.node("Div", "a root", "d"),
            om.node("Erf", "d", "e"),
            om.node("Add", "e one", "f"),
            om.node("Mul", "a f", "g"),
            om.node("Mul", "g half", "z"),
        ],
    ],
    ids=lambda nodes: "-".join(node.op_type for node in nodes),
)
def test_a_function_of_one_number_reads_and_gives_8_bit(nodes: list[onnx.NodeProto]) -> None:
    constants = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    made = Made([CONV, *nodes, LAST], constants={k: np.array(v) for k, v in constants.items()})
    assert made.stored("a")
    assert made.stored("z")
    inside = {name for node in nodes for name in node.output} - {"z"}
    assert not any(made.stored(name) for name in inside)


def test_a_function_of_a_float_value_stays_float() -> None:
    """Rounded before a ReLU that cuts almost everything off, little would be left."""
    gain = np.float32([1, 1, 1, -50]).reshape(4, 1, 1)
    nodes = [CONV, om.node("Mul", "a gain", "s"), om.node("Relu", "s", "z"), LAST]
    nodes[1:2] = [om.node("Softmax", "a", "f", axis=1), om.node("Mul", "f gain", "s")]
    made = Made(nodes, constants={"gain": gain})
    assert not made.stored("s")
    assert made.stored("z")


@pytest.mark.parametrize(
    "node",
    [
        om.node("MaxPool", "r", "z", kernel_shape=[2, 2], strides=[2, 2]),
        om.node("Transpose", "r", "z", perm=[0, 1, 3, 2]),
        om.node("Slice", "r from to axes", "z"),
        om.node("Pad", "r pads", "z"),
    ],
    ids=lambda node: node.op_type,
)
def test_what_moves_numbers_keeps_their_scale(node: onnx.NodeProto) -> None:
    constants = {
        "from": np.array([1], np.int64),
        "to": np.array([4], np.int64),
        "axes": np.array([2], np.int64),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
    }
    made = Made([CONV, om.node("Relu", "a", "r"), node, LAST], constants=constants)
    assert made.scale("z") == made.scale("r") is not None


def test_padding_with_another_number_than_0_has_its_own_scale() -> None:
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "far": np.array(9.0, "f4")}
    nodes = [CONV, om.node("Relu", "a", "r"), om.node("Pad", "r pads far", "z"), LAST]
    nodes += [om.node("Conv", "r u", "y2")]
    made = Made(nodes, "y y2", constants)
    assert made.scale("r") is not None
    assert made.scale("z") not in (None, made.scale("r"))


def test_means_have_a_scale_of_their_own() -> None:
    nodes = [
        CONV,
        om.node("Relu", "a", "r"),
        om.node("GlobalAveragePool", "r", "p"),
        om.node("Flatten", "p", "f"),
        om.node("Gemm", "f m c", "y"),
    ]
    made = Made(nodes)
    assert made.scale("p") not in (None, made.scale("r"))
    assert made.scale("f") == made.scale("p")


def test_what_is_joined_shares_one_scale() -> None:
    nodes = [
        CONV,
        om.node("Relu", "a", "r"),
        om.node("Conv", "r u", "p"),
        om.node("Conv", "r v", "q"),
        om.node("MaxPool", "q", "k", kernel_shape=[1, 1]),
        om.node("Concat", "p k", "z", axis=1),
        om.node("Conv", "z wide", "y"),
    ]
    wide = np.random.default_rng(3).standard_normal((2, 8, 1, 1)).astype(np.float32)
    made = Made(nodes, constants={"wide": wide})
    assert made.scale("p") == made.scale("q") == made.scale("k") == made.scale("z") is not None


def test_a_sum_without_a_layer_before_it_adds_8_bit_values() -> None:
    nodes = [
        CONV,
        om.node("Relu", "a", "r"),
        om.node("MaxPool", "r", "k", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        om.node("Add", "r k", "s"),
        om.node("Relu", "s", "z"),
        LAST,
    ]
    made = Made(nodes)
    assert made.reads("Add") == ["DequantizeLinear"] * 2
    assert not made.stored("s")
    assert made.stored("z")


def test_a_linear_layer_keeps_the_sum_that_adds_its_bias() -> None:
    nodes = [
        om.node("MatMul", "x k", "a"),
        om.node("Add", "a b", "h"),
        om.node("Relu", "h", "r"),
        om.node("MatMul", "r m", "d"),
        om.node("Add", "c d", "y"),
    ]
    made = Made(nodes, constants={"k": W["v"][:, :, 0, 0]}, shape=(6, 4))
    assert not made.stored("a")
    assert not made.stored("h")
    assert made.stored("r")
    for node in made.graph.node:
        if node.op_type == "MatMul":
            weight = made.makers[node.input[1]]
            assert {a.name: a.i for a in weight.attribute} == {"axis": 1}
        if node.op_type == "Add":
            kinds = {made.makers[v].op_type for v in node.input}
            assert kinds == {"MatMul", "DequantizeLinear"}


def test_a_sum_that_adds_axes_is_no_bias() -> None:
    nodes = [om.node("MatMul", "x w", "t"), om.node("Add", "t b", "y")]
    bias = np.ones((1, 1, om.WEIGHTS.shape[1]), np.float32)
    proto = om.model(nodes, {"x": ["N", 3]}, constants={"w": om.WEIGHTS, "b": bias})
    x = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    made = onnx.load_from_string(secateur.quantize(proto, x).content)
    wanted, found = (om.onnxruntime_gives(p, {"x": x})["y"] for p in (proto, made))
    assert found.shape == wanted.shape == (1, *wanted.shape[1:])
    np.testing.assert_allclose(found, wanted, atol=0.3)


@pytest.mark.parametrize("across", [0, 1])
def test_a_gemm_takes_its_factors_into_the_weights(across: int) -> None:
    weight = W["m"].T.copy() if across else W["m"]
    nodes = [om.node("Gemm", "x k c", "y", alpha=0.5, beta=2.0, transB=across)]
    made = Made(nodes, constants={"k": weight}, shape=(4,))
    (node,) = (node for node in made.graph.node if node.op_type == "Gemm")
    assert {a.name for a in node.attribute} <= {"transB"}
    axis = {a.name: a.i for a in made.makers[node.input[1]].attribute}
    assert axis == {"axis": 0 if across else 1}


def test_attention_stays_float_between_its_linear_layers() -> None:
    nodes = [
        om.node("MatMul", "x k", "q"),
        om.node("Transpose", "q", "t", perm=[0, 2, 1]),
        om.node("MatMul", "q t", "scores"),
        om.node("Softmax", "scores", "p", axis=-1),
        om.node("MatMul", "p q", "o"),
        om.node("MatMul", "o m", "y"),
    ]
    made = Made(nodes, constants={"k": W["v"][:, :, 0, 0]}, shape=(6, 4))
    assert made.stored("x")
    assert made.stored("o")
    assert not any(map(made.stored, ("q", "t", "scores", "p")))


def test_a_value_that_is_an_output_too_stays_float_there() -> None:
    made = Made([CONV, om.node("Relu", "a", "z"), LAST], "z y")
    assert made.stored("z")
    assert made.makers["z"].op_type == "Relu"


def test_a_layer_used_twice_on_one_weight_is_quantised_twice() -> None:
    nodes = [
        CONV,
        om.node("Relu", "a", "r"),
        om.node("Conv", "r v", "s"),
        om.node("Relu", "s", "z"),
        LAST,
    ]
    made = Made(nodes)
    assert len(made.result.int8) == 3
    assert sum(array.dtype == np.int8 for array in made.constants.values()) == 3
