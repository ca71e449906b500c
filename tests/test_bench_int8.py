"""Int8 peers: quantised once by their own tools, named for what they are, asked for outputs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bench_cases import printed, saved
from secateur import bench, cli
from secateur.bench import environments
from secateur.bench.process import Process
from secateur.errors import CompileError, UsageError

pytestmark = [
    pytest.mark.usefixtures("as_shipped"),
    pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler"),
    pytest.mark.skipif(
        not importlib.util.find_spec("onnxruntime"), reason="ONNX Runtime is not installed"
    ),
]
needs_openvino = pytest.mark.skipif(
    not importlib.util.find_spec("openvino"), reason="OpenVINO is not installed"
)
needs_nncf = pytest.mark.skipif(
    not importlib.util.find_spec("nncf") or not importlib.util.find_spec("openvino"),
    reason="NNCF and OpenVINO are not installed",
)
QUICK: dict[str, Any] = {"threads": 1}
SHORT: dict[str, Any] = {"rounds": 2, "seconds": 0.001}


def convolutions(path: Path, *, batch: int | str = "batch", scale: float = 0.2) -> Path:
    """Two convolutions, the first with a batch norm, a global mean and a linear layer."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return (scale * generator.standard_normal(shape)).astype(np.float32)

    constants = {"w1": draw(16, 3, 3, 3), "w2": draw(16, 16, 3, 3), "w3": draw(16, 10)}
    constants |= {"mean": draw(16), "shift": draw(16)}
    constants |= dict.fromkeys(("gain", "var"), np.ones(16, np.float32))
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        make("BatchNormalization", ["a", "gain", "shift", "mean", "var"], ["b"], "norm"),
        make("Relu", ["b"], ["c"], "relu"),
        make("Conv", ["c", "w2"], ["d"], "second", pads=[1, 1, 1, 1]),
        make("GlobalAveragePool", ["d"], ["e"], "mean"),
        make("Flatten", ["e"], ["f"], "flat"),
        make("MatMul", ["f", "w3"], ["y"], "last"),
    ]
    return saved(path, nodes, {"x": ("FLOAT", [batch, 3, 8, 8])}, constants)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "net.onnx")


def images(count: int) -> Any:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def test_an_int8_peer_is_quantised_and_named_so(model: Path) -> None:
    found = bench.run(
        model, "onnxruntime,onnxruntime-int8", batches=(1, 3), price=1.0, **QUICK, **SHORT
    )
    assert [t.engine for t in found.at(3)] == ["secateur", "onnxruntime", "onnxruntime-int8"]
    assert [t.precision for t in found.at(3)] == ["f32", "f32", "int8 (QDQ)"]
    ours, plain, int8 = found.at(3)
    assert ours.difference == 0
    assert plain.difference is not None
    assert int8.difference is not None
    assert plain.difference < 1e-5 < int8.difference < 0.2
    assert int8.file != plain.file  # of what it loads
    assert int8.cost is not None
    assert len(int8.rounds) == 2
    (note,) = found.notes
    assert note.startswith("onnxruntime-int8 (onnxruntime ")
    assert "random samples, so speed is meaningful and outputs are not" in note
    assert "--calibration" in printed(found)
    assert "int8 (QDQ)" in printed(found)
    content = json.loads(found.json())
    assert content["timings"][2]["precision"] == "int8 (QDQ)"
    assert content["notes"] == [note]


def test_one_preparation_serves_races_and_outputs(model: Path) -> None:
    given = images(40)
    with bench.prepared(model, "onnxruntime,onnxruntime-int8", calibrate=given, **QUICK) as them:
        first, second = (them.race((2,), **SHORT) for _ in range(2))
        assert [t.engine for t in first.timings] == [t.engine for t in second.timings]
        assert first.notes[0].endswith("calibrated on 40 given samples.")
        outputs = {
            name: them.outputs(name, given, batch=16)[0]
            for name in ("secateur", "onnxruntime", "onnxruntime-int8")
        }
        (alone,) = them.outputs("onnxruntime", {"x": given[33:34]}, batch=1)
    assert all(array.shape == (40, 10) for array in outputs.values())
    np.testing.assert_allclose(outputs["secateur"], outputs["onnxruntime"], atol=1e-4)
    np.testing.assert_allclose(alone, outputs["onnxruntime"][33:34], atol=1e-4)
    gap = np.abs(outputs["onnxruntime-int8"] - outputs["onnxruntime"]).max()
    assert 0 < gap < 0.1 * np.abs(outputs["onnxruntime"]).max()


def test_several_models_race_in_one_call(model: Path, tmp_path: Path) -> None:
    other = convolutions(tmp_path / "other.onnx", scale=0.3)
    both = {"thin": model, "wide": other}
    found = bench.run(both, "onnxruntime", batches=(1,), agree=False, **QUICK, **SHORT)
    assert [t.engine for t in found.timings] == ["thin", "wide", "onnxruntime"]
    assert found.timings[1].difference
    assert found.model == "net.onnx, other.onnx"
    with pytest.raises(CompileError, match="wide differ from those of thin"):
        bench.run(both, "", batches=(1,), **QUICK, **SHORT)
    with pytest.raises(UsageError, match="'onnxruntime' is the name of a peer"):
        bench.run({"onnxruntime": model}, **QUICK, **SHORT)
    with pytest.raises(UsageError, match="at least one model"):
        bench.run({}, **QUICK, **SHORT)


def test_a_network_with_a_fixed_batch_is_calibrated_with_it(tmp_path: Path) -> None:
    model = convolutions(tmp_path / "net.onnx", batch=4)
    with bench.prepared(model, "onnxruntime-int8", calibrate=images(6), **QUICK) as them:
        (int8,) = them.outputs("onnxruntime-int8", images(6), batch=4)
        assert int8.shape == (6, 10)
        with pytest.raises(UsageError, match="batch fixed at 4"):
            them.outputs("onnxruntime-int8", images(6))


