"""What an engine is compared with before it is handed over, and on which inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest

import kernel_harness
import onnx_models as om
import secateur
from secateur.compiler import samples, verification
from secateur.compiler.network import Network, prepare
from secateur.errors import CompileError

F32, I64 = np.float32, np.int64
Arrays = Mapping[str, np.ndarray]


def drawn(nodes: list[onnx.NodeProto], *inputs: Any, **constants: np.ndarray) -> Arrays:
    """Return many samples of a model's inputs, as one array each."""
    last = nodes[-1].output[0]
    graph = om.read(om.model(nodes, inputs, last, constants, opset=18), batch=1)
    rng = np.random.default_rng(0)
    made = [samples.draw(rng, graph, mixed=bool(k % 2)) for k in range(100)]
    return {name: np.concatenate([one[name] for one in made]) for name in graph.inputs}


def ids(dtype: Any = I64, *shape: int) -> onnx.ValueInfoProto:
    return om.value("x", ["N", *(shape or (6,))], dtype)


def table(rows: int) -> np.ndarray:
    return np.arange(rows * 4, dtype=F32).reshape(rows, 4)


PICK = om.node("Gather", "w i", "y")
RANGES: Mapping[str, tuple[list[onnx.NodeProto], Any, dict[str, Any], tuple[int, int]]] = {
    "positions": ([om.node("Gather", "w x", "y")], I64, {"w": table(50)}, (0, 49)),
    "of the smaller table": (
        [om.node("Gather", "w x", "a"), om.node("Gather", "v x", "b"), om.node("Add", "a b", "y")],
        I64, {"w": table(50), "v": table(9)}, (0, 8),
    ),
    "moved": (
        [om.node("Cast", "x", "j", to=7), om.node("Add", "j two", "i"), PICK],
        np.int32, {"w": table(50), "two": np.array(2)}, (-2, 47),
    ),
    "scaled": (
        [om.node("Mul", "x two", "i"), PICK], I64, {"w": table(50), "two": np.array(2)}, (0, 24),
    ),
    "behind": (
        [om.node("Sub", "last x", "i"), PICK],
        I64, {"w": table(50), "last": np.array(49)}, (0, 49),
    ),
    "floats": ([om.node("Cast", "x", "i", to=7), PICK], F32, {"w": table(50)}, (0, 49)),
    "judged": (
        [om.node("Cast", "x", "m", to=9), om.node("Where", "m a b", "y")],
        I64, {"a": np.array(1, F32), "b": np.array(0, F32)}, (0, 1),
    ),
    "masked": (
        [om.node("Cast", "x", "m", to=1), om.node("Sub", "one m", "y")],
        I64, {"one": np.array(1, F32)}, (0, 1),
    ),
    "compared": ([om.node("Equal", "x c", "y")], I64, {"c": np.array(1000)}, (998, 1002)),
    "pixels": ([om.node("Cast", "x", "y", to=1)], np.uint8, {}, (0, 255)),
    "numbers": ([om.node("Cast", "x", "y", to=1)], np.int32, {}, samples.USUAL),  # type: ignore[dict-item]
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES)
def test_integers_are_drawn_from_their_whole_range(name: str) -> None:
    nodes, dtype, constants, span = RANGES[name]
    x = drawn(nodes, ids(dtype), **constants)["x"]
    assert (x.min(), x.max()) == span
    assert x.dtype == dtype


def test_numbers_have_several_scales_and_both_signs() -> None:
    x = drawn([om.node("Relu", "x", "y")], ids(F32, 64))["x"]
    for low, high in ((0, 0.02), (0.5, 2), (8, 40)):
        part = (np.abs(x) > low) & (np.abs(x) < high)
        assert (x[part] > 0).any()
        assert (x[part] < 0).any()


def prepared(proto: onnx.ModelProto) -> Network:
    return prepare(proto.SerializeToString(), kernel_harness.machine())


def embedding() -> onnx.ModelProto:
    return om.model([om.node("Gather", "w x", "y")], [ids()], constants={"w": table(50)})


def judged(proto: onnx.ModelProto, run: Callable[[Arrays], Any], values: str = "fp32") -> float:
    network = prepared(proto)
    return verification.verify(network, verification.truth(network), run, values)


def test_rows_of_a_table_beyond_the_first_two_are_looked_at() -> None:
    wrong = table(50)
    wrong[2:] += 1
    assert judged(embedding(), lambda x: table(50)[x["x"]]) < 1e-6
    with pytest.raises(CompileError, match=r"differs from the reference .*output 'y'"):
        judged(embedding(), lambda x: wrong[x["x"]])


