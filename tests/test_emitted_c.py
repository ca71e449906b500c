"""The C that is written: no warnings, nothing undefined, several networks in one program."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_models as om
from quantised_models import around
from secateur.compiler import pipeline
from test_cli import run

pytestmark = pytest.mark.skipif(
    not (shutil.which("gcc") and shutil.which("make")), reason="there is no gcc or no make here"
)
F32 = np.float32
STRICT = "-Wall -Wextra -Wconversion -Wshadow -Werror"
SANE = "-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all"


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random weights, four fifths of them zero."""
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(shape).astype(F32) for name, shape in shapes.items()}
    return {
        name: np.where(rng.random(w.shape) < 0.2, w, 0).astype(F32) for name, w in drawn.items()
    }


def images() -> onnx.ModelProto:
    """Convolutions of every kind, pools, norms, a resize, and layers in 8 bits."""
    nodes = [
        om.node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        om.node("HardSwish", "a", "b"),
        om.node("Conv", "b depth", "c", pads=[1, 1, 1, 1], group=16, strides=[2, 2]),
        om.node("Relu", "c", "d"),
        om.node("MaxPool", "d", "e", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        om.node("InstanceNormalization", "e ones zeros", "f"),
        om.node("Resize", "f - scales", "g", mode="linear"),
        om.node("ConvTranspose", "g up", "h", strides=[2, 2]),
        om.node("AveragePool", "h", "i", kernel_shape=[4, 4], strides=[4, 4]),
        om.node("Flatten", "i", "j"),
        om.node("Gemm", "j dense", "k"),
        om.node("Softmax", "k", "y"),
        *around("e", "s", "z", "q"),
        om.node("DequantizeLinear", "w8 ws", "wf"),
        om.node("Conv", "q wf", "l", pads=[1, 1, 1, 1]),
        *around("l", "s", "z", "m"),
        om.node("GlobalAveragePool", "m", "n"),
    ]
    made = weights(w=(16, 3, 3, 3), depth=(16, 1, 3, 3), up=(16, 4, 2, 2), dense=(256, 10))
    w8 = np.random.default_rng(0).integers(-127, 128, (16, 16, 3, 3)).astype(np.int8)
    made |= {
        "ones": np.ones(16, F32), "zeros": np.zeros(16, F32), "s": np.array(0.05, F32),
        "z": np.array(100, np.uint8), "ws": np.array(0.01, F32), "w8": w8,
        "scales": np.array([1, 1, 2, 2], F32),
    }  # fmt: skip
    return om.model(nodes, {"x": ["N", 3, 16, 16]}, "y n", made, opset=18)


def sequences() -> onnx.ModelProto:
    """Recurrent layers, attention, norms, selections, and numbers that become integers."""
    nodes = [
        om.node("Transpose", "x", "t", perm=[1, 0, 2]),
        om.node("LSTM", "t lw lr", "a", hidden_size=8),
        om.node("Squeeze", "a one", "b"),
        om.node("GRU", "b gw gr", "c", hidden_size=8),
        om.node("Squeeze", "c one", "d"),
        om.node("Transpose", "d", "e", perm=[1, 0, 2]),
        om.node("LayerNormalization", "e ones", "f"),
        om.node("MatMul", "f q", "g"),
        om.node("Transpose", "f", "h", perm=[0, 2, 1]),
        om.node("MatMul", "g h", "i"),
        om.node("Softmax", "i", "j"),
        om.node("MatMul", "j f", "y"),
        om.node("TopK", "x three", "top places", axis=1),
        om.node("ArgMax", "x", "most", axis=2),
        om.node("Clip", "x low high", "k"),
        om.node("Round", "k", "l"),
        om.node("Cast", "l", "whole", to=onnx.TensorProto.INT32),
        om.node("Cast", "x", "raw", to=onnx.TensorProto.INT32),
        om.node("Cast", "x", "bytes", to=onnx.TensorProto.UINT8),
        om.node("Floor", "x", "down"),
        om.node("Pow", "x two", "squares"),
        om.node("ReduceMax", "x one", "greatest", keepdims=0),
        om.node("Sin", "x", "sine"),
        om.node("Erf", "x", "erf"),
        om.node("Exp", "x", "exp"),
        om.node("Mod", "x two", "mod", fmod=1),
    ]
    made = weights(lw=(1, 32, 6), lr=(1, 32, 8), gw=(1, 24, 8), gr=(1, 24, 8), q=(8, 8))
    made |= {
        "one": np.array([1]), "ones": np.ones(8, F32), "three": np.array([3]),
        "low": np.array(-9, F32), "high": np.array(9, F32), "two": np.array(2, F32),
    }  # fmt: skip
    outputs = "y top places most whole raw bytes down squares greatest sine erf exp mod"
    return om.model(nodes, {"x": ["N", 7, 6]}, outputs, made, opset=18)


NETS = {"images": (images, (3, 16, 16)), "sequences": (sequences, (7, 6))}


def make(folder: Path, flags: str, *what: str) -> None:
    made = subprocess.run(
        ["make", "-C", folder, "CC=gcc", f"CFLAGS={flags}", f"LDFLAGS={flags}", *what],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not made.returncode, made.stderr


def program(folder: Path, x: np.ndarray) -> bytes:
    """Run the example program on a batch, with two threads; nothing may be said."""
    done = subprocess.run(
        [folder / "main", str(len(x)), "2"], input=x.tobytes(), capture_output=True, check=False,
        env={**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"},
    )  # fmt: skip
    assert not done.returncode, done.stderr.decode()
    assert not done.stderr
    return done.stdout


def emitted(folder: Path, build: Callable[[], onnx.ModelProto], prefix: str) -> None:
    """Write C that this machine can run; for vectors of eight, whose loops compile faster."""
    target = "x86_64-v3" if platform.machine() in ("x86_64", "AMD64") else "aarch64-linux"
    pipeline.emit_c(build().SerializeToString(), folder, target=target, prefix=prefix)


@pytest.mark.long
@pytest.mark.parametrize("name", NETS)
def test_nothing_is_undefined_on_nan_and_infinities(name: str, tmp_path: Path) -> None:
    """Nor on denormals and the largest numbers."""
    build, shape = NETS[name]
    emitted(tmp_path / "c", build, "net")
    make(tmp_path / "c", f"-O0 {SANE}", "main")
    rng = np.random.default_rng(0)
    hard = np.array([np.nan, np.inf, -np.inf, 1e-42, 3.4e38, -3.4e38, 0, -0.0, 2e9, 1e10], F32)
    for batch in (1, 11):
        x = rng.standard_normal((batch, *shape)).astype(F32)
        size = sum(array.nbytes for array in om.onnxruntime_gives(build(), {"x": x}).values())
        for share in (0, 0.3, 1):
            given = np.where(rng.random(x.shape) < share, rng.choice(hard, x.shape), x)
            assert len(program(tmp_path / "c", given)) == size


BOTH = """
#include <stdio.h>
#include "wake.h"
#include "words.h"
int main(void) {
  static float x[1536], y[20], n[32], other[294], out[14][392];
  const void *in[] = {x}, *in2[] = {other};
  void *to[] = {y, n}, *to2[14];
  for (int i = 0; i < 14; i++) to2[i] = out[i];
  for (int i = 0; i < 1536; i++) x[i] = (float)(i % 7) / 3;
  for (int i = 0; i < 294; i++) other[i] = (float)(i % 5) / 2;
  wake_engine *a = wake_create(2, 0);
  words_engine *b = words_create(1, 0);
  if (!a || !b || wake_run(a, in, to, 2) || words_run(b, in2, to2, 7)) return 1;
  fwrite(y, sizeof y, 1, stdout);
  fwrite(out[0], sizeof(float), 392, stdout);
  wake_destroy(a);
  words_destroy(b);
  return 0;
}
"""


def test_two_networks_in_one_program_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for prefix, build in (("wake", images), ("words", sequences)):
        emitted(Path(prefix), build, prefix)
        make(tmp_path / prefix, f"-O1 {STRICT}")
        for library, which in ((f"lib{prefix}.a", "-g"), (f"lib{prefix}.so", "-D")):
            said = subprocess.run(
                ["nm", which, "--defined-only", "-P", f"{prefix}/{library}"],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
            names = re.findall(r"^(\S+) [A-Z] ", said, re.MULTILINE)
            assert names
            assert all(name.startswith(f"{prefix}_") for name in names), names
    Path("both.c").write_text(BOTH)
    command = f"gcc {STRICT} both.c -Iwake -Iwords wake/libwake.a words/libwords.a -pthread -lm"
    subprocess.run(command.split(), check=True)
    said = subprocess.run(["./a.out"], capture_output=True, check=True).stdout
    got = np.frombuffer(said, F32)
    x = (np.arange(1536) % 7).astype(F32).reshape(2, 3, 16, 16) / F32(3)
    other = (np.arange(294) % 5).astype(F32).reshape(7, 7, 6) / F32(2)
    y = om.onnxruntime_gives(images(), {"x": x})["y"]
    np.testing.assert_allclose(got[:20].reshape(2, 10), y, atol=1e-5)
    y = om.onnxruntime_gives(sequences(), {"x": other})["y"]
    np.testing.assert_allclose(got[20:].reshape(7, 7, 8), y, atol=1e-5)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(om.linear(), "net.onnx")
    options = ["--emit", "c", "--prefix", "kws", "--target", "aarch64-linux"]
    code, _, err = run(["compile", "net.onnx", *options], monkeypatch, capsys)
    assert code == 0, err
    header = Path("net.aarch64-linux", "kws.h").read_text()
    assert "kws_engine *kws_create(" in header
    assert "secateur_" not in header


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--prefix", "wake"], "--prefix is for --emit c"),
        (["--prefix", "3d", "--emit", "c"], "prefix '3d' cannot begin a name in C"),
        (["--prefix", "runtime", "--emit", "c"], r"prefix 'runtime' is taken: runtime\.h"),
    ],
)
def test_prefixes_that_are_refused(
    options: list[str],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(om.linear(), "net.onnx")
    code, _, err = run(["compile", "net.onnx", *options], monkeypatch, capsys)
    assert code == 2
    assert re.search(match, err)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
