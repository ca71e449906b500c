"""What is compiled for whom: compilers found and missing, cross targets, C bundles."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_network as tiny
from secateur.compiler import artifact, bundle, targets, toolchain
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target
from secateur.errors import CompileError, FileError, UsageError

pytestmark = pytest.mark.usefixtures("compiled_anew")

X = tiny.samples(11)  # a full tile and some that run one by one

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler here")
needs_make = pytest.mark.skipif(
    not (shutil.which("cc") and shutil.which("make")), reason="there is no cc or no make here"
)


def has_zig() -> bool:
    return bool(toolchain.importlib.util.find_spec("ziglang"))


needs_zig = pytest.mark.skipif(not has_zig(), reason="the package ziglang is not installed")


def need(program: str) -> str:
    """Return where a program is, or skip."""
    found = shutil.which(program)
    return found or pytest.skip(f"{program} is not installed")


def build(target: Target, **options: Any) -> bytes:
    return toolchain.build(tiny.model(), tiny.stored(), tiny.network(), target, **options)


def check_program(command: Sequence[str | Path]) -> None:
    """Run an example program on X, and compare what it writes."""
    done = subprocess.run(
        [*command, str(len(X))], input=X.tobytes(), capture_output=True, check=True, timeout=60
    )
    assert done.stderr == b""
    assert len(done.stdout) == X.nbytes + 8 * len(X)
    found = np.frombuffer(done.stdout[: X.nbytes], np.float32).reshape(X.shape)
    np.testing.assert_allclose(found, tiny.expected(X), rtol=1e-6)


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


# Compilers.


@needs_cc
def test_this_machine_is_told_by_its_compiler() -> None:
    native = toolchain.target()
    assert (native.name, native.kind) == ("native", "shared library")
    assert native.lanes in (4, 8, 16)
    assert (native.lanes == 16) == ("avx512f" in native.features)
    assert (native.system, native.architecture) == (
        targets.this_system(),
        targets.this_architecture(),
    )


def test_an_unknown_target_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no target 'vax'; choose native, x86_64-v3, .*macos$"):
        toolchain.target("vax")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    return monkeypatch


@pytest.mark.usefixtures("bare")
def test_without_a_compiler_it_is_said_what_to_install() -> None:
    with pytest.raises(CompileError, match=r"no C compiler .*install gcc or clang, or pip install"):
        toolchain.native()
    with pytest.raises(CompileError, match=r"aarch64-linux takes .* pip install ziglang"):
        build(toolchain.target("aarch64-linux"))


def test_a_compiler_that_cc_names_and_is_not_there_is_named(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CC", "some-cc --fast")
    with pytest.raises(CompileError, match=r"CC names the compiler 'some-cc', which is not insta"):
        toolchain.native()


@needs_cc
def test_cc_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -DNOTHING")
    assert toolchain.compiler(toolchain.native()) == ("cc", "-DNOTHING")
    assert Engine(artifact.pack(build(toolchain.native()), toolchain.native(), tiny.network()))


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "#!/bin/sh\necho 'x.c:1: error: no such luck' >&2\nexit 3\n"
    monkeypatch.setenv("CC", str(saved(tmp_path / "bad-cc", script.encode())))
    with pytest.raises(CompileError, match=r"bad-cc .*ended with status 3: .*no such luck"):
        toolchain.native()
    monkeypatch.setenv("CC", str(saved(tmp_path / "no-cc", b"not a program")))
    with pytest.raises(CompileError, match=r"no-cc"):
        toolchain.native()


@needs_cc
def test_c_that_does_not_compile_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"the C compiler failed: .*model\.c.*error"):
        toolchain.build({"model.c": "int f( {"}, b"", tiny.network(), toolchain.native())


@needs_cc
def test_a_full_disk_while_compiling_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    native = toolchain.native()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FileError, match=r"temporary files .*No space left on device; free some"):
        build(native)


@needs_cc
def test_generated_code_may_be_several_files() -> None:
    model = {"model.c": tiny.model()["model.c"], "more.c": "int secateur_more = 1;\n"}
    native = toolchain.native()
    library = toolchain.build(model, tiny.stored(), tiny.network(), native)
    y, _ = Engine(artifact.pack(library, native, tiny.network()))(X)
    np.testing.assert_array_equal(y, tiny.expected(X))


@needs_cc
def test_the_same_network_gives_the_same_bytes() -> None:
    assert build(toolchain.native()) == build(toolchain.native())


# Cross targets. The first build for one compiles its C library too, for up to a minute.


@needs_cc
def test_the_example_program_runs_here(tmp_path: Path) -> None:
    program = saved(tmp_path / "main", build(toolchain.native(), program=True))
    check_program([program])
    short = subprocess.run([program, "2"], input=b"123", capture_output=True, check=False)
    assert (short.returncode, short.stderr) == (1, b"the input is too short\n")


@needs_zig
def test_aarch64_runs_under_qemu(tmp_path: Path) -> None:
    emulator = need("qemu-aarch64-static")
    target = toolchain.target("aarch64-linux")
    check_program([emulator, saved(tmp_path / "main", build(target, program=True))])


@needs_zig
def test_aarch64_library_is_one(tmp_path: Path) -> None:
    target = toolchain.target("aarch64-linux")
    content = artifact.pack(build(target), target, tiny.network())
    assert content[:6] == b"\x7fELF\x02\x01"
    assert int.from_bytes(content[18:20], "little") == 183  # the number of this architecture
    assert artifact.read(content).architecture == "aarch64"


COMMAND = """
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";
const [, , file, ...rest] = process.argv;
const wasi = new WASI({ version: "preview1", args: ["main", ...rest], env: {} });
const module = await WebAssembly.compile(readFileSync(file));
const { exports } = await WebAssembly.instantiate(module, wasi.getImportObject());
process.exitCode = wasi.start({ exports });
"""

LIBRARY = """
import { readFileSync } from "node:fs";
import { load } from "ENGINE";
const [, , file, batch] = process.argv;
const engine = await load(readFileSync(file));
const given = new Float32Array(new Uint8Array(readFileSync(0)).buffer);
for (const wrong of [[], [given.subarray(1)], [new Float64Array(given.length)]]) {
  try { engine.run(wrong, Number(batch)); } catch { continue; }
  throw new Error("took a wrong input");
}
for (const array of engine.run([given], Number(batch)))
  process.stdout.write(new Uint8Array(array.buffer));