def test_the_second_sample_is_looked_at_where_the_batch_is_fixed() -> None:
    proto = om.model([om.node("Tanh", "x", "y")], {"x": [3, 40]})
    assert judged(proto, lambda x: np.tanh(x["x"])) < 1e-6
    with pytest.raises(CompileError, match=r"differs from the reference"):
        judged(proto, lambda x: np.where(np.abs(x["x"]) < 5, np.tanh(x["x"]), 0))


ILL: Mapping[str, tuple[list[onnx.NodeProto], Any]] = {
    "cancelled": ([om.node("Add", "x big", "t"), om.node("Sub", "t big", "y")], F32),
    "integers of one value": (
        [
            om.node("Cast", "x", "f", to=1), om.node("Mul", "f tenth", "c"),
            om.node("ReduceMean", "c last", "m"), om.node("Sub", "c m", "d"),
            om.node("Mul", "d d", "e"), om.node("ReduceMean", "e last", "v"),
            om.node("Sqrt", "v", "s"), om.node("Div", "d s", "y"),
        ], I64,
    ),
    "overflowing": (
        [om.node("Mul", "x hundred", "t"), om.node("Exp", "t", "e"), om.node("Add", "e one", "u"),
         om.node("Log", "u", "y")], F32,
    ),
    "logarithms of probabilities": (
        [om.node("Mul", "x hundred", "t"), om.node("Softmax", "t", "p"), om.node("Log", "p", "y")],
        F32,
    ),
    "roots": ([om.node("Sqrt", "x", "s"), om.node("Log", "s", "y")], F32),
    "rounded": ([om.node("Mul", "x hundred", "t"), om.node("Round", "t", "y")], F32),
    "positions of equals": ([om.node("ArgMax", "x", "y", axis=1)], I64),
}  # fmt: skip


@pytest.mark.parametrize("name", ILL)
def test_what_float32_cannot_give_is_no_fault_of_the_engine(name: str) -> None:
    nodes, dtype = ILL[name]
    constants = {
        "big": np.array(1e8, F32), "tenth": np.array(0.1, F32), "hundred": np.array(100, F32),
        "one": np.array(1, F32), "last": np.array([1]),
    }  # fmt: skip
    proto = om.model(nodes, [ids(dtype)], constants=constants, opset=18)
    with secateur.compile(proto) as engine:
        x = np.arange(24).reshape(4, 6).astype(dtype)
        wanted = om.onnxruntime_gives(proto, {"x": x})["y"]
        room = 8 if name == "cancelled" else 1e-4  # 1e8 has steps of 8
        found = engine(x)
        # numbers below the least normal one, whose logarithm is -87.3, may be 0
        lost = np.isneginf(wanted) & (found < -87.3)
        np.testing.assert_allclose(found[~lost], wanted[~lost], rtol=1e-4, atol=room)


def test_a_wrong_overflow_is_found() -> None:
    """What is infinite in float32 may be; what is finite may not."""
    nodes = [om.node("Exp", "x", "y")]
    proto = om.model(nodes, [ids(F32, 40)])
    assert judged(proto, lambda x: np.exp(x["x"])) < 1e-6
    with pytest.raises(CompileError, match=r"differs from the reference"):
        judged(proto, lambda x: np.where(x["x"] > 2, np.inf, np.exp(x["x"])).astype(F32))


@pytest.mark.parametrize("values", ["fp16", "bf16"])
def test_stored_weights_may_be_as_far_off_as_their_rounding(values: str) -> None:
    """A softmax of large numbers magnifies it beyond the usual tolerance."""
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(F32) * 8
    nodes = [om.node("MatMul", "x w", "t"), om.node("Softmax", "t", "y")]
    proto = om.model(nodes, {"x": ["N", 16]}, constants={"w": weight})
    with secateur.compile(proto, values=values) as engine:
        assert engine(np.zeros((3, 16), F32)).shape == (3, 16)


def network(nodes: list[onnx.NodeProto], *shape: int, **constants: np.ndarray) -> onnx.ModelProto:
    return om.model(nodes, {"x": ["N", *shape]}, "y", constants, opset=18)


