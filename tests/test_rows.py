"""Networks whose outputs do not hold one row of each sample are right for any batch, or refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_models as om
import secateur
from secateur.errors import CompileError

BATCHES = (1, 2, 3, 17)
WEIGHTS = {"w": np.arange(20, dtype=np.float32).reshape(4, 5) / 10}
SHAPES = {
    "k": np.array([-1, 4], np.int64),
    "pairs": np.array([-1, 2, 4], np.int64),
    "flat": np.array([-1], np.int64),
}

SEEN = {
    "far": np.array(1e4, np.float32), "none": np.array(0, np.float32),
    "ones": np.ones(4, np.float32), "zero": np.array(0), "zero1": np.array([0]),
    "two1": np.array([2]), "end": np.array([2**40]), "pairs": np.array([-1, 2]),
    "four": np.array([-1, 4]),
}  # fmt: skip
PICKED = om.node("Where", "g none x", "y")


def theirs(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(None, {session.get_inputs()[0].name: x})
    return found


def agree(proto: onnx.ModelProto, *shape: int) -> None:
    with secateur.compile(proto) as engine:
        empty = engine(np.zeros((0, *shape), np.float32))
        assert all(len(y) == 0 for y in (empty if isinstance(empty, tuple) else (empty,)))
        for batch in BATCHES:
            x = np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)
            got = engine(x)
            for mine, its in zip(
                got if isinstance(got, tuple) else (got,), theirs(proto, x), strict=True
            ):
                assert mine.shape == its.shape
                np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        [om.node("Flatten", "x", "y", axis=2)],
        [om.node("Reshape", "x k", "y")],
        [om.node("Reshape", "x flat", "y")],
        [om.node("Reshape", "x k", "t"), om.node("MatMul", "t w", "y")],
        [om.node("Transpose", "x", "t", perm=[0, 2, 1, 3]), om.node("Reshape", "t k", "y")],
        [om.node("Reshape", "x pairs", "t"), om.node("Relu", "t", "y")],
    ],
    ids=["flatten", "reshape", "all", "linear", "transposed", "pairs"],
)
def test_rows_that_are_a_multiple_of_the_batch(nodes: Sequence[onnx.NodeProto]) -> None:
    agree(om.model(nodes, {"x": ["N", 3, 2, 4]}, constants=WEIGHTS | SHAPES), 3, 2, 4)


def test_several_outputs_of_other_multiples_one_read_again() -> None:
    nodes = [
        om.node("Reshape", "x k", "six"),
        om.node("Reshape", "six pairs", "three"),
        om.node("ReduceMean", "x", "one", axes=[1, 2], keepdims=0),
        om.node("Exp", "six", "e"),
    ]
    constants = WEIGHTS | SHAPES
    proto = om.model(nodes, {"x": ["N", 3, 2, 4]}, "three one six e", constants, opset=13)
    agree(proto, 3, 2, 4)


def test_convolutions_before_the_rows() -> None:
    """Programs of many samples have them in lanes."""
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 3), np.float32)
    nodes = [
        om.node("Conv", "x c", "t", pads=[1, 1, 1, 1]),
        om.node("Relu", "t", "r"),
        om.node("Transpose", "r", "s", perm=[0, 2, 3, 1]),
        om.node("Reshape", "s six", "y"),
    ]
    constants = {"c": weight, "six": np.array([-1, 6], np.int64)}
    agree(om.model(nodes, {"x": ["N", 3, 5, 5]}, constants=constants), 3, 5, 5)


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([om.node("Transpose", "x", "t", perm=[1, 0, 2, 3]), om.node("Reshape", "t k", "y")], None),
        ([om.node("Transpose", "x", "y", perm=[1, 0, 2, 3])], None),
        ([om.node("ReduceMean", "x", "y", axes=[0], keepdims=0)], None),
        ([om.node("ReduceMean", "x", "y", keepdims=0)], None),
        ([om.node("Shape", "x", "y")], None),
        ([om.node("Identity", "w", "y")], None),
        ([om.node("CumSum", "x zero", "y")], None),
        ([om.node("Relu", "x", "y")], [3, "N", 2, 4]),
        ([om.node("Relu", "x", "y")], ["N", "N", 2, 4]),
    ],
    ids=[
        "interleaved", "second", "mean", "scalar", "shape", "constant", "running", "batch second",
        "batch twice",
    ],
)  # fmt: skip
def test_what_no_batch_can_be_cut_from_is_refused_or_right(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str] | None
) -> None:
    constants = WEIGHTS | SHAPES | {"zero": np.array(0, np.int64)}
    proto = om.model(nodes, {"x": shape or ["N", 3, 2, 4]}, constants=constants, opset=13)
    with pytest.raises(secateur.SecateurError, match=r"--input-shape x=") as error:
        secateur.compile(proto)
    assert "report" not in str(error.value)
    x = np.random.default_rng(0).standard_normal((3, 3, 2, 4), np.float32)
    with secateur.compile(proto, input_shapes={"x": x.shape}) as engine:
        np.testing.assert_allclose(engine(x), theirs(proto, x)[0], rtol=1e-5, atol=1e-6)


def test_a_recurrent_network_with_the_sequence_first() -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((1, 12, 4), np.float32),
        "r": rng.standard_normal((1, 12, 3), np.float32),
    }
    node = om.node("LSTM", "x w r", "y", hidden_size=3)
    proto = om.model([node], {"x": [5, "batch", 4]}, constants=constants, opset=14)
    with pytest.raises(secateur.SecateurError, match=r"--input-shape x=5,"):
        secateur.compile(proto)
    x = rng.standard_normal((5, 3, 4), np.float32)
    with secateur.compile(proto, input_shapes={"x": (5, 3, 4)}) as engine:
        np.testing.assert_allclose(engine(x), theirs(proto, x)[0], rtol=1e-5, atol=1e-6)


def test_the_advice_is_a_shape_that_can_be_given() -> None:
    proto = om.model([om.node("ReduceSum", "x", "y", keepdims=0)], {"x": ["N", 3]}, opset=13)
    with pytest.raises(CompileError, match=r"--input-shape x=16,3"):
        secateur.compile(proto)


@pytest.mark.parametrize(
    "nodes",
    [
        [om.node("ReduceMax", "x", "m"), om.node("Greater", "m far", "g"), PICKED],
        [om.node("ReduceMin", "x", "m", axes=[0]), om.node("Less", "m far", "g"), PICKED],
        [om.node("Softmax", "x", "m", axis=0), om.node("Greater", "m far", "g"), PICKED],
        [om.node("LayerNormalization", "x ones", "m", axis=0), om.node("Greater", "m far", "g"),
         PICKED],
        [om.node("CumSum", "x zero", "m"), om.node("Greater", "m far", "g"), PICKED],
        [om.node("ArgMax", "x", "m", axis=-2), om.node("Cast", "m", "f", to=1),
         om.node("Greater", "f far", "g"), PICKED],
        [om.node("Reshape", "x pairs", "r"), om.node("ReduceMax", "r", "m", axes=[0]),
         om.node("Greater", "m far", "g"), om.node("Where", "g none r", "p"),
         om.node("Reshape", "p four", "y")],
    ],
    ids=["max", "min", "softmax", "normalised", "running", "position", "rows"],
)  # fmt: skip
def test_samples_that_meet_only_for_numbers_out_of_sight(nodes: Sequence[onnx.NodeProto]) -> None:
    opset = 17 if nodes[0].op_type == "LayerNormalization" else 13
    proto = om.model(nodes, {"x": ["N", 4]}, constants=SEEN, opset=opset)
    with pytest.raises(CompileError, match=r"--input-shape x=16,4") as error:
        secateur.compile(proto)
    assert "'n_m'" in str(error.value)


def test_what_is_reduced_within_a_sample_is_compiled() -> None:
    nodes = [
        om.node("Reshape", "x pairs", "r"),
        om.node("ReduceMax", "r", "m", axes=[1]),
        om.node("Div", "r m", "d"),
        om.node("Softmax", "d", "s", axis=-1),
        om.node("Reshape", "s four", "y"),
    ]
    agree(om.model(nodes, {"x": ["N", 4]}, constants=SEEN, opset=13), 4)


@pytest.mark.parametrize(
    "nodes",
    [
        [om.node("Slice", "x zero1 two1 zero1", "y")],
        [om.node("Slice", "x two1 end zero1", "a"), om.node("Slice", "x zero1 two1 zero1", "b"),
         om.node("Concat", "a b", "y", axis=0)],
        [om.node("Shape", "x", "s"), om.node("Gather", "s zero1", "n"),
         om.node("Max", "n two1", "k"), om.node("Cast", "k", "f", to=1),
         om.node("Add", "x f", "y")],
    ],
    ids=["first two", "rolled by two", "number of samples"],
)  # fmt: skip
def test_what_treats_the_first_two_samples_alike(nodes: Sequence[onnx.NodeProto]) -> None:
    proto = om.model(nodes, {"x": ["N", 4]}, constants=SEEN, opset=13)
    with pytest.raises(CompileError, match=r"--input-shape x=16,4"):
        secateur.compile(proto)
