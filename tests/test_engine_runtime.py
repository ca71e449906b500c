"""Engines run what was compiled, for any batch, threads and callers; engine files are checked."""

from __future__ import annotations

import errno
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_network as tiny
from secateur import files
from secateur.compiler import artifact, targets, toolchain
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target
from secateur.errors import CompileError, FileError, UsageError

BATCHES = (1, 2, 3, 7, 8, 9, 10, 16, 17, 31, 64)


@pytest.fixture(scope="module")
def target() -> Target:
    try:
        return toolchain.native()
    except CompileError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def content(target: Target) -> bytes:
    return compiled(target)


@pytest.fixture
def engine(content: bytes) -> Engine:
    return Engine(content, threads=2)


def compiled(target: Target, weights: bytes | None = None, **options: Any) -> bytes:
    """Build the tiny network; options are those of `tiny.model`."""
    network = tiny.network(fixed=options.get("fixed", False))
    stored = tiny.stored(options.get("section", 0)) if weights is None else weights
    library = toolchain.build(tiny.model(**options), stored, network, target)
    return artifact.pack(library, target, network)


# What comes out.


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_outputs_are_right_to_the_bit_for_any_threads_and_batch(
    content: bytes, threads: int
) -> None:
    engine = Engine(content, threads)
    for batch in BATCHES:
        x = tiny.samples(batch)
        y, _ = engine(x)
        np.testing.assert_array_equal(y, tiny.expected(x))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_remainder_runs_as_a_tile_from_a_quarter_on(content: bytes, threads: int) -> None:
    engine = Engine(content, threads)
    for batch in BATCHES:
        _, program = engine(tiny.samples(batch))
        rest = batch % tiny.TILE
        alone = rest if rest < tiny.TILE / 4 else 0
        assert program.tolist() == [1] * (batch - alone) + [0] * alone


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_tile_that_is_too_little_for_several_threads_is_run_by_one(
    target: Target, threads: int
) -> None:
    engine = Engine(compiled(target, alone=True), threads)
    for batch in BATCHES:
        x = tiny.samples(batch)
        y, program = engine(x)
        np.testing.assert_array_equal(y, tiny.expected(x))
        assert (program // 10 == 1).all()
        assert len(engine.profile(x)) == 4


def test_an_empty_batch_gives_empty_outputs(engine: Engine) -> None:
    y, program = engine(tiny.samples(0))
    assert y.shape == (0, tiny.WIDTH)
    assert program.shape == (0,)


def test_nan_goes_through(engine: Engine) -> None:
    x = tiny.samples(9)
    x[4, 7] = np.nan
    y, _ = engine(x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize(("section", "kind"), [(1, "half"), (2, "bfloat16")])
def test_narrow_weights_are_decoded_exactly(target: Target, section: int, kind: str) -> None:
    weights = np.frombuffer(tiny.stored(section), np.float16 if section == 1 else np.uint16)
    if section == 2:
        weights = (weights.astype(np.uint32) << 16).view(np.float32)
    x = tiny.samples(3)
    y, _ = Engine(compiled(target, section=section))(x)
    np.testing.assert_array_equal(y, tiny.expected(x, weights.astype(np.float32)), kind)


def test_half_infinities_and_nan_are_decoded(target: Target) -> None:
    weights = tiny.WEIGHTS.astype(np.float16)
    weights[:3] = np.inf, -np.inf, np.nan
    x = tiny.samples(1)
    y, _ = Engine(compiled(target, weights.tobytes(), section=1))(x)
    np.testing.assert_array_equal(y, tiny.expected(x, weights.astype(np.float32)))


def test_a_fixed_batch_has_no_batch_axis_of_its_own(target: Target) -> None:
    engine = Engine(compiled(target, fixed=True))
    x = tiny.samples(1)
    np.testing.assert_array_equal(engine(x)[0], tiny.expected(x))
    with pytest.raises(UsageError, match=r"'x' must be float32\[1, 501\], got float32\[2, 501\]"):
        engine(tiny.samples(2))


def test_step_times_are_of_the_program_that_runs_most(engine: Engine) -> None:
    for batch, program in (1, 0), (2, 1), (9, 1), (64, 1):
        names, seconds = zip(*engine.profile(tiny.samples(batch), repeats=2), strict=True)
        assert names == ("Twice", "Turn", "Add", f"Tell {program}")
        assert min(seconds) >= 0
    with pytest.raises(UsageError, match=r"empty batch"):
        engine.profile(tiny.samples(0))


def test_step_names_are_those_of_the_description(target: Target) -> None:
    """The C knows numbers and operators; an engine without a description has no more to tell."""
    names = [["FusedConv a\0*/", "MaxPool \U0001f98a", "Add b", "Tell"], ["1", "2", "3", "4"]]
    steps = [[{"name": name} for name in program] for program in names]
    library = toolchain.build(tiny.model(), tiny.stored(), tiny.network(), target)
    for described, wanted in (
        (steps, names),
        (steps[:1], [names[0], ["Twice", "Turn", "Add", "Tell 1"]]),
        (
            [steps[0][:3], [{"op": "x"}] * 4],
            [["Twice", "Turn", "Add", f"Tell {p}"] for p in (0, 1)],
        ),
        ("none", [["Twice", "Turn", "Add", f"Tell {p}"] for p in (0, 1)]),
    ):
        network = tiny.network() | {"steps": described}
        engine = Engine(artifact.pack(library, target, network))
        for batch, expected in zip((1, 8), wanted, strict=True):
            assert [name for name, _ in engine.profile(tiny.samples(batch))] == expected


# Threads, callers, processes.


@pytest.mark.parametrize("threads", [1, 3])
def test_several_callers_share_an_engine(content: bytes, threads: int) -> None:
    engine = Engine(content, threads)
    wrong: list[int] = []
    start = threading.Barrier(4)

    def call(number: int) -> None:
        start.wait()
        for i in range(60):
            x = tiny.samples(1 + (number * 7 + i) % 20)
            y, _ = engine(x)
            if not np.array_equal(y, tiny.expected(x)):
                wrong.append(i)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_an_engine_that_is_closed_while_it_runs_finishes_first(content: bytes) -> None:
    engine = Engine(content, threads=2)
    found: list[Any] = []
    running = threading.Event()
    x = tiny.samples(40)

    def call() -> None:
        try:
            while True:
                found.append(engine(x)[0])
                running.set()
        except UsageError as error:
            found.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    running.wait()
    engine.close()
    caller.join()
    *outputs, error = found
    assert all(np.array_equal(y, tiny.expected(x)) for y in outputs)
    assert "closed" in str(error)
    engine.close()


FORKED = """
import os, sys, warnings
sys.path.insert(0, sys.argv[1])
import numpy as np, tiny_network as tiny
from secateur.compiler.runtime import Engine

warnings.simplefilter("ignore")
engine, x = Engine.load(sys.argv[2], threads=3), tiny.samples(20)

def right():
    return np.array_equal(engine(x)[0], tiny.expected(x))

assert right()
child = os.fork()
if not child:
    grandchild = os.fork()
    if not grandchild:
        os._exit(0 if right() else 1)
    good = right() and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
    engine.close()
    os._exit(0 if good else 1)
assert right()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_process_goes_on_with_threads_of_its_own(content: bytes, tmp_path: Path) -> None:
    files.write(tmp_path / "tiny.so", content)
    command = [sys.executable, "-c", FORKED, str(Path(__file__).parent), str(tmp_path / "tiny.so")]
    subprocess.run(command, check=True, timeout=60)


def test_running_an_engine_imports_neither_torch_nor_a_compiler() -> None:
    code = """
import sys, secateur.compiler.runtime
sys.exit(any(name in sys.modules for name in ("torch", "onnx", "secateur.compiler.toolchain")))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What goes in.


def test_inputs_by_position_or_by_name(engine: Engine) -> None:
    x = tiny.samples(5)
    for y, _ in (engine(x), engine({"x": x}), engine(np.asfortranarray(x))):
        np.testing.assert_array_equal(y, tiny.expected(x))


def test_strided_and_unaligned_arrays_are_copied(engine: Engine) -> None:
    x = tiny.samples(6)
    wide = np.repeat(x, 2, axis=1)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (wide[:, ::2], x[::-1].copy()[::-1], unaligned, np.r_[x[:1], x][1:]):
        np.testing.assert_array_equal(engine(same)[0], tiny.expected(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), r"'x' must be float32\[batch, 501\], got float64.*astype"),
        (lambda x: x.astype(np.int32), r"got int32\[3, 501\]; convert it: x.astype\(np.float32\)"),
        (lambda x: x[:, :500], r"float32\[batch, 501\], got float32\[3, 500\]$"),
        (lambda x: x[0], r"got float32\[501\]; add an axis for the batch: x\[None\]"),
        (lambda x: x[None], r"got float32\[1, 3, 501\]"),
        (lambda x: np.float32(1), r"got float32\[\]"),
        (lambda x: {"z": x}, r"the inputs are 'x': 'x' missing; 'z' unknown"),
        (lambda x: {"x": x, "z": x}, r"the inputs are 'x': 'z' unknown"),
    ],
)
def test_a_wrong_input_is_named(engine: Engine, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine(change(tiny.samples(3)))


def test_a_wrong_number_of_inputs_is_refused(engine: Engine) -> None:
    x = tiny.samples(1)
    for arrays in ((), (x, x)):
        with pytest.raises(UsageError, match=rf"1 inputs \(x\), but {len(arrays)} arrays"):
            engine(*arrays)


def test_a_number_of_threads_that_cannot_be_is_refused(content: bytes) -> None:
    for threads in (0, -1, 5000):
        with pytest.raises(UsageError, match=rf"1 to 1024 threads, not {threads}"):
            Engine(content, threads)


# What an engine says of itself.


def test_an_engine_says_what_it_is(content: bytes, target: Target) -> None:
    with Engine(content, threads=2) as engine:
        shown = f"<Engine tiny(x: float32[batch, 501]) for native, threads: 2, {len(content):,} by"
        assert repr(engine).startswith(shown)
        info = json.loads(json.dumps(engine.info))
    assert info["target"] == "native"
    assert info["features"] == list(target.features)
    assert info["bytes"] == len(content)
    assert info["inputs"] == [{"name": "x", "dtype": "float32", "shape": [tiny.WIDTH]}]
    with pytest.raises(UsageError, match=r"closed; load it again"):
        engine(tiny.samples(1))
    assert Engine(content).threads >= 1


def test_a_file_that_was_replaced_is_loaded_anew(
    content: bytes, target: Target, tmp_path: Path
) -> None:
    path, x = tmp_path / "tiny.so", tiny.samples(2)
    files.write(path, content)
    first = Engine.load(path)
    files.write(path, compiled(target, bytes(4 * tiny.WIDTH)))
    second = Engine.load(str(path))
    np.testing.assert_array_equal(first(x)[0], tiny.expected(x))
    np.testing.assert_array_equal(second(x)[0], 2 * x)


# Files that are not engines, or not for this machine.


def test_every_truncation_is_found(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tiny.so"
    for length in (0, 1, 63, 64, 1000, len(content) // 2, len(content) - 64, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match=r"cannot read .*tiny\.so: .*truncated"):
            Engine.load(path)


def test_every_damage_is_found(content: bytes) -> None:
    for place in (0, 1000, len(content) - 65, len(content) - 64, len(content) - 50):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(FileError, match=r"cannot read this engine: its checksum is wrong"):
            Engine(bytes(damaged))
    with pytest.raises(FileError, match=r"checksum is wrong"):
        Engine(content[:500] + content[501:])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot read .*absent\.so: No such file"):
        Engine.load(tmp_path / "absent.so")
    with pytest.raises(FileError, match=r"cannot read .*: Is a directory"):
        Engine.load(tmp_path)


def forged(text: bytes, library: int = 0, length: int | None = None) -> bytes:
    """Return an engine without a library, whose checksum is right."""
    body = text + struct.pack("<QQ", library, len(text) if length is None else length)
    return body + sha256(body).digest() + artifact.MAGIC


@pytest.mark.parametrize(
    "content",
    [
        forged(b"{}"),
        forged(b"[]"),
        forged(b"not JSON"),
        forged(b"\xff\xfe"),
        forged(b"{}", 2**63, 2**64 - 1),
        forged(b"{}", length=10**12),
        forged(b'{"format": 1, "network": {"inputs": 5}}'),
        forged(b'{"format": "x", "network": {}}'),
        forged(b'{"format":1,"network":{"inputs":[{"name":"x","dtype":"?!","shape":[]}]}}'),
    ],
)
def test_a_forged_description_is_refused(content: bytes) -> None:
    with pytest.raises(FileError, match=r"cannot read this engine: .*; "):
        Engine(content)


def test_a_file_of_a_later_version_is_refused() -> None:
    with pytest.raises(FileError, match=r"later secateur \(9\.1\).*upgrade this one"):
        artifact.read(forged(b'{"format": 2, "network": {"secateur": "9.1"}}'))


def test_an_engine_for_another_system_is_named() -> None:
    here = (targets.this_system(), targets.this_architecture())
    for target in targets.CROSS.values():
        if (target.system, target.architecture) != here:
            with pytest.raises(
                CompileError, match=rf"for {target.name}\b.*compile the network aga"
            ):
                Engine(artifact.pack(b"", target, tiny.network()))


def test_an_engine_for_a_better_processor_is_refused_before_it_is_loaded(target: Target) -> None:
    if not artifact._instructions():
        pytest.skip("this system does not tell what its processor can do")
    better = replace(target, features=(*target.features, "avx9000"))
    with pytest.raises(CompileError, match=r"needs avx9000, which this processor lacks"):
        Engine(artifact.pack(b"", better, tiny.network()))


def test_the_engine_itself_refuses_a_lesser_processor(target: Target) -> None:
    """Where the system does not tell, and for callers from C."""
    if target.architecture != "x86_64" or "fma4" in artifact._instructions():
        pytest.skip("takes an x86 processor without FMA4")
    newer = replace(target, flags=(*target.flags, "-D__FMA4__"))
    with pytest.raises(CompileError, match=r"native: this engine needs fma4, which this process"):
        Engine(compiled(newer))


def test_a_full_disk_of_temporary_files_is_named(
    content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fdopen", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileError, match=r"temporary file .*No space left on device; free some"):
        Engine(content)
    assert not list(tmp_path.iterdir())


def test_what_is_no_library_is_refused(target: Target) -> None:
    with pytest.raises(CompileError, match=r"the system cannot load this engine"):
        Engine(artifact.pack(b"not a library", target, tiny.network()))
