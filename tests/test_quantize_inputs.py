"""Calibration data and requests that are of no use are refused, each with one clear error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import onnx_models as om
import secateur
from secateur.cli import main
from secateur.errors import CompileError, FileError, SecateurError, UsageError
from secateur.quantization.inputs import read_data


def data(count: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3)).astype(np.float32)


def two_inputs() -> onnx.ModelProto:
    nodes = [om.node("MatMul", "a w", "t"), om.node("Add", "t b", "y")]
    return om.model(nodes, {"a": ["N", 3], "b": ["N", 4]}, constants={"w": om.WEIGHTS})


def spoiled(value: float) -> np.ndarray:
    x = data()
    x[3, 1] = value
    return x


REFUSED: dict[str, tuple[Any, str]] = {
    "another shape": (data()[:, :2], r"'x' have shape \(16, 2\), but \(n, 3\) is needed"),
    "no batch": (data()[0], r"have shape \(3,\), but \(n, 3\) is needed"),
    "integers": (data().astype(np.int64), "dtype int64, but float32 is needed"),
    "texts": (np.full((4, 3), "x"), "dtype <U1, but float32 is needed"),
    "objects": (np.full((4, 3), None), "dtype object, but float32 is needed"),
    "nan": (spoiled(np.nan), "'x' hold NaN or infinity; take these samples out"),
    "infinity": (spoiled(-np.inf), "hold NaN or infinity"),
    "too large": (np.full((4, 3), 1e300), "hold NaN or infinity"),
    "empty": (data(0), "calibration data are empty; give a few hundred samples"),
    "another name": ({"z": data()}, "have the names 'z', but the network's inputs are 'x'"),
    "no name": ({}, "have the names of nothing"),
    "two arrays": ([data(), data()], "inputs 'x', but the calibration data are arrays for 2"),
    "lists of different lengths": ([[1.0, 2.0], [3.0]], "give an array or a tensor"),
    "nothing": (None, r"input 'x' are None; give an array or a tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_do_not_fit_are_refused(name: str) -> None:
    given, match = REFUSED[name]
    with pytest.raises(UsageError, match=match):
        secateur.quantize(om.linear(), given)


def test_data_of_several_inputs_go_by_name_or_in_order() -> None:
    more = np.random.default_rng(1).standard_normal((16, 4)).astype(np.float32)
    one = secateur.quantize(two_inputs(), {"b": more, "a": data()})
    other = secateur.quantize(two_inputs(), (data(), more))
    assert one.content == other.content
    with pytest.raises(UsageError, match="'a', 'b', but the calibration data are arrays for 1"):
        secateur.quantize(two_inputs(), data())
    with pytest.raises(UsageError, match="hold 16 of 'a', 8 of 'b'; give as many samples"):
        secateur.quantize(two_inputs(), {"a": data(), "b": more[:8]})


@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-20, 1e18])
def test_constant_tiny_and_huge_values_give_a_network_that_runs(scale: float) -> None:
    x = np.full((16, 3), scale, np.float32)
    made = secateur.quantize(om.linear(), x)
    onnx.checker.check_model(onnx.load_from_string(made.content), full_check=True)
    wanted = om.onnxruntime_gives(om.linear(), {"x": x})["y"]
    found = om.onnxruntime_gives(onnx.load_from_string(made.content), {"x": x})["y"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted, rtol=0.02, atol=1e-15)


def test_values_that_overflow_inside_the_network_are_refused_by_name() -> None:
    nodes = [om.node("Exp", "x", "e"), om.node("MatMul", "e w", "y")]
    proto = om.model(nodes, {"x": ["N", 3]}, constants={"w": om.WEIGHTS})
    with pytest.raises(UsageError, match="value 'e' of the network is NaN or infinite"):
        secateur.quantize(proto, 1000 * np.abs(data()) + 100)


def test_values_that_weights_spoil_are_laid_to_their_layer() -> None:
    bad = np.eye(3, dtype=np.float32)
    bad[0, 0] = np.nan
    nodes = [om.node("MatMul", "x v", "t"), om.node("MatMul", "t w", "y")]
    proto = om.model(nodes, {"x": ["N", 3]}, constants={"w": om.WEIGHTS, "v": bad})
    with pytest.raises(UsageError, match="layer 'n_t': its weights are not finite, and so are"):
        secateur.quantize(proto, data())


def test_arrays_for_a_torch_module_need_not_be_as_torch_has_them() -> None:
    module = torch.nn.Linear(3, 2)
    found = [secateur.quantize(module, x).content for x in (data(), data().astype(">f4"))]
    assert found[0] == found[1]
    with pytest.raises(UsageError, match="data have dtype object, which torch has not; convert"):
        secateur.quantize(module, data().astype(object))
    with pytest.raises(UsageError, match="give an array or a tensor"):
        secateur.quantize(module, np.float32(1).reshape(()))


def test_accumulators_that_may_not_fit_leave_their_layer_in_float() -> None:
    """100,000 of the largest products are more than 31 bits; 4,608 are exact."""
    for terms, precision in ((4608, "int8"), (100_000, "fp32")):
        weights = {"w": np.ones((terms, 1), np.float32), "v": om.WEIGHTS[:1]}
        nodes = [om.node("MatMul", "x w", "t"), om.node("MatMul", "t v", "y")]
        proto = om.model(nodes, {"x": ["N", terms]}, constants=weights)
        made = secateur.quantize(proto, np.ones((4, terms), np.float32))
        assert [row.precision for row in made.rows] == [precision, "int8"]
        if precision == "fp32":
            assert made.rows[0].why == "its sums or its bias may not fit 32 bits"


def test_weights_that_are_not_finite_leave_their_layer_in_float() -> None:
    bad = om.WEIGHTS.copy()
    bad[0, 0] = np.inf
    nodes = [
        om.node("MatMul", "x v", "t"),
        om.node("MatMul", "t w", "u"),
        om.node("Clip", "u low high", "y"),
    ]
    ends = {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}
    constants = {"w": bad, "v": np.eye(3, dtype=np.float32), **ends}
    proto = om.model(nodes, {"x": ["N", 3]}, constants=constants)
    made = secateur.quantize(proto, data())
    assert [row.why for row in made.rows] == ["", "its weights are not finite"]


def test_a_quantised_model_is_refused() -> None:
    made = secateur.quantize(om.linear(), data())
    with pytest.raises(UsageError, match=r"quantised already .* compile it as it is"):
        secateur.quantize(made.content, data())


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.INT4, "int4"), (TensorProto.FLOAT8E4M3FN, "float8e4m3fn")]
)
def test_other_quantised_types_are_refused_by_name(kind: int, name: str) -> None:
    weights = helper.make_tensor(
        "q", kind, (2,), np.zeros(2 if kind != 22 else 1, np.uint8).tobytes(), raw=True
    )
    proto = om.model([om.node("Cast", "q", "f", to=1), om.node("Add", "x f", "y")], {"x": ["N", 2]})
    proto.graph.initializer.append(weights)
    with pytest.raises(CompileError, match=f"element type {name}"):
        secateur.quantize(proto, data()[:, :2])


def test_a_network_without_layers_is_refused() -> None:
    proto = om.model([om.node("Relu", "x", "y")], {"x": ["N", 3]})
    with pytest.raises(CompileError, match="no layer that can be quantised"):
        secateur.quantize(proto, data())


def test_names_of_layers_to_keep_must_be_layers() -> None:
    with pytest.raises(UsageError, match="keep_float names 'conv9', but the layers are 'n_t'"):
        secateur.quantize(om.linear(), data(), keep_float=["conv9"])
    with pytest.raises(CompileError, match="no layer is left to quantise: 'n_t': asked for"):
        secateur.quantize(om.linear(), data(), keep_float=["n_t"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_drop": -1}, "max_drop is -1, but must be a number, 0 or more"),
        ({"max_drop": "much"}, "max_drop is 'much'"),
        ({"score": len}, "give max_drop= as well"),
        ({"score": 3, "max_drop": 0.1}, "score is 3, but must be a function"),
        ({"score": lambda y: "good", "max_drop": 0.1}, "score gave 'good', but must give a number"),
        ({"score": lambda y: np.nan, "max_drop": 0.1}, "score gave nan"),
        ({"bits": 4}, "has no argument 'bits'"),
    ],
)
def test_options_of_no_use_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        secateur.quantize(om.linear(), data(), **options)


@pytest.mark.parametrize("model", [3, None, torch.nn.Linear, object()])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="give an ONNX file, its content, or a torch module"):
        secateur.quantize(model, data())


def test_files_of_data_are_read_and_damaged_ones_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", data())
    np.savez(tmp_path / "unnamed.npz", data())
    np.savez(tmp_path / "named.npz", x=data())
    np.testing.assert_array_equal(read_data(tmp_path / "x.npy"), data())
    np.testing.assert_array_equal(read_data(tmp_path / "unnamed.npz"), data())
    np.testing.assert_array_equal(read_data(tmp_path / "named.npz")["x"], data())
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "named.npz").read_bytes()[:-30])
    (tmp_path / "text.npy").write_text("1 2 3")
    for name in ("objects.npy", "cut.npz", "text.npy"):
        with pytest.raises(FileError, match=f"cannot read .*{name}"):
            read_data(tmp_path / name)
    with pytest.raises(FileError, match="there is no file"):
        read_data(tmp_path / "missing.npz")
    with pytest.raises(FileError, match="cannot read"):
        read_data(tmp_path)


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["secateur", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    return int(end.value.code or 0), captured.out, captured.err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(om.linear().SerializeToString())
    np.savez(tmp_path / "data.npz", x=data())
    return tmp_path


def test_the_command_quantises_and_says_what_it_did(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "net.onnx", "--calibrate", "data.npz"]
    code, out, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert re.match(r"net-int8.onnx: [\d,]+ bytes; 1 of 1 layers in int8, from 16 samples", out)
    assert (folder / "net-int8.onnx").is_file()
    code, _, err = run([*command, "--out", "net.onnx"], monkeypatch, capsys)
    assert code == 2
    assert "is no quantised ONNX model" in err
    code, out, err = run([*command, "-o", "net.onnx", "--force"], monkeypatch, capsys)
    assert code == 0, err
    code, _, err = run(command, monkeypatch, capsys)
    assert code == 2
    assert "quantised already" in err


def test_the_command_holds_a_drop_and_names_what_stays_in_float(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "net.onnx", "--calibrate", "data.npz", "--max-drop", "0"]
    code, out, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert "fp32: n_t (sensitive: with it the drop is above 0)" in out
    code, _, err = run([*command, "-o", "x.onnx", "--keep-float", "other"], monkeypatch, capsys)
    assert code == 2
    assert "the layers are 'n_t'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["quantize", "net.onnx"], 2, "--calibrate"),
        (["quantize", "net.onnx", "--calibrate", "none.npz"], 1, "there is no file none.npz"),
        (["quantize", "none.onnx", "--calibrate", "data.npz"], 1, "cannot read none.onnx"),
        (["quantize", "data.npz", "--calibrate", "data.npz"], 2, "an archive or a pickle"),
        (["compile", "net.onnx", "--int8"], 2, "give --calibrate FILE.npz"),
        (["compile", "net.onnx", "--calibrate", "data.npz"], 2, "are for --int8"),
        (["compile", "net.onnx", "--max-drop", "0.1"], 2, "are for --int8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands_of_no_use_say_what_to_do(
    arguments: list[str],
    code: int,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, _, err = run(arguments, monkeypatch, capsys)
    assert found == code, err
    assert said in err


def test_compile_quantises_first_or_takes_what_is_quantised(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", "net.onnx", "--int8", "--calibrate", "data.npz", "-o", "one.so"]
    code, out, err = run(command, monkeypatch, capsys)
    assert code == 0, err
    assert "1 of 1 layers in int8" in out
    made = secateur.quantize(folder / "net.onnx", data())
    made.save(folder / "q.onnx")
    code, _, err = run(["compile", "q.onnx", "--int8", "-o", "two.so"], monkeypatch, capsys)
    assert code == 0, err
    with secateur.Engine.load(folder / "one.so") as one, secateur.Engine.load("two.so") as two:
        np.testing.assert_array_equal(one(data()), two(data()))


def test_every_error_is_one_of_ours() -> None:
    for given, _ in REFUSED.values():
        with pytest.raises(SecateurError):
            secateur.quantize(om.linear(), given)
