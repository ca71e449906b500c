"""Names out of a stranger's file compile, run and emit C, and stand in no C, Makefile or text."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
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
from secateur.compiler import emit, pipeline
from secateur.compiler.runtime import Engine

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
    assert not Path("PWNED").exists()


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