STEP = {"s": np.array(0.02, F32), "lo": np.array(-128, F32), "hi": np.array(127, F32)}
QUANTISED = [
    om.node("Conv", "x w", "a", pads=[1, 1, 1, 1]), om.node("Div", "a s", "b"),
    om.node("Round", "b", "c"), om.node("Clip", "c lo hi", "d"),
]  # fmt: skip
AFTER: Mapping[str, list[onnx.NodeProto]] = {
    "integers": [om.node("Cast", "d", "y", to=3)],
    "floats": [om.node("Mul", "d s", "y")],
    "another layer": [om.node("Mul", "d s", "e"), om.node("Conv", "e v", "y")],
    "means": [
        om.node("Mul", "d s", "e"), om.node("Conv", "e v", "f"),
        om.node("GlobalAveragePool", "f", "g"), om.node("Flatten", "g", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("after", "extent", "seed"), [*((after, 32, 0) for after in AFTER), ("means", 8, 1)]
)
def test_quantised_networks_may_round_the_other_way(after: str, extent: int, seed: int) -> None:
    """In a small one so few numbers lie on an edge that a run may miss them."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": (rng.standard_normal((32, 64, 3, 3)) / 24).astype(F32),
        "v": (rng.standard_normal((8, 32, 1, 1)) / 6).astype(F32),
    }
    proto = network([*QUANTISED, *AFTER[after]], 64, extent, extent, **STEP, **weights)
    with secateur.compile(proto) as engine:
        x = rng.standard_normal((2, 64, extent, extent)).astype(F32)
        off = np.abs(engine(x).astype(float) - om.onnxruntime_gives(proto, {"x": x})["y"])
    assert np.mean(off > 1e-3) < 0.01


@pytest.mark.parametrize("value", [0.1, 3.7])
def test_rows_of_one_value_may_be_normalised_to_anything_small(value: float) -> None:
    nodes = [
        om.node("Concat", "x k", "c", axis=1),
        om.node("LayerNormalization", "c g", "y", axis=-1, epsilon=1e-12),
    ]
    constants = {"k": np.full((1, 3, 33), value, F32), "g": np.ones(33, F32)}
    proto = om.model(nodes, {"x": [1, 5, 33]}, constants=constants, opset=18)
    x = np.random.default_rng(0).standard_normal((1, 5, 33)).astype(F32)
    with secateur.compile(proto) as engine:
        wanted = om.onnxruntime_gives(proto, {"x": x})["y"]
        np.testing.assert_allclose(engine(x)[:, :5], wanted[:, :5], atol=1e-5)


def halves(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """y = what nodes make c of a, which is half of x, and tanh of the other half."""
    return [
        om.node("Split", "x sp", "a b", axis=1), *nodes, om.node("Tanh", "b", "d"),
        om.node("Concat", "c d", "y", axis=1),
    ]  # fmt: skip


LOOSE: Mapping[str, list[onnx.NodeProto]] = {
    "cancelled": [om.node("Add", "a big", "t"), om.node("Sub", "t big", "c")],
    "far sine": [om.node("Mul", "a big", "t"), om.node("Sin", "t", "c")],
    "rounded": [om.node("Mul", "a big", "t"), om.node("Sin", "t", "u"), om.node("Round", "u", "c")],
}


@pytest.mark.parametrize("name", LOOSE)
def test_an_ill_defined_element_excuses_no_other(name: str) -> None:
    constants = {"sp": np.array([12, 12]), "big": np.array(1e9, F32)}
    proto = network(halves(LOOSE[name]), 24, **constants)

    def exact(x: Arrays) -> np.ndarray:
        a, b = np.split(x["x"], 2, axis=1)
        big = constants["big"]
        made = (a + big) - big if name == "cancelled" else np.sin(a * big)
        return np.concatenate([np.round(made) if name == "rounded" else made, np.tanh(b)], axis=1)

    def wrong(x: Arrays) -> np.ndarray:
        return exact(x) * np.where(np.arange(24) == 23, F32(-1), F32(1))

    judged(proto, exact)
    with pytest.raises(CompileError, match=r"differs from the reference .*output 'y'"):
        judged(proto, wrong)


@pytest.mark.parametrize("share", [0.002, 0.03])
def test_few_numbers_may_lie_on_an_edge(share: float) -> None:
    nodes = [om.node("Mul", "x seven", "t"), om.node("Floor", "t", "y")]
    proto = network(nodes, 1000, seven=np.array(7.3, F32))
    moved = np.arange(1000) < share * 1000

    def run(x: Arrays) -> np.ndarray:
        return np.floor(x["x"] * F32(7.3)) + moved.astype(F32)

    if share < 0.01:
        judged(proto, run)
    else:
        with pytest.raises(CompileError, match=r"differs from the reference"):
            judged(proto, run)


def test_what_rounds_nothing_has_no_edges() -> None:
    proto = network([om.node("Tanh", "x", "y")], 1000)
    with pytest.raises(CompileError, match=r"differs from the reference"):
        judged(proto, lambda x: np.tanh(x["x"]) + (np.arange(1000) == 7).astype(F32))


@pytest.mark.parametrize("by", [1, 2, 3, 4, 8, 16, 32])
def test_an_engine_that_reads_other_samples_is_found(by: int) -> None:
    """As one does that takes every tile's first sample for the batch's, or skips some."""
    proto = network([om.node("Tanh", "x", "y")], 40)

    def shifted(x: Arrays) -> np.ndarray:
        """From the sample `by` on, each is the one that lies that far before it."""
        given = x["x"]
        return np.tanh(np.concatenate([given[:by], given[:-by]]) if len(given) > by else given)

    with pytest.raises(CompileError, match=r"differs from the reference"):
        judged(proto, shifted)