def test_what_cannot_be_quantised_is_not_measured(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Erf", ["x"], ["y"], "erf")
    model = saved(tmp_path / "m.onnx", [node], {"x": ("FLOAT", ["batch", 4])}, {})
    with bench.prepared(model, "onnxruntime,onnxruntime-int8", **QUICK) as them:
        found = them.race((2,), **SHORT)
        with pytest.raises(CompileError, match="no operator that ONNX Runtime quantises"):
            them.outputs("onnxruntime-int8", np.zeros((1, 4), np.float32))
        with pytest.raises(UsageError, match="'openvino' does not take part; choose of secateur"):
            them.outputs("openvino", np.zeros((1, 4), np.float32))
    assert [t.engine for t in found.timings] == ["secateur", "onnxruntime"]
    assert not found.notes
    assert "not measured at batch 2: onnxruntime-int8 cannot quantise the network" in printed(found)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ({"z": np.zeros((2, 3, 8, 8))}, r"calibration has the names z, but .* inputs are x"),
        ({}, r"the names of nothing"),
        (np.zeros((2, 3, 9, 9)), r"shape \(2, 3, 9, 9\), but \(N, 3, 8, 8\) is needed"),
        (np.zeros((0, 3, 8, 8)), r"at least one"),
        (np.zeros((2, 3, 8, 8), np.complex64), r"dtype complex64, but float32"),
        (np.full((2, 3, 8, 8), np.nan), r"NaN or infinity"),
        (np.array("images"), r"has shape \(\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused(model: Path, samples: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        bench.run(model, "onnxruntime-int8", calibrate=samples, **QUICK, **SHORT)


# The command line.


def test_calibration_is_read_from_a_file(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(path: Path) -> Any:
        arguments = ["bench", str(model), "--against", "onnxruntime-int8", "--batch", "1"]
        arguments += ["--rounds", "2", "--threads", "1", "--json", "--calibration", str(path)]
        monkeypatch.setattr(sys, "argv", ["secateur", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return (end.value.code, said.err) if end.value.code else json.loads(said.out)["notes"]

    np.save(tmp_path / "a.npy", images(5))
    np.savez(tmp_path / "b.npz", x=images(7))
    assert "5 given samples" in measured(tmp_path / "a.npy")[0]
    assert "7 given samples" in measured(tmp_path / "b.npz")[0]
    (tmp_path / "c.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:-50])
    np.save(tmp_path / "d.npy", np.array([{}]))  # a pickle
    for name in ("c.npz", "d.npy"):
        code, said = measured(tmp_path / name)
        assert code == 1
        assert f"cannot read {tmp_path / name}" in said.replace("\n", "")
    assert "there is no file" in measured(tmp_path / "gone.npy")[1]


# Missing packages, OpenVINO.


@pytest.mark.skipif(os.name == "nt", reason="the environment is a shell script")
def test_an_environment_without_the_package_says_what_to_install(
    model: Path, tmp_path: Path
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # no packages at all
    python.chmod(0o755)
    found = bench.run(
        model, "openvino-int8", batches=(1,), env=(f"openvino={tmp_path}",), **QUICK, **SHORT
    )
    (refusal,) = found.refusals
    assert refusal.engine == "openvino-int8"
    assert "No module named" in refusal.why
    assert "-m pip install" in refusal.why


def test_an_engine_without_a_file_is_told() -> None:
    with (
        Process("x", Path(sys.executable), 1) as process,
        pytest.raises(CompileError, match=r"x cannot quantise the network: FileNotFoundError"),
    ):
        process.ask(
            "quantise", engine="x", model="", inputs="", names=[], batch=1, folder="", cpus=[],
            settings={},
        )  # fmt: skip


@needs_openvino
def test_openvino_says_its_precision(model: Path) -> None:
    found = bench.run(model, "openvino,openvino-f32", batches=(2,), **QUICK, **SHORT)
    _, default, held = found.timings
    assert default.precision in ("f32", "bf16", "f16")
    assert held.precision == "f32"
    assert held.difference is not None
    assert held.difference < 1e-5


@needs_nncf
def test_openvino_runs_what_nncf_quantised(model: Path) -> None:
    given = images(40)
    with bench.prepared(model, "openvino-f32,openvino-int8", calibrate=given, **QUICK) as them:
        found = them.race((3,), **SHORT)
        plain, int8 = (
            them.outputs(name, given, batch=16)[0] for name in ("openvino-f32", "openvino-int8")
        )
    assert found.timings[2].precision.startswith("int8, rest ")
    assert found.notes[0].startswith("openvino-int8 (nncf ")
    assert 0 < np.abs(int8 - plain).max() < 0.1 * np.abs(plain).max()


def test_peers_of_one_engine_share_its_code_and_its_environment(tmp_path: Path) -> None:
    found = environments.PEERS
    assert {"onnxruntime", "onnxruntime-int8"} <= set(found)
    assert found["openvino"].engine == found["openvino-f32"].engine == "openvino"
    assert found["openvino"].packages == found["openvino-f32"].packages
    assert found["openvino"].settings != found["openvino-f32"].settings
    assert [name for name, peer in found.items() if peer.quantised] == [
        "onnxruntime-int8",
        "openvino-int8",
    ]
    one, other = tmp_path / "one", tmp_path / "other"
    places = {"openvino": one, "openvino-int8": other}
    assert environments.python(found["openvino-f32"], places) == one
    assert environments.python(found["openvino-int8"], places) == other