engine.close();
"""
"""What docs/ship.md tells users to do in a browser."""


@needs_zig
@pytest.mark.parametrize("program", [True, False])
def test_wasm_runs_under_node(tmp_path: Path, program: bool) -> None:
    node = need("node")
    target = toolchain.target("wasm32-wasi")
    content = build(target, program=program)
    if not program:  # what is appended is a part that other programs skip
        content = artifact.pack(content, target, tiny.network())
        assert artifact.read(content).target == "wasm32-wasi"
        with pytest.raises(CompileError, match=r"a wasm module, which a wasm runtime loads"):
            Engine(content)
    script = tmp_path / "run.mjs"
    engine = Path(__file__).parents[1] / "examples" / "browser" / "engine.mjs"
    script.write_text(COMMAND if program else LIBRARY.replace("ENGINE", str(engine)))
    check_program([node, "--no-warnings", script, saved(tmp_path / "tiny.wasm", content)])


@needs_zig
@pytest.mark.parametrize(
    ("name", "processor", "lacks"),
    [
        # zig first makes a C library for it, which takes a minute
        pytest.param("x86_64-v4", "Nehalem", "movbe", marks=pytest.mark.long),
        ("aarch64-i8mm", "cortex-a76", "i8mm"),
    ],
)
def test_an_older_processor_refuses_politely(
    tmp_path: Path, name: str, processor: str, lacks: str
) -> None:
    target = toolchain.target(name)
    emulator = need(f"qemu-{target.architecture}-static")
    program = saved(tmp_path / "main", build(target, program=True))
    done = subprocess.run(
        [emulator, "-cpu", processor, program], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert f"this engine needs {lacks}, which this processor lacks".encode() in done.stderr


@needs_zig
def test_the_table_of_targets_is_what_the_compiler_says() -> None:
    for target in targets.CROSS.values():
        *vectors, features = toolchain._probe(toolchain.compiler(target), target.flags)
        assert vectors == [target.lanes, target.registers, target.matrix], target.name
        if target.system != "macos" or target.architecture != "aarch64":  # any such machine does
            assert features == target.features, target.name


# C bundles.


def held(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write(folder: Path, **options: Any) -> None:
    given = (tiny.model(), tiny.stored(), tiny.network(), toolchain.native())
    bundle.write_bundle(folder, *given, **options)


def make(folder: Path, *arguments: str) -> None:
    command = ["make", "-C", str(folder), "CFLAGS=-O1 -Wall -Wextra -Werror", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@needs_make
def test_a_bundle_builds_without_warnings_and_runs(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write(folder)
    readme, header = (folder / "README.txt").read_text(), (folder / "secateur.h").read_text()
    assert readme.startswith("A network, compiled to C by secateur")
    assert "inputs[0]  float32, batch x 501" in readme
    assert "inputs[0]  float32, batch x 501" in header
    assert "@" not in readme + header
    make(folder)
    check_program([folder / "main"])
    write(folder)  # what `make` built does not hold it up
    assert not (folder / "main").exists()


BOTH = """
#include <stdio.h>
#include "first.h"
#include "second.h"
int main(void) {
  static float x[501], y[501], z[501];
  long long program[1];
  const void *in[] = {x};
  void *out1[] = {y, program}, *out2[] = {z, program};
  for (int i = 0; i < 501; i++) x[i] = (float)i;
  first_engine *a = first_create(2, 0);
  second_engine *b = second_create(1, 0);
  if (first_run(a, in, out1, 1) || second_run(b, in, out2, 1)) return 1;
  for (int i = 0; i < 501; i++) if (z[i] != 2 * x[i]) return 2;
  printf("%.9g", (double)y[500]);
  first_destroy(a);
  second_destroy(b);
  return 0;
}
"""


@needs_make
def test_two_bundles_fit_in_one_program(tmp_path: Path) -> None:
    write(tmp_path / "1", prefix="first")
    native, zeros = toolchain.native(), bytes(4 * tiny.WIDTH)
    bundle.write_bundle(
        tmp_path / "2", tiny.model(), zeros, tiny.network(), native, prefix="second"
    )
    make(tmp_path / "1", "libfirst.a")
    make(tmp_path / "2", "libsecond.a")
    (tmp_path / "both.c").write_text(BOTH)
    subprocess.run(
        ["cc", "both.c", "-I1", "-I2", "1/libfirst.a", "2/libsecond.a", "-pthread", "-lm"],
        cwd=tmp_path,
        check=True,
    )
    said = subprocess.run([tmp_path / "a.out"], capture_output=True, check=True).stdout
    x = np.zeros((1, tiny.WIDTH), np.float32)
    x[0, 500] = 500
    assert np.float32(said) == tiny.expected(x)[0, 500]


@needs_cc
def test_weights_as_text_are_exact(tmp_path: Path) -> None:
    weights = bytes(range(256)) + b"\xff" * 13
    text = bundle.weights_c(weights).decode()
    body = text[text.index("{") + 1 : text.index("}")].replace("\n", "").strip(",")
    words = [int(word, 16).to_bytes(8, "little") for word in body.split(",")]
    assert b"".join(words)[: len(weights)] == weights
    assert not any(b"".join(words)[len(weights) :])


@needs_cc
def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match=r"tiny is there already and holds thesis\.txt, which is"):
        write(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    (folder / "thesis.txt").unlink()
    write(folder)
    assert json.loads((folder / "bundle.json").read_text())["network"]["name"] == "tiny"
    (folder / "src" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds src/notes\.txt"):
        write(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"is not a folder"):
        write(tmp_path / "file")


@needs_cc
@pytest.mark.parametrize("prefix", ["", "3d", "a-b", "sec_x", "sec", "é", "a b", "int x;", "a\n"])
def test_a_prefix_that_is_no_name_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(UsageError, match=r"prefix .* cannot begin a name in C"):
        write(tmp_path / "tiny", prefix=prefix)
    assert not list(tmp_path.iterdir())


@needs_cc
@pytest.mark.parametrize("prefix", ["runtime", "names", "Pool", "RUNTIME"])
def test_a_prefix_that_would_hide_a_header_of_ours_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(UsageError, match=rf"prefix '{prefix}' is taken: {prefix.lower()}\.h"):
        write(tmp_path / "tiny", prefix=prefix)
    assert not list(tmp_path.iterdir())


@needs_make
@pytest.mark.parametrize("prefix", ["int", "linux", "stdio", "stddef", "main", "E"])
def test_a_prefix_may_be_a_word_of_c_or_of_its_library(tmp_path: Path, prefix: str) -> None:
    write(tmp_path / "tiny", prefix=prefix)
    make(tmp_path / "tiny")
    check_program([tmp_path / "tiny" / "main"])


@needs_cc
def test_a_bundle_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "old")
    before = held(tmp_path / "old")
    real, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) % 5 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("new", "old"):
        with pytest.raises(FileError, match=r"cannot write .*: No space left on device; free so"):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert held(tmp_path / "old") == before


@needs_cc
def test_names_of_a_network_cannot_break_its_c() -> None:
    network = tiny.network() | {"name": "a */ b\n#error @PREFIX@", "secateur": "*/\n#error"}
    network["inputs"][0]["name"] = "*/ int\nx"
    target = replace(toolchain.native(), flags=())
    assert toolchain.build(tiny.model(), tiny.stored(), network, target)
