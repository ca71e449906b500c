"""What errors and commands say of a stranger's file: text on one line, which does nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import helper

import onnx_models as om
import secateur
from secateur.cli import main
from secateur.errors import CompileError, FileError, SecateurError, UsageError, printable

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


HOSTILE = "a\x1b[2J\n\u202eb \udc80"


@pytest.mark.parametrize("kind", [SecateurError, CompileError, FileError, UsageError])
def test_an_error_can_be_shown_whatever_it_quotes(kind: type[SecateurError]) -> None:
    error = kind(f"no {HOSTILE}")
    assert str(error) == "no a\\x1b[2J\n\\u202eb \\udc80"
    assert error.args == (f"no {HOSTILE}",)
    assert str(kind()) == ""


def broken(kind: str, name: str) -> onnx.ModelProto:
    """A model that is refused, and whose refusal names what has this name."""
    node = helper.make_node("Relu", ["x"], ["y"], "n")
    proto = om.model([node], {"x": ["N", 3]})
    (node,) = proto.graph.node
    match kind:
        case "operator":
            node.op_type = name
        case "domain":
            node.domain = name
        case "node":
            node.name, node.input[0] = name, "nothing"
        case "value":
            node.input[0] = name
        case "output":
            proto.graph.output[0].name = name
        case "input":
            proto.graph.input[0].name = node.input[0] = name
            proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "wide"
        case "axis":
            proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = name
        case "attribute":
            node.attribute.append(helper.make_attribute(name, 1))
        case "text":
            node.op_type = "Gelu"
            node.attribute.append(helper.make_attribute("approximate", name))
        case "constant":
            proto.graph.initializer.add(name=name, dims=[3], data_type=1, raw_data=b"short")
        case "function":
            node.op_type, node.domain = name, "d"
            inner = helper.make_node(name, ["p"], ["q"], domain="d")
            opsets = [helper.make_opsetid("", 21), helper.make_opsetid("d", 1)]
            proto.functions.append(helper.make_function("d", name, ["p"], ["q"], [inner], opsets))
            proto.opset_import.append(opsets[1])
    return proto


KINDS = [
    *("operator", "domain", "node", "value", "output", "input", "axis", "attribute", "text"),
    *("constant", "function"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_names_what_is_wrong_on_one_line(kind: str) -> None:
    name = "a\x1b[2J\r\nsecateur: all is well\u202e"
    with pytest.raises(SecateurError) as caught:
        secateur.compile(broken(kind, name))
    text = str(caught.value)
    assert text.isprintable()
    if kind != "axis":  # which input has it is enough
        assert printable(name) in text


def test_a_proposed_command_can_be_pasted() -> None:
    with pytest.raises(UsageError, match=r"--input-shape 'a\$\(touch PWNED\)=1,32'$"):
        secateur.compile(
            om.model([om.node("Relu", "a$(touch PWNED)", "y")], {"a$(touch PWNED)": ["N", "?"]})
        )


def test_a_name_that_is_no_text_is_refused() -> None:
    proto = om.linear()
    proto.graph.name = "graf"
    content = proto.SerializeToString().replace(b"graf", b"g\xed\xa0\x80")  # a lone surrogate
    with pytest.raises(FileError, match=r"not valid text"):
        secateur.compile(content)
    with pytest.raises(UsageError, match=r"name is 3, but must be a text"):
        secateur.compile(om.linear(), name=3)


# The command line.


def shown(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["secateur", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = "".join(capsys.readouterr())
    assert all(line.isprintable() for line in said.split("\n")), said
    return int(end.value.code or 0), said


@needs_cc
def test_commands_show_the_names_of_files_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stem = "[red]a[b]\x1b[2J\r\u202e:smile:'$(touch PWNED)"
    Path(f"{stem}.onnx").write_bytes(om.linear().SerializeToString())
    code, said = shown(["compile", f"{stem}.onnx"], monkeypatch, capsys)
    assert code == 0
    assert said.startswith(f"{printable(stem)}.so: ")
    code, said = shown(["compile", f"{stem}.onnx", "--emit", "c"], monkeypatch, capsys)
    assert code == 0
    assert f"wrote {printable(stem)}: " in said
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".onnx", ".so"]


@pytest.mark.parametrize("option", ["--target", "--emit", "--values", "--input-shape"])
def test_commands_show_wrong_arguments_as_text(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(om.linear().SerializeToString())
    wrong = "[red]a[/b]\x1b[2J\r\u202e:smile:=1,3"
    code, said = shown(["compile", str(path), option, wrong], monkeypatch, capsys)
    assert code == 2
    assert printable(wrong.removesuffix("=1,3")) in said


@pytest.mark.parametrize("command", ["compile", "bench"])
def test_commands_show_the_names_in_a_file_as_text(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "[red]a[/b]\x1b[2J\r\nsecateur: all is well\u202e:smile:"
    path = tmp_path / f"{HOSTILE[:-1]}.onnx"
    path.write_bytes(broken("operator", name).SerializeToString())
    code, said = shown([command, str(path)], monkeypatch, capsys)
    assert code == 1
    assert printable(name) in said
    assert len(said.splitlines()) == 1
