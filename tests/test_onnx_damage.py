"""ONNX files that are damaged, malformed or reach outside of their folder: one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import onnx_models as om
from secateur.compiler import onnx_reader, passes
from secateur.errors import CompileError, FileError, SecateurError


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04" + bytes(99), b"\x08\x07"])
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"m\.onnx is not an ONNX file"):
        onnx_reader.read(path)
    with pytest.raises(FileError, match=r"cannot read .*none.onnx: No such file"):
        onnx_reader.read(tmp_path / "none.onnx")


def test_every_truncation_is_refused() -> None:
    content = om.linear().SerializeToString()
    for end in range(len(content)):
        with pytest.raises(SecateurError):
            onnx_reader.read(content[:end])


@given(st.data())
@settings(max_examples=300)
def test_damage_gives_one_clear_error_or_a_network(data: st.DataObject) -> None:
    content = bytearray(om.if_model([om.node("Cast", "flag", "c", to=9)]).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        graph = passes.apply(onnx_reader.read(bytes(content)).graph)
    except SecateurError:
        return
    assert graph.outputs


def test_a_tensor_without_elements_whose_other_extents_are_huge() -> None:
    proto = om.linear()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [0, 2**31 - 1, 2**31 - 1, 2**31 - 1]
    om.refused(proto, CompileError, r"constant 'w' has shape .*elements are not supported")


def test_an_operator_that_would_give_such_a_tensor() -> None:
    shape = np.array([0, 2**31 - 1, 2**31 - 1, 2**31 - 1])
    nodes = [om.node("ConstantOfShape", "shape", "none"), om.node("Shape", "none", "y")]
    proto = om.model(nodes, {}, constants={"shape": shape})
    om.refused(proto, CompileError, r"ConstantOfShape 'n_none' .*output would have shape \[0, 2147")


def test_values_that_do_not_fit_their_shape() -> None:
    proto = om.linear()
    proto.graph.initializer[0].raw_data += b"more"
    om.refused(proto, CompileError, r"constant 'w' has shape \[3, 4\] but 52 bytes")
    del proto.graph.initializer[0].float_data[:]
    proto.graph.initializer[0].ClearField("raw_data")
    om.refused(proto, CompileError, r"constant 'w' has shape \[3, 4\] but 0 values")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g.node[0].input.__setitem__(0, "y"), r"MatMul 'n_t' waits for its own result"),
        (lambda g: g.node[0].input.__setitem__(0, "q"), r"MatMul 'n_t' reads 'q', which nothing"),
        (lambda g: g.node[0].output.__setitem__(0, "x"), r"'x' is given to two values"),
        (lambda g: g.node[1].output.__setitem__(0, "t"), r"'t' is given to two values"),
        (lambda g: g.initializer.append(g.initializer[0]), r"'w' is given to two values"),
        (lambda g: g.input.append(g.input[0]), r"'x' is given to two values"),
        (lambda g: g.output.append(g.output[0]), r"'y' is given to two values"),
        (lambda g: g.output.add(name="q"), r"output 'q' of the model is never computed"),
        (lambda g: setattr(g.node[1], "op_type", "Reluu"), r"Reluu 'n_y': No Op registered"),
        (lambda g: setattr(g.node[1], "op_type", "Add"), r"Add 'n_y': .*input size 1 not in"),
        (lambda g: setattr(g.node[1], "op_type", "Det"), r"operator Det is not supported"),
        (lambda g: setattr(g.node[1], "domain", "com.x"), r"com\.x\.Relu is not one of ONNX's own"),
        (
            lambda g: g.node[1].attribute.append(helper.make_attribute("alpha", 1.0)),
            r"Relu 'n_y': Unrecognized attribute: alpha",
        ),
        (
            lambda g: setattr(g.input[0].type.tensor_type, "elem_type", TensorProto.STRING),
            r"input 'x' has element type string, which is not supported",
        ),
        (
            lambda g: setattr(g.initializer[0], "data_type", TensorProto.FLOAT8E4M3FN),
            r"constant 'w' has element type float8e4m3fn, .*; store the model in float32",
        ),
        (
            lambda g: g.input[0].type.sequence_type.elem_type.SetInParent(),
            r"input 'x' is not a tensor",
        ),
    ],
)
def test_malformed_graphs(change: Any, match: str) -> None:
    proto = om.linear()
    change(proto.graph)
    om.refused(proto, CompileError, match)


@pytest.mark.parametrize(("opset", "match"), [(6, "set 6; 7 to"), (99, "set 99; 7 to")])
def test_operator_sets_that_are_not_known(opset: int, match: str) -> None:
    om.refused(om.linear(opset=opset), CompileError, match)


# Data beside the model.


def external(tmp_path: Path, **entries: str) -> Path:
    proto = om.linear()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=entry)
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    (folder / "data.bin").write_bytes(b"padding." + om.WEIGHTS.tobytes())
    (tmp_path / "secret.bin").write_bytes(om.WEIGHTS.tobytes())
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_data_in_another_file(tmp_path: Path) -> None:
    path = external(tmp_path, location="data.bin", offset="8", length="48")
    np.testing.assert_array_equal(onnx_reader.read(path).graph.constants["w"], om.WEIGHTS)
    with pytest.raises(FileError, match="give the model's path, not bytes"):
        onnx_reader.read(path.read_bytes())


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"location": "../secret.bin"}, r"outside the model's folder"),
        ({"location": "sub/../../secret.bin"}, r"outside the model's folder"),
        ({"location": "/etc/hostname"}, r"outside the model's folder"),
        ({"location": "C:\\secret.bin"}, r"outside the model's folder"),
        ({"location": "link.bin"}, r"link that leaves the model's folder"),
        ({"location": "."}, r"not a plain file"),
        ({}, r"outside the model's folder"),
        ({"location": "none.bin"}, r"none.bin is missing; put it beside the model"),
        ({"location": "a\0b"}, r"is missing"),
        ({"location": "data.bin", "offset": "9"}, r"ends before its 48 bytes at offset 9"),
        ({"location": "data.bin", "offset": "-8"}, r"offset -8 .* do not fit"),
        ({"location": "data.bin", "offset": "x"}, r"offset x .* do not fit"),
        ({"location": "data.bin", "length": "99"}, r"length 99 .* do not fit its 48 bytes"),
    ],
)
def test_data_that_must_not_be_read(tmp_path: Path, entries: dict[str, str], match: str) -> None:
    path = external(tmp_path, **entries)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(FileError, match=match) as caught:
        onnx_reader.read(path)
    assert "constant 'w'" in str(caught.value)
