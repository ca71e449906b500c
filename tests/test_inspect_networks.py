"""`secateur inspect` of files that hold networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_models as om
from secateur.compiler import artifact, pipeline, targets
from secateur.compiler.kernels import Machine
from secateur.compiler.network import prepare
from secateur.errors import FileError
from secateur.terminal.inspection import document
from test_cli import run

F32 = np.float32
W = np.where(np.arange(48).reshape(4, 12) % 4 == 0, 1, 0).astype(F32)


def net() -> onnx.ModelProto:
    nodes = [om.node("MatMul", "x w", "t"), om.node("Relu", "t", "y")]
    return om.model(nodes, {"x": ["N", "time", 4]}, constants={"w": W}, producer_name="mine")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model, an engine of it and its C; for other machines, so nothing is built."""
    onnx.save(net(), tmp_path / "net.onnx")
    target, shape = targets.find("x86_64-v3"), {"x": (-1, 5, 4)}
    machine = Machine(target.lanes, target.registers)
    network = prepare(tmp_path / "net.onnx", machine, input_shapes=shape)
    described = pipeline.source_of(network, "net").network
    (tmp_path / "net.so").write_bytes(artifact.pack(b"no library", target, described))
    pipeline.emit_c(
        tmp_path / "net.onnx", tmp_path / "c", target="aarch64-linux", input_shapes=shape
    )
    return tmp_path


def test_an_onnx_file(place: Path) -> None:
    found = document(place / "net.onnx")
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", "time", 4]}]
    assert found["outputs"] == [{"name": "y", "dtype": "undefined", "shape": None}]
    assert found["operators"] == {"MatMul": 1, "Relu": 1}
    assert (found["producer"], found["opset"]) == ("mine", 21)
    (weight,) = found["tensors"]
    assert (weight["shape"], weight["elements"], weight["nonzero"]) == ([4, 12], 48, 12)
    assert found["bytes"] == (place / "net.onnx").stat().st_size


def test_weights_beside_the_file_count(tmp_path: Path) -> None:
    onnx.save(
        net(), tmp_path / "net.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    found = document(tmp_path / "net.onnx")
    assert found["bytes"] == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found["tensors"][0]["nonzero"] == 12
    (tmp_path / "w").unlink()
    with pytest.raises(FileError, match=r"constant 'w'"):
        document(tmp_path / "net.onnx")


def test_an_engine_and_its_c(place: Path) -> None:
    engine, folder = document(place / "net.so"), document(place / "c")
    for found in (engine, folder):
        assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["batch", 5, 4]}]
        assert found["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["batch", 5, 12]}]
        (layer,) = found["layers"]
        assert (layer["name"], layer["macs"], layer["nonzero"]) == ("n_t", 240, 12)
        assert layer["sparsity"] == 0.75
        assert layer["kernel"] in ("dense", "sparse")
        assert found["precision"] == "f32"
    assert (engine["kind"], engine["target"]) == ("engine", "x86_64-v3")
    assert "avx2" in engine["features"]
    assert (folder["kind"], folder["target"], folder["prefix"]) == (
        "c",
        "aarch64-linux",
        "secateur",
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.onnx", ["input x: float32 [N, time, 4]", "1 MatMul, 1 Relu", "36 of them zero"]),
        ("net.so", ["input x: float32 [batch, 5, 4]", "n_t", "25.0 %", "75.0 % meet a zero"]),
        ("c", ["compiled by secateur", "aarch64-linux", "begin with secateur_"]),
    ],
)
def test_what_is_shown(
    name: str,
    said: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(["inspect", str(place / name)], monkeypatch, capsys)
    assert code == 0, err
    text = " ".join(out.split())
    assert not [part for part in said if part not in text], text


def damaged(path: Path, change: Any) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def test_what_is_damaged_or_something_else(place: Path) -> None:
    with pytest.raises(FileError, match=r"net\.so: its checksum is wrong; .*compile .* again"):
        document(damaged(place / "net.so", lambda data: b"x" + data[1:]))
    with pytest.raises(FileError, match=r"net\.onnx is not an ONNX file, or is truncated"):
        document(damaged(place / "net.onnx", lambda data: data[:40]))
    damaged(place / "c" / "bundle.json", lambda _: b'{"files": [], "target": "x"}')
    with pytest.raises(FileError, match=r"bundle\.json: .*write the folder again"):
        document(place / "c")
    for name in ("none.onnx", "none"):
        with pytest.raises(FileError, match=r"cannot inspect .*no such file.*an \.onnx file"):
            document(place / name)
