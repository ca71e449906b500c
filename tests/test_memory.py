"""Files that ask for much memory get one error, or a network, and do not take it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_models as om
import secateur
from peak_memory import PEAK, needs_peak
from secateur.compiler.passes import fold

pytest.importorskip("resource")
pytestmark = needs_peak

CODE = f"""{PEAK}
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
import secateur
try:
    secateur.compile(sys.argv[1])
    print("compiled")
except secateur.SecateurError as error:
    print("refused", error)
print(peak() >> 10)
"""


def outcome(path: Path) -> tuple[str, int]:
    """Compile a file in a process of its own with 3 GiB; return what it said, and its MiB."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path)], capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, megabytes = done.stdout.strip().rsplit("\n", 1)
    return said, int(megabytes)


def saved(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "bomb.onnx"
    onnx.save(proto, str(path))
    return path


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


A = integers(2**15)
ONE = np.ones(1, np.float32)
SUMMED = [om.node("ReduceSum", "big", "s", keepdims=0), om.node("Add", "x s", "y")]
HUGE = om.node("Cast", "whole", "big", to=1)
BOMBS: Mapping[str, tuple[Sequence[onnx.NodeProto], Mapping[str, np.ndarray], str]] = {
    "filled": ([om.node("ConstantOfShape", "n", "big")], {"n": integers(2**30)}, "Expand"),
    "expanded": (
        [om.node("Expand", "one n", "big")], {"n": integers(2**15, 2**15), "one": ONE}, "Expand",
    ),
    "tiled": ([om.node("Tile", "one n", "big")], {"n": integers(2**30), "one": ONE}, "Tile"),
    "counted": (
        [om.node("Range", "zero n d", "whole"), HUGE],
        {"zero": np.array(0), "n": np.array(10**9), "d": np.array(1)}, "Range",
    ),
    "counted far": (
        [om.node("Range", "zero n d", "whole"), HUGE],
        {"zero": np.array(0), "n": np.array(10**12), "d": np.array(1)}, "Range",
    ),
    "of an input": ([om.node("Tile", "x n", "big")], {"n": integers(2**29)}, "Tile"),
    "resized": (
        [om.node("Reshape", "x four", "p"), om.node("Resize", "p - f", "big")],
        {"four": integers(1, 1, 1, 4), "f": np.array([1, 1, 1, 5e8], np.float32)}, "Resize",
    ),
    "padded": (
        [
            om.node("Reshape", "x four", "p"),
            om.node("MaxPool", "p", "q", kernel_shape=[1, 1], strides=[40000, 40000],
                    pads=[0, 0, 0, 0]),
            om.node("Conv", "q w", "big", pads=[20000] * 4, strides=[40000, 40000]),
        ],
        {"four": integers(1, 1, 2, 2), "w": np.ones((1, 1, 1, 1), np.float32)}, "Conv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_node_that_asks_for_gigabytes_is_named(name: str, tmp_path: Path) -> None:
    nodes, constants, op = BOMBS[name]
    proto = om.model([*nodes, *SUMMED], {"x": [4]}, constants=constants, opset=18)
    said, megabytes = outcome(saved(tmp_path, proto))
    assert said.startswith(f"refused node {op} ")
    assert megabytes < 600


def test_many_constants_share_one_budget(tmp_path: Path) -> None:
    """Thirty of 128 MiB: those that do not fit are computed when the network runs."""
    nodes, last = [], "x"
    for k in range(30):
        nodes += [
            om.node("ConstantOfShape", "n", f"c{k}", value=helper.make_tensor("v", 1, [1], [k])),
            om.node("ReduceMax", f"c{k}", f"m{k}", keepdims=0),
            om.node("Add", f"{last} m{k}", f"s{k}"),
        ]
        last = f"s{k}"
    proto = om.model(nodes, {"x": [4]}, last, {"n": integers(2**25)}, opset=18)
    said, megabytes = outcome(saved(tmp_path, proto))
    assert said == "compiled"
    assert megabytes < 2500


def test_what_is_left_to_run_time_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_BYTES", 64)
    nodes = [om.node("ConstantOfShape", "n", "c"), om.node("Add", "x c", "y")]
    proto = om.model(nodes, {"x": ["N", 50]}, constants={"n": integers(50)}, opset=18)
    x = np.ones((3, 50), np.float32)
    with secateur.compile(proto) as engine:
        np.testing.assert_array_equal(engine(x), x)


@pytest.mark.parametrize("data", ["none", "raw", "outside", "sparse"])
def test_a_constant_that_says_it_is_large(data: str, tmp_path: Path) -> None:
    proto = om.model([om.node("Add", "x w", "y")], {"x": [1]}, constants={"w": ONE})
    (tensor,) = proto.graph.initializer
    tensor.dims[:] = [2**40] if data == "raw" else [2**31 - 1]
    if data == "none":
        tensor.ClearField("raw_data")
    if data == "outside":
        (tmp_path / "data").write_bytes(bytes(4))
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "data"
    if data == "sparse":
        del proto.graph.initializer[:]
        values, places = numpy_helper.from_array(ONE, "w"), numpy_helper.from_array(integers(7))
        proto.graph.sparse_initializer.append(
            helper.make_sparse_tensor(values, places, [2**31 - 1])
        )
    said, megabytes = outcome(saved(tmp_path, proto))
    assert said.startswith("refused constant 'w'")
    assert megabytes < 600
