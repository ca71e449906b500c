"""The same quantised networks on other machines: the same numbers to the bit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dynamic_nets
import integer_nets
from integer_nets import QuantisedNet
from kernel_nets import as_tuple
from secateur.compiler import pipeline, targets, toolchain
from secateur.compiler.kernels import Machine
from secateur.compiler.network import Network
from secateur.compiler.ops import quads
from secateur.compiler.targets import Target

NETWORKS, FEW = 12, 5
"""How many; the few are for other machines, whose compiler and simulator take long."""

SAMPLES = 19
"""A tile of sixteen and some, or several of four."""

X86 = {
    # what multiplies: vectors, registers, flags
    "AVX2 alone": (8, 16, "-march=x86-64-v3"),
    "AVX-512 alone": (16, 32, "-march=x86-64-v4"),
    "AVX-VNNI": (8, 16, "-march=x86-64-v3 -mavxvnni"),
    "AVX-512 VNNI of half the width": (8, 16, "-march=x86-64-v4 -mavx512vnni"),
    "AVX-512 VNNI": (16, 32, "-march=x86-64-v4 -mavx512vnni"),
    "AVX-512 VNNI and VBMI": (16, 32, "-march=x86-64-v4 -mavx512vnni -mavx512vbmi"),
    "plain C": (4, 16, "-march=x86-64"),
}
NEEDS = {
    "-mavxvnni": "avx_vnni",
    "x86-64-v4": "avx512bw",
    "-mavx512vnni": "avx512_vnni",
    "-mavx512vbmi": "avx512vbmi",
}

CROSSED = {
    # what runs it, where it may be chosen on a processor that has no more than the target needs
    "aarch64-linux": ("qemu-aarch64-static", "-cpu", "cortex-a72"),
    "aarch64-dotprod": ("qemu-aarch64-static", "-cpu", "cortex-a76"),
    "aarch64-i8mm": ("qemu-aarch64-static", "-cpu", "max"),
    "armv7-linux": ("qemu-arm-static",),
    "riscv64-linux": ("qemu-riscv64-static",),
    "wasm32-wasi": ("node", "--no-warnings"),
    "x86_64-v3-vnni": (),
    "x86_64-v4-vnni": (),
}
SLOW = ("armv7-linux", "riscv64-linux")
"""Their simulators take half a minute, and the same C is tried as "plain C" and on 64-bit Arm."""

SCRIPT = """
import { readFileSync } from "node:fs"; import { WASI } from "node:wasi";
const [, , file, ...rest] = process.argv;
const wasi = new WASI({ version: "preview1", args: ["main", ...rest] });
const module = await WebAssembly.compile(readFileSync(file));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
"""


def networks(machine: Machine, first: int = 0, count: int = NETWORKS) -> Network:
    """Return some of a fixed set of networks, planned; every other layer skips zeros."""

    def build(net: QuantisedNet) -> None:
        integer_nets.drawn(range(first, first + count), 1)(net)
        integer_nets.every_operator(net)

    network = integer_nets.programs(build, machine)
    found = {node.op for node in network.graphs[0].nodes}
    missing = {op.name for op in quads.OPERATORS} - found
    assert not missing
    sparse = {name: 4 * (k % 2) for k, name in enumerate(network.sparse)}
    return replace(network, sparse=sparse)


def expected(network: Network) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    arrays = integer_nets.arrays_for(network, SAMPLES)
    return arrays, integer_nets.wanted(network, arrays)


def first(turn: int, name: str) -> int:
    """Return where a turn's networks begin: in later turns every machine has others."""
    return turn and 10_000 * turn + 100 * [*X86, *CROSSED].index(name)


def features() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii")
    except OSError:
        return set()
    return {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}


def native_target(name: str) -> Target:
    """Return a target of this machine with some of its instructions; skip where it has not them."""
    if targets.this_architecture() != "x86_64" or not shutil.which("cc"):
        pytest.skip("no x86 compiler")
    lanes, _, text = X86[name]
    needed = {"avx2"} | {its for part, its in NEEDS.items() if part in text}
    if missing := needed - features():
        pytest.skip(f"this processor has no {', '.join(missing)}")
    flags = tuple(text.split())
    return replace(toolchain.native(), lanes=lanes, flags=flags, gnu_flags=flags, features=())


def crossed(name: str) -> tuple[Target, tuple[str, ...]]:
    """Return a target and what runs its programs here; skip where nothing does."""
    pytest.importorskip("ziglang")
    target, command = targets.CROSS[name], CROSSED[name]
    if command and shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    if not command and (missing := set(target.features) - features()):
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    return target, command


@pytest.mark.parametrize("name", X86)
def test_every_instruction_set_of_this_machine_gives_the_same(name: str, turn: int) -> None:
    target = native_target(name)
    network = networks(Machine(target.lanes, X86[name][1]), first(turn, name))
    arrays, want = expected(network)
    with integer_nets.engine_of(network, target, threads=2) as engine:
        integer_nets.same(network, as_tuple(engine(arrays)), want, name)


@pytest.mark.parametrize("name", ["AVX2 alone", "aarch64-linux", "wasm32-wasi"])
def test_scales_known_at_run_time_give_the_same(name: str, tmp_path: Path) -> None:
    if name in X86:
        target = native_target(name)
        network = dynamic_nets.network(range(4), Machine(target.lanes, X86[name][1]))
        dynamic_nets.check(network, target, name)
        return
    target, command = crossed(name)
    network = dynamic_nets.network(range(2), Machine(target.lanes, target.registers))
    arrays = dynamic_nets.arrays_for(network.graphs[0])
    got = of_program(network, target, command, arrays, tmp_path)
    integer_nets.same(network, got, dynamic_nets.wanted(network, arrays), name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW else n for n in CROSSED]
)
def test_other_machines_give_the_same(name: str, turn: int, tmp_path: Path) -> None:
    target, command = crossed(name)
    network = networks(Machine(target.lanes, target.registers), first(turn, name), FEW)
    arrays, want = expected(network)
    got = of_program(network, target, command, arrays, tmp_path)
    integer_nets.same(network, got, want, name)


def of_program(
    network: Network,
    target: Target,
    command: Sequence[str],
    arrays: dict[str, np.ndarray],
    folder: Path,
) -> list[np.ndarray]:
    """Run networks as a program of another machine."""
    source = pipeline.source_of(network, "tested")
    program = folder / "main"
    program.write_bytes(
        toolchain.build(
            {"model.c": source.model}, source.stored, source.network, target, program=True
        )
    )
    program.chmod(0o755)
    files: list[str] = [str(program)]
    if target.system == "wasi":
        (folder / "run.mjs").write_text(SCRIPT, encoding="ascii")
        files.insert(0, str(folder / "run.mjs"))
    graph = network.graphs[0]
    done = subprocess.run(
        [*command, *files, str(SAMPLES if network.batched else 1), "1"],
        input=b"".join(arrays[name].tobytes() for name in graph.inputs),
        capture_output=True,
        check=True,
    )
    numbers, got = np.frombuffer(done.stdout, np.float32), []
    for name in graph.outputs:
        shape = graph.types[name].shape
        shape = (SAMPLES, *shape[1:]) if network.batched else shape
        size = int(np.prod(shape))
        got.append(numbers[:size].reshape(shape))
        numbers = numbers[size:]
    assert not numbers.size
    return got
