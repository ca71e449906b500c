"""Names out of a stranger's file compile, run and emit C, and stand in no C, Makefile or text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnx_models as om
import secateur
from secateur.cli import main
from secateur.compiler import emit, pipeline, toolchain
from secateur.compiler.runtime import Engine
from secateur.errors import CompileError, FileError, SecateurError, UsageError
from secateur.printable import printable

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
needs_make = pytest.mark.skipif(not shutil.which("make"), reason="no make")

MARK = "Zq7xk"  # part of every name, and of nothing that secateur writes
VALUES = ("a", "b", "w", "c", "h", "r", "s", "two", "t", "y", "z", "p", "q")
OTHERS = ("n0", "n1", "n2", "n3", "n4", "graph", "function", "domain", "doc", "axis", "attribute")

ATTACK = (
    "x **//\n#ifndef Q\n#define Q\nextern int system(const char *);\n__attribute__((constructor)) "
    'static void p(void) { system("touch PWNED"); }\n#endif\n/* '
)
NASTY = (
    *("*/", "//", "/*", "\\", "\\\n", "??/", "??>", "'", '"', "`", "%s%n", "$(touch PWNED)"),
    *(
        "`touch PWNED`",
        "\n\ttouch PWNED",
        "\r",
        "\r\n",
        "\0",
        "\x1b[2J",
        "\x9b",
        "\u202e",
        "\u2028",
    ),
    *(
        "@PREFIX@",
        "@ARRAYS@",
        "#",
        "\n#error",
        '");',
        "\\x",
        "\\u12",
        "\\U0010ffff",
        "\\0",
        "\U0001f98a",
    ),
    *("{}", "{0}", ":", "=", " ", "[/b]", "[red]", ":smile:", "../../x", "/etc/passwd", "-o", "%"),
    *("file", "x.npy", "arr_0", "one 0 x", "é", "e\u0301", "int", "main", "NULL", ATTACK),
)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Nothing is timed here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "OPTIMIZE", "-O1")
        yield


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
names = st.lists(st.sampled_from(NASTY) | texts, min_size=1, max_size=4).map("".join)


@dataclass(frozen=True)
class Names:
    """What a model calls its parts; no two values have one name."""

    of: Mapping[str, str]

    def __getitem__(self, part: str) -> str:
        return self.of[part]


@st.composite
def drawn(draw: st.DrawFn) -> Names:
    values = draw(st.lists(names, min_size=len(VALUES), max_size=len(VALUES), unique=True))
    others = draw(st.lists(names, min_size=len(OTHERS), max_size=len(OTHERS)))
    return named([*values, *others])


def named(given: Sequence[str]) -> Names:
    """Give each part of the model its text, marked."""
    return Names({p: MARK + t for p, t in zip((*VALUES, *OTHERS), given, strict=True)})


def alike(start: str, between: str) -> Names:
    """Names that differ in how often a text stands in them alone."""
    return named([start + between * k for k in range(len(VALUES) + len(OTHERS))])


def model(n: Names) -> onnx.ModelProto:
    """y = 2 relu(a w + c) + b; z = max of 2 by 2 of y as an image, by a function of the model."""
    nodes = [
        helper.make_node("Gemm", [n["a"], n["w"], n["c"]], [n["h"]], n["n0"], n["doc"]),
        helper.make_node("Relu", [n["h"]], [n["r"]], n["n1"]),
        helper.make_node(n["function"], [n["r"]], [n["s"]], n["n2"], domain=n["domain"]),
        helper.make_node("Add", [n["s"], n["b"]], [n["y"]], n["n3"]),
        helper.make_node("Reshape", [n["y"], n["q"]], [n["t"]], n["n4"]),
        helper.make_node("MaxPool", [n["t"]], [n["z"]], n["n4"], kernel_shape=[2, 2]),
    ]
    inputs = [om.value(n[v], [n["axis"], 4]) for v in "ab"]
    outputs = [onnx.ValueInfoProto(name=n[v]) for v in "yz"]
    weights = {"w": np.diag([1, -2, 0, 3]), "c": np.array([0, 1, 0, -1])}
    tensors = [numpy_helper.from_array(v.astype(np.float32), n[k]) for k, v in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([0, 1, 2, 2]), n["q"]))
    graph = helper.make_graph(nodes, n["graph"], inputs, outputs, tensors, n["doc"])
    body = [
        helper.make_node("Constant", [], [n["two"]], n["n0"], value_float=2.0),
        helper.make_node("Mul", [n["two"], n["p"]], [n["a"]], n["n1"], n["doc"]),
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(n["domain"], 1)]
    function = helper.make_function(
        n["domain"], n["function"], [n["p"]], [n["a"]], body, opsets[:1], doc_string=n["doc"]
    )
    made = helper.make_model(
        graph, opset_imports=opsets, functions=[function], ir_version=10, producer_name=n["doc"]
    )
    helper.set_model_props(made, {n["attribute"]: n["doc"]})
    return made


def expected(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    diagonal, shift = np.array([1, -2, 0, 3]), np.array([0, 1, 0, -1])
    y = 2 * np.maximum(a * diagonal + shift, 0) + b
    return y, y.max(axis=1).reshape(-1, 1, 1, 1)


def written(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def as_text(name: str) -> str:
    """Return a name as JSON has it for any reader: half characters are spelt."""
    return name.replace("\udc80", "\\udc80").replace("\ud83e", "\\ud83e")


def check(engine: Engine, n: Names) -> None:
    """Run an engine by the names of its inputs, and look at what it says of itself."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(2))
    for found, wanted in zip(engine({n["b"]: b, n["a"]: a}), expected(a, b), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    info = engine.info
    assert [port["name"] for port in info["inputs"]] == [n["a"], n["b"]]
    assert [port["name"] for port in info["outputs"]] == [n["y"], n["z"]]
    assert any(n["n0"] in step for step, _ in engine.profile(a, b))
    assert repr(engine).isprintable()


def check_sources(folder: Path, n: Names, name: str) -> None:
    """Look for names in emitted files: they stand in bundle.json alone, and all of them there."""
    files = written(folder)
    network = json.loads(files.pop("bundle.json"))["network"]
    assert network["name"] == as_text(name)
    assert [port["name"] for port in network["inputs"]] == [n["a"], n["b"]]
    assert any(step["layer"].startswith(n["n0"]) for step in network["steps"][0])
    for file, content in files.items():
        assert content.isascii(), file
        assert MARK.encode() not in content, file
        assert b"??" not in content, file
        assert not any(byte < 32 and byte not in b"\t\n" for byte in content), file


@settings(max_examples=4)
@given(drawn(), names)
@example(named([*NASTY[: len(VALUES) + len(OTHERS)]]), ATTACK)
@example(named([*reversed(NASTY)][: len(VALUES) + len(OTHERS)]), "net\n$(touch PWNED)\n#")
@example(alike("", ATTACK), "\udc80\ud83e")
@example(alike("x", "\0"), "")
@example(alike("x" * 50_000, "\U0001f98a"), "n" * 100_000)
@example(named([*VALUES, *OTHERS]), "??/")
def test_any_names_compile_run_and_emit_c(
    tmp_path_factory: pytest.TempPathFactory, n: Names, name: str
) -> None:
    folder = tmp_path_factory.mktemp("names")
    cross = {"target": "aarch64-linux"}  # whose C is written without a compiler
    pipeline.emit_c(model(n).SerializeToString(), folder / "c", name=MARK + name, **cross)
    check_sources(folder / "c", n, MARK + name)
    engine = secateur.compile(model(n), name=MARK + name)
    assert engine.info["name"] == as_text(MARK + name)
    check(engine, n)


@needs_make
def test_an_emitted_folder_of_any_name_is_made_and_runs(tmp_path: Path) -> None:
    n = named([*NASTY[:-1], ATTACK][-len(VALUES) - len(OTHERS) :])
    folder = tmp_path / "-a b'c\"d$(touch PWNED)`touch PWNED`#e\nf%g:h\\i*\u202e\U0001f98a"
    pipeline.emit_c(model(n).SerializeToString(), folder, name=ATTACK)
    command = ["make", "CFLAGS=-O1 -Wall -Wextra -Werror"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    said = subprocess.run(
        ["./main", "3"], cwd=folder, input=a.tobytes() * 2, capture_output=True, check=True
    )
    wanted = np.concatenate([array.ravel() for array in expected(a, a)])
    np.testing.assert_allclose(np.frombuffer(said.stdout, np.float32), wanted, rtol=1e-5)
    assert not list(tmp_path.rglob("PWNED"))


def test_the_name_of_a_file_or_of_a_folder_may_be_any(tmp_path: Path) -> None:
    folder = tmp_path / ATTACK.replace("/", ":")[:80]
    folder.mkdir()
    for stem in ("-o $(touch PWNED)\n@PREFIX@*:'", "\udc80", "n" * 200):
        path = folder / f"{stem}.onnx"
        try:
            path.write_bytes(om.linear().SerializeToString())
        except (OSError, UnicodeError):  # this file system cannot
            continue
        engine = secateur.compile(path, out=folder / f"{stem}.engine")
        assert engine.info["name"] == as_text(stem)
        x = np.ones((2, 3), np.float32)
        np.testing.assert_allclose(
            Engine.load(folder / f"{stem}.engine")(x), x @ om.WEIGHTS, rtol=1e-5
        )
        pipeline.emit_c(path, folder / stem, target="aarch64-linux")
        assert json.loads((folder / stem / "bundle.json").read_text())["network"][
            "name"
        ] == as_text(stem)


def test_the_json_in_the_c_is_what_it_was(tmp_path: Path) -> None:
    """No trigraph, escape or end of a literal: it comes out of the compiled C as it went in."""
    name = "".join(NASTY) + "\udc80" + "".join(map(chr, range(0x180)))
    text = json.dumps({"name": name})
    program = emit._c_chars("info", text) + "\n#include <stdio.h>\nint main(void) { puts(info); }\n"
    (tmp_path / "p.c").write_text(program, encoding="ascii")
    for standard in ("-std=gnu99", "-std=c99", "-trigraphs"):
        command = ["cc", standard, "-Wall", "-Werror", "p.c", "-o", "p"]
        subprocess.run(command, cwd=tmp_path, check=True)
        said = subprocess.run([tmp_path / "p"], capture_output=True, check=True).stdout
        assert json.loads(said)["name"] == name


# Names that secateur makes stay apart from names of the file.


def conv_then_linear(names: Mapping[str, str]) -> onnx.ModelProto:
    """Planes so large that they are worked on sample by sample, then a layer of all samples."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 2, 3, 3)), "v": rng.standard_normal((4, 5))}
    n = {part: names.get(part, part) for part in ("x", "h", "g", "f", "y", *constants)}
    nodes = [
        helper.make_node("Conv", [n["x"], n["w"]], [n["h"]], "conv", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", [n["h"]], [n["g"]], "pool"),
        helper.make_node("Flatten", [n["g"]], [n["f"]], "flat"),
        helper.make_node("Gemm", [n["f"], n["v"]], [n["y"]], "gemm"),
    ]
    tensors = [numpy_helper.from_array(v.astype(np.float32), n[k]) for k, v in constants.items()]
    inputs = [om.value(n["x"], ["batch", 2, 24, 24])]
    outputs = [om.value(n["y"], ["batch", 5])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    "names",
    [
        {"g": "one h", "f": "one x", "y": "one w", "h": "h"},
        {"g": "one 0 h", "f": "one 0 x", "y": "one 1 h"},
        {"g": "conv@scratch", "f": "h@scratch", "y": "gemm@scratch"},
        {"g": "h@staged", "f": "one h@staged", "y": "x@0"},
        {"h": "x@0", "g": "x@1", "f": "one x@0", "y": "y@out0"},
        {"h": "conv", "g": "pool", "f": "gemm_bias", "y": "conv_bias", "x": "gemm_rows"},
    ],
)
def test_names_like_those_of_the_planner_are_apart(names: dict[str, str]) -> None:
    proto = conv_then_linear(names)
    engine = secateur.compile(proto)
    x = np.random.default_rng(1).standard_normal((40, 2, 24, 24)).astype(np.float32)
    (wanted,) = om.onnxruntime_gives(proto, {names.get("x", "x"): x}).values()
    np.testing.assert_allclose(engine(x), wanted, rtol=1e-3, atol=1e-4)


def test_nodes_that_a_choice_makes_are_apart() -> None:
    branch = om.branch([om.node("Neg", "x", "u"), om.node("Abs", "x", "v")], "u")
    branch.output.append(onnx.ValueInfoProto(name="v"))
    nodes = [
        helper.make_node("If", ["c"], ["s", "t"], "if", then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["s", "t"], ["z"], "if/1"),
        helper.make_node("Relu", ["z"], ["y"], "if/1_1"),
    ]
    proto = om.model(nodes, {"x": ["N", 3]}, "z t y", {"c": np.array(True)})
    x = np.array([[-1, 0, 2]], np.float32)
    z, t, y = secateur.compile(proto)(x)
    np.testing.assert_array_equal(np.concatenate([z, t, y]), [[2, 0, 0], [1, 0, 2], [2, 0, 0]])


# Errors.


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
    with pytest.raises(UsageError, match=r"the name of a network is 3"):
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
