"""Inputs that pick from an axis: an index outside of it is refused, as ONNX says."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from secateur.compiler.pipeline import compile_network, emit_c
from secateur.compiler.runtime import Engine
from secateur.errors import UsageError

TABLE = np.arange(12, dtype=np.float32).reshape(6, 2)
INDEX = st.one_of(st.integers(-8, 7), st.integers(-(2**31), 2**31 - 1))
TYPES = {"int64": TensorProto.INT64, "int32": TensorProto.INT32}
Node = Any


def model(
    nodes: list[Node],
    *inputs: str,
    dtype: str = "int64",
    batch: int | str = "n",
    outputs: tuple[str, ...] = ("y",),
) -> bytes:
    """Return a network of inputs [batch, 3], whose nodes have a table [6, 2] and some constants."""
    constants = {
        "table": TABLE, "small": TABLE[:2], "six": np.array(6), "zero": np.array(0),
        "flat": np.array([-1]), "ends": np.array([2]), "first": np.array([0]),
        "second": np.array([1]),
    }  # fmt: skip
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "picks",
        [helper.make_tensor_value_info(name, TYPES[dtype], [batch, 3]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(c, n) for n, c in constants.items() if n in used],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> Node:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def engine(content: bytes) -> Engine:
    return Engine(compile_network(content).content, threads=1)


PICK = model([node("Gather", "table ids")], "ids")


@pytest.fixture(scope="module")
def picking() -> dict[str, tuple[Engine, onnxruntime.InferenceSession]]:
    """Engines of indices of two widths, and the reference."""
    found = {}
    for dtype in TYPES:
        content = model([node("Gather", "table ids")], "ids", dtype=dtype)
        found[dtype] = engine(content), onnxruntime.InferenceSession(content)
    return found


@given(
    st.sampled_from(sorted(TYPES)),
    st.lists(st.tuples(INDEX, INDEX, INDEX), min_size=1, max_size=20),
)
def test_an_engine_refuses_what_the_reference_refuses(
    picking: dict[str, tuple[Engine, onnxruntime.InferenceSession]],
    dtype: str,
    ids: list[list[int]],
) -> None:
    mine, reference = picking[dtype]
    array = np.array(ids, dtype)
    bad = np.argwhere((array < -6) | (array > 5))
    if len(bad):
        with pytest.raises(Exception, match="out of data bounds"):
            reference.run(None, {"ids": array})
        at = list(map(int, bad[0]))
        more = f" and {len(bad) - 1} more like it" if len(bad) > 1 else ""
        with pytest.raises(UsageError) as caught:
            mine(array)
        assert str(caught.value) == (
            f"input 'ids' has {array[tuple(at)]} at {at}{more}, but picks one of 6: give 0 to 5, "
            "or -6 to -1, which count from the end"
        )
        with pytest.raises(UsageError, match="but picks one of 6"):
            mine.profile(array)
    else:
        np.testing.assert_array_equal(mine(array), reference.run(None, {"ids": array})[0])


@pytest.mark.parametrize(
    ("nodes", "refused"),
    [
        ([node("Cast", "ids", "a", to=TensorProto.INT32), node("Gather", "table a")], True),
        ([node("Reshape", "ids flat", "a"), node("Gather", "table a")], True),
        ([node("Concat", "ids ids", "a", axis=1), node("Gather", "table a")], True),
        # the lesser of two axes
        (
            [node("Gather", "table ids", "a"), node("Gather", "small ids", "b"),
             node("Add", "a b")],
            True,
        ),
        # what is read of them, or what they are, depends on other things
        (
            [node("Slice", "ids first ends second", "a"), node("Gather", "table a")],
            False,
        ),
        (
            [node("Less", "ids six", "a"), node("Where", "a ids zero", "b"),
             node("Gather", "table b")],
            False,
        ),
        ([node("Mod", "ids six", "a"), node("Gather", "table a")], False),
    ],
    ids=["cast", "reshaped", "joined", "two axes", "cut", "chosen", "wrapped"],
)  # fmt: skip
def test_only_indices_that_are_given_are_looked_at(nodes: list[Node], refused: bool) -> None:
    whole = nodes[0].input[0] == "ids" and nodes[0].op_type in {"Reshape"}
    content = model(nodes, "ids", batch=1 if whole else "n")
    ids = np.array([[0, 1, 9]])
    with engine(content) as mine:
        assert ("indices" in mine.info["inputs"][0]) == refused
        if refused:
            with pytest.raises(UsageError, match=r"input 'ids' has 9 at \[0, 2\], but picks"):
                mine(ids)
        else:
            wanted = onnxruntime.InferenceSession(content).run(None, {"ids": ids})[0]
            np.testing.assert_array_equal(mine(ids), wanted)
        mine(np.array([[0, 1, 1]]))


def test_an_index_that_is_computed_counts_as_the_nearest_one_inside() -> None:
    """What it reads is then wrong, but the network's own."""
    with engine(model([node("Mul", "ids six", "a"), node("Gather", "table a")], "ids")) as mine:
        picked = np.array([[1, 0, -2], [2**60, -(2**60), -1]])
        np.testing.assert_array_equal(mine(picked), TABLE[[[5, 0, 0], [5, 0, 0]]])


def test_what_nobody_asked_for_is_not_picked() -> None:
    content = model(
        [node("Gather", "table ids", "a"), node("Cast", "ids", to=TensorProto.FLOAT)], "ids"
    )
    with engine(content) as mine:
        np.testing.assert_array_equal(mine(np.array([[0, 1, 9]])), [[0, 1, 9]])


def test_the_input_that_is_wrong_is_named_and_other_calls_go_on() -> None:
    nodes = [node("Gather", "table a", "c"), node("Gather", "table b", "d"), node("Add", "c d")]
    with engine(model(nodes, "a", "b", batch=4)) as mine:
        good, bad = np.full((4, 3), 5), np.full((4, 3), 5)
        bad[3, 2] = 6
        with pytest.raises(UsageError, match=r"input 'b' has 6 at \[3, 2\], but picks one of 6"):
            mine(good, bad)
        with pytest.raises(UsageError, match=r"input 'a' has 6 at \[3, 2\]"):
            mine(bad, bad)
        np.testing.assert_array_equal(mine(good, good), 2 * TABLE[good])


def test_inputs_to_compare_on_are_refused_alike() -> None:
    with pytest.raises(UsageError, match="an index lies outside the 6 entries to pick from"):
        compile_network(PICK, verify_with={"ids": np.array([[0, 1, 6]])})


def test_a_program_in_c_refuses_them_too(tmp_path: Path) -> None:
    path = tmp_path / "picks.onnx"
    path.write_bytes(PICK)
    emit_c(path, tmp_path / "c")
    subprocess.run(["make", "-s", "-C", tmp_path / "c"], check=True, capture_output=True)
    for last, code in ((5, 0), (6, 1)):
        ids = np.array([[0, 1, last]])
        done = subprocess.run(
            [tmp_path / "c" / "main"], input=ids.tobytes(), capture_output=True, check=False
        )
        assert done.returncode == code
        if code:
            assert done.stdout == b""
            assert b"by an index outside of it" in done.stderr
        else:
            assert done.stdout == TABLE[ids].tobytes()
