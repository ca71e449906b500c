"""Matrix instructions of x86: with them, without them, and where the system does not grant them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import integer_nets
from integer_nets import QuantisedNet
from kernel_nets import as_tuple
from secateur.compiler import pipeline
from secateur.compiler.kernels import Machine
from secateur.compiler.runtime import Engine
from tiny_engine import native

LAYERS = (
    # channels, outputs, kernel, plane
    (32, 16, (1, 1), (5, 7)), (32, 32, (3, 3), (9, 8)), (33, 48, (2, 3), (4, 4)),
    (64, 80, (1, 1), (1, 1)), (72, 32, (3, 3), (20, 17)), (47, 16, (5,), (30,)),
    (130, 64, (1, 1), (7, 3)), (256, 160, (3, 3), (2, 2)),
)  # fmt: skip
LINEAR = ((32, 16, ()), (100, 96, ()), (64, 32, (19,)), (512, 512, ()))
"""Inputs, outputs, and the tokens of a sample."""

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

CHILD = """
import sys
import numpy as np
from no_matrix import refuse
from secateur.compiler import toolchain
from secateur.compiler.runtime import Engine
from secateur.errors import UsageError

try:
    refuse()
except UsageError:
    sys.exit(77)
assert not toolchain.native().matrix
given = np.load(sys.argv[2])
with Engine(open(sys.argv[1], "rb").read(), 2) as engine:
    made = engine({name: given[name] for name in given.files})
np.savez(sys.argv[3], *made)
"""


def build(net: QuantisedNet) -> None:
    rng = np.random.default_rng(5)

    def layer(op: str, x: str, weight: np.ndarray, **attributes: object) -> None:
        y = net.add(op, x, net.constant(weight), **attributes)
        spread = float(np.sqrt(np.square(weight.astype(np.float64)).sum(0).max())) * 0.5
        net.keep(net.rounded(y, spread / 40, 77), net.add("Relu", y))
        net.whole["layer"] += 1

    for channels, outputs, kernel, plane in LAYERS:
        whole = rng.integers(-128, 128, (outputs, channels, *kernel))
        whole[0], whole[1] = -128, 127
        x = net.rounded(net.input(channels, *plane), 0.02, 119)
        layer(
            "Conv", x, net_weight(whole),
            pads=tuple(k // 2 for k in kernel) * 2, strides=(1,) * len(kernel),
            dilations=(1,) * len(kernel), group=1,
        )  # fmt: skip
    for inputs, outputs, tokens in LINEAR:
        whole = rng.integers(-128, 128, (inputs, outputs))
        x = net.rounded(net.input(*tokens, inputs), 0.02, -9, "int8")
        layer("MatMul", x, net_weight(whole))


def net_weight(whole: np.ndarray) -> np.ndarray:
    return whole.astype(np.float32) * np.float32(0.01)


def test_matrix_instructions_give_what_others_give(tmp_path: Path) -> None:
    target = native()
    if not target.matrix:
        pytest.skip("this processor has no matrix instructions")
    network = integer_nets.programs(build, Machine(target.lanes, target.registers, matrix=True))
    source = pipeline.source_of(network, "tested")
    assert source.model.count("sec_matrix_layer(&") >= len(LAYERS)
    arrays = integer_nets.arrays_for(network, 18)
    want = integer_nets.wanted(network, arrays)
    content = pipeline.built(source, target)
    for threads in (1, 3):
        with Engine(content, threads) as engine:
            integer_nets.same(network, as_tuple(engine(arrays)), want, "with them")
    plain = integer_nets.programs(build, Machine(target.lanes, target.registers))
    assert "sec_matrix_layer(&" not in pipeline.source_of(plain, "tested").model
    with integer_nets.engine_of(plain) as engine:
        integer_nets.same(plain, as_tuple(engine(arrays)), want, "without them")
    forbidden = ungranted(content, arrays, tmp_path)
    integer_nets.same(network, forbidden, want, "where they are not granted")


def ungranted(content: bytes, arrays: dict[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Run an engine in a process to which Linux grants no tile registers."""
    if platform.machine() != "x86_64":
        pytest.skip("the filter of system calls is for x86-64")
    (folder / "engine").write_bytes(content)
    np.savez(folder / "given.npz", **arrays)
    files = [str(folder / name) for name in ("engine", "given.npz", "made.npz")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *files],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("this system filters no system calls")
    assert done.returncode == 0, done.stderr
    with np.load(folder / "made.npz") as made:
        return [made[name] for name in made.files]
