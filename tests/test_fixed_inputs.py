"""Inputs that become constants, and errors that say which to fix."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnx_models as om
import secateur
from secateur import bench
from secateur.bench import fixing, inputs
from secateur.compiler import onnx_reader, passes
from secateur.errors import CompileError, FileError, UsageError
from test_cli import run

F32 = np.float32


def rates() -> onnx.ModelProto:
    """y = x or 2 x, by the rate `sr`; both with `gain` [2, 1] on top."""
    yes = om.branch([om.node("Identity", "x", "t")], "t")
    no = om.branch([om.node("Mul", "x two", "u")], "u", two=np.array(2, F32))
    nodes = [
        om.node("Equal", "sr rate", "c"),
        om.node("If", "c", "z", then_branch=yes, else_branch=no),
        om.node("MatMul", "z gain", "y"),
    ]
    inputs = [om.value("x", ["N", 2]), om.value("sr", [], np.int64), om.value("gain", [2, 1])]
    return om.model(nodes, inputs, constants={"rate": np.array(16000)})


def read(**fixed: Any) -> Any:
    return om.read(rates(), fixed=fixed)


@pytest.mark.parametrize("sr", [16000, np.int64(16000), np.array(16000)])
@pytest.mark.parametrize("gain", [1, 0.5, [[1], [2]], ((0.5,), (0.25,)), np.ones((2, 1), F32)])
def test_numbers_lists_and_arrays(sr: Any, gain: Any) -> None:
    """One number fills the whole input; the batch is free where it was tied to a fixed input."""
    graph = passes.apply(read(sr=sr, gain=gain), passes.PASSES[:2])
    (name,) = set(om.ops(graph))
    assert name == "MatMul"
    weight = graph.constants[graph.nodes[0].inputs[1]]
    assert weight.dtype == F32
    np.testing.assert_array_equal(weight, np.broadcast_to(np.asarray(gain, F32), (2, 1)))
    content = rates().SerializeToString()
    assert onnx_reader.read(content, fixed={"sr": sr, "gain": gain}).batched


@pytest.mark.parametrize(
    ("fixed", "match"),
    [
        ({"rate": 1}, r"no input 'rate'; its inputs are 'x', 'sr', 'gain'"),
        ({"sr": 16e3}, r"'sr' takes int64, and cannot be fixed to 16000.0"),
        ({"sr": True}, r"'sr' takes int64, and cannot be fixed to True"),
        ({"sr": 2**70}, r"'sr' takes int64, and cannot be fixed to \d+"),
        ({"sr": [16000]}, r"'sr' has shape \[\] in the model, which \[1\] does not fit"),
        ({"sr": np.int32([16000])}, r"'sr' takes int64, and was fixed to an array of int32"),
        ({"gain": [1, 2]}, r"'gain' has shape \[2, 1\] in the model, which \[2\] does not fit"),
        ({"gain": [[1], [2, 3]]}, r"'gain' was fixed to lists of several lengths"),
        ({"gain": 1e60}, r"'gain' takes float32, and cannot be fixed to 1e\+60"),
        ({"gain": 2**24 + 1}, r"'gain' takes float32, and cannot be fixed to 16777217"),
        ({"x": 1}, r"'x' cannot be fixed to 1: the model leaves an extent of it open"),
    ],
)
def test_what_does_not_fit(fixed: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        read(**fixed)


@pytest.mark.parametrize("given", [True, 1, [True], np.array([True])])
def test_truths(given: Any) -> None:
    proto = om.model([om.node("Not", "b", "y")], [om.value("b", [1], np.bool_)])
    graph = passes.apply(om.read(proto, fixed={"b": given}), passes.PASSES[:1])
    np.testing.assert_array_equal(graph.constants["y"], [False])
    om.refused(proto, UsageError, r"'b' takes bool, and cannot be fixed to 2", fixed={"b": 2})


def test_the_refusal_names_what_decides() -> None:
    with pytest.raises(CompileError, match=r"condition depends on input 'sr'; .*-value sr=VALUE"):
        passes.apply(om.read(rates(), input_shapes={"x": (1, 2)}))
    with pytest.raises(UsageError, match=r"axis 0 of input 'x' is dynamic; .* or leave the batch"):
        read()
    # through other nodes, and only inputs that matter
    nodes = [
        om.node("Add", "sr n", "s"),
        om.node("Unsqueeze", "s zero", "shape"),
        om.node("Expand", "x shape", "y"),
    ]
    inputs = [om.value("x", [1]), *(om.value(n, [], np.int64) for n in ("sr", "other", "n"))]
    proto = om.model(nodes, inputs, constants={"zero": np.array([0])})
    om.refused(proto, CompileError, r"its shape is not constant: .* inputs 'sr', 'n'; fix their v")


def test_data_are_not_to_be_fixed() -> None:
    """A value that no one types is the network's business: the advice is to change the export."""
    nodes = [
        om.node("ReduceSum", "x", "sum", keepdims=0),
        om.node("Cast", "sum", "c", to=onnx.TensorProto.BOOL),
        om.node("If", "c", "y", then_branch=om.branch([om.node("Neg", "x", "t")], "t"),
                else_branch=om.branch([om.node("Abs", "x", "u")], "u")),
    ]  # fmt: skip
    match = r"its condition depends on input 'x'; export the model so that it does not$"
    om.refused(om.model(nodes, {"x": [2, 3]}), CompileError, match)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(rates(), "net.onnx")
    np.save("gain.npy", np.array([[1], [3]], F32))
    values = ["--input-value", "sr=8000", "--input-value", "gain=@gain.npy"]
    code, _, err = run(["compile", "net.onnx", *values], monkeypatch, capsys)
    assert code == 0, err
    with secateur.Engine.load("net.so", threads=1) as engine:
        assert [port["name"] for port in engine.info["inputs"]] == ["x"]
        np.testing.assert_allclose(engine(np.array([[1, 2]] * 3, F32)), [[14]] * 3)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sr", "--input-value is NAME=16000"),
        ("=3", "--input-value is NAME=16000"),
        ("sr=", "--input-value is NAME=16000"),
        ("sr=fast", "--input-value is NAME=16000"),
        ('sr={"a": 1}', "--input-value is NAME=16000"),
        ("sr=@none.npy", "there is no file none.npy"),
        ("sr=@net.onnx", "cannot read net.onnx"),
        ("sr=1,2", r"'sr' has shape \[\] in the model, which \[2\] does not fit"),
        ("rate=8000", "no input 'rate'"),
    ],
)
def test_the_command_refuses(
    text: str,
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(rates(), "net.onnx")
    code, _, err = run(["compile", "net.onnx", "--input-value", text], monkeypatch, capsys)
    assert code, text
    assert re.search(match, err), err
    assert not Path("net.so").exists()


@pytest.mark.parametrize(
    "twice",
    [
        ["--input-value", "sr=8000", "--input-value", "sr=16000"],
        ["--input-shape", "sr=1,2", "--input-shape", "sr=1,3"],
    ],
    ids=["value", "shape"],
)
def test_an_input_that_is_named_twice_is_refused(
    twice: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((2, 3), np.float32))
    for command in (["compile"], ["bench"], ["quantize", "--calibrate", "x.npy"]):
        code, _, err = run([*command, "net.onnx", *twice], monkeypatch, capsys)
        assert code
        assert f"{twice[0]} is given twice for input 'sr'" in err


def rated() -> onnx.ModelProto:
    """`rates`, with a layer that can be quantised."""
    proto = rates()
    proto.graph.node.append(om.node("MatMul", "y w", "out"))
    weights = np.random.default_rng(0).standard_normal((1, 4)).astype(F32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    proto.graph.output[0].name = "out"
    return proto


def test_other_commands_take_values_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(rated(), "net.onnx")
    x = np.random.default_rng(1).standard_normal((64, 2)).astype(F32)
    np.save("x.npy", x)
    values = ["--input-value", "sr=8000", "--input-value", "gain=[[1],[3]]"]
    feeds = {"x": x, "sr": np.array(8000), "gain": np.array([[1], [3]], F32)}
    wanted = om.onnxruntime_gives(rated(), feeds)["out"]
    for command in (
        ["quantize", "net.onnx", "--calibrate", "x.npy", *values],
        ["compile", "net-int8.onnx", "-o", "made.so"],
        ["compile", "net.onnx", "--int8", "--calibrate", "x.npy", "-o", "way.so", *values],
    ):
        code, _, err = run(command, monkeypatch, capsys)
        assert code == 0, err
    for name in ("made.so", "way.so"):
        with secateur.Engine.load(name, threads=1) as engine:
            assert [port["name"] for port in engine.info["inputs"]] == ["x"]
            assert np.abs(engine(x) - wanted).max() < 0.05 * np.abs(wanted).max()
    command = ["quantize", "net.onnx", "--calibrate", "x.npy", "--input-value", "rate=3"]
    code, _, err = run(command, monkeypatch, capsys)
    assert code
    assert "no input 'rate'" in err


def test_a_network_whose_inputs_are_all_fixed_is_timed_and_not_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(rated(), "net.onnx")
    np.save("x.npy", np.ones((1, 2), F32))
    values = ["sr=8000", "gain=[[1],[3]]", "x=@x.npy"]
    given = [word for value in values for word in ("--input-value", value)]
    code, _, err = run(
        ["quantize", "net.onnx", "--calibrate", "x.npy", *given], monkeypatch, capsys
    )
    assert code
    assert "no input, or all of them are fixed, so there is nothing to calibrate" in err
    short = ["--rounds", "2", "--against", "onnxruntime", *given]
    code, _, err = run(["bench", "net.onnx", *short], monkeypatch, capsys)
    assert code
    assert "no input of this network has an axis for a batch" in err
    code, out, err = run(
        ["bench", "net.onnx", "--batch", "1", "--json", *short], monkeypatch, capsys
    )
    assert code == 0, err
    assert {timing["batch"] for timing in json.loads(out)["timings"]} == {1}


def test_a_module_has_no_inputs_to_fix() -> None:
    module, x = torch.nn.Linear(4, 2), np.zeros((9, 4), F32)
    with pytest.raises(UsageError, match=r"fixed= is for an ONNX file.*export_onnx"):
        secateur.quantize(module, x, fixed={"input": 3})


@pytest.mark.parametrize("beside", [False, True])
def test_peers_get_the_same_constants(beside: bool, tmp_path: Path) -> None:
    """What is measured is a file whose inputs are constants; data beside it come along."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "net.onnx"
    proto = rated()
    proto.graph.input[2].type.tensor_type.shape.dim[0].dim_param = "rows"
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "rows"
    more = {"save_as_external_data": True, "size_threshold": 0, "location": "w"} if beside else {}
    onnx.save(proto, path, **more)
    made = fixing.fixed(path, {"sr": 8000, "gain": [[1], [3]]}, tmp_path / "out")
    assert made == tmp_path / "out" / "net.onnx"
    (port,) = inputs.of_onnx(made, {})
    assert (port.name, port.shape) == ("x", ("N", 2))  # the axis is that of `gain`
    with secateur.compile(made) as engine:
        assert engine(np.ones((3, 2), F32)).shape == (3, 4)
    with pytest.raises(UsageError, match="no input 'rate'"):
        fixing.fixed(path, {"rate": 3}, tmp_path / "other")
    if beside:
        (tmp_path / "in" / "w").unlink()
        with pytest.raises(FileError, match="cannot read the data of"):
            fixing.fixed(path, {"sr": 3}, tmp_path / "third")


def test_the_race_runs_them(tmp_path: Path) -> None:
    onnx.save(rated(), tmp_path / "net.onnx")
    found = {"sr": 8000, "gain": [[1], [3]]}
    with bench.prepared(tmp_path / "net.onnx", fixed=found) as contest:
        assert contest.name == "net.onnx"
        assert [given.name for given in contest.given] == ["x"]
        ours, theirs = (contest.outputs(r.name, np.ones((3, 2), F32)) for r in contest.runners)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    engine = tmp_path / "net.so"
    secateur.compile(tmp_path / "net.onnx", fixed=found, out=engine).close()
    with (
        pytest.raises(UsageError, match=r"net\.so is compiled.*fix them when"),
        bench.prepared(engine, "", fixed=found),
    ):
        pass
