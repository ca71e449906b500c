"""Engines run what was compiled, for any batch, threads and callers."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_network as tiny
from secateur import files
from secateur.compiler import artifact, toolchain
from secateur.compiler.ports import Port
from secateur.compiler.runtime import Engine
from secateur.compiler.targets import Target
from secateur.errors import CompileError, UsageError
from tiny_engine import compiled, native

BATCHES = (1, 2, 3, 7, 8, 9, 10, 16, 17, 31, 64)


@pytest.fixture(scope="module")
def target() -> Target:
    return native()


@pytest.fixture(scope="module")
def content(target: Target) -> bytes:
    return compiled(target)


@pytest.fixture
def engine(content: bytes) -> Engine:
    return Engine(content, threads=2)


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


@pytest.mark.parametrize("alone", [False, True])
def test_samples_that_a_tile_lacks_are_zeros(target: Target, alone: bool) -> None:
    """Not what another call left, on which arithmetic may take a hundred times as long."""
    engine = Engine(compiled(target, alone=alone), 2)
    for batch in (tiny.TILE, 1, tiny.TILE - 1, tiny.TILE // 2):
        _, program = engine(tiny.samples(batch))
        assert (program < 100).all()


def test_an_engine_that_worked_a_moment_ago_can_be_closed(content: bytes) -> None:
    """A thread that was just leaving its work took the call to stop for one that it had seen."""
    x = tiny.samples(3)
    for _ in range(1500):
        with Engine(content, 4) as engine:
            engine(x)


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


def test_one_sample_comes_in_any_form(engine: Engine) -> None:
    x = tiny.samples(1)
    fixed = np.frombuffer(x.tobytes(), np.float32).reshape(x.shape)  # may not be written to
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    for same in (x, fixed, unaligned, np.repeat(x, 2, axis=1)[:, ::2], x.view(np.matrix)):
        np.testing.assert_array_equal(engine(same)[0], tiny.expected(x))


@pytest.mark.parametrize("order", [np.asarray, np.asfortranarray])
def test_booleans_are_0_and_1_whatever_their_bytes(order: Callable[[Any], Any]) -> None:
    """Masks of 255 are often looked at as booleans."""
    levels = np.array([[0, 1, 255], [7, 0, 0]], np.uint8)
    array = Port({"name": "mask", "dtype": "bool", "shape": [3]}).check(
        order(levels.view(bool)), True
    )
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array.view(np.uint8), levels > 0)


class WithGradients:
    """Refuses to be an array, as tensors of torch that need gradients do."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("detach it.\nMore of that.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.float64), r"'x' must be float32\[batch, 501\], got float64.*astype"),
        (lambda x: x.astype(np.int32), r"got int32\[3, 501\]; convert it: x.astype\(np.float32\)"),
        (lambda x: x[:, :500], r"float32\[batch, 501\], got float32\[3, 500\]$"),
        (lambda x: x[0], r"got float32\[501\]; add an axis for the batch: x\[None\]"),
        (lambda x: x[None], r"got float32\[1, 3, 501\]"),
        (lambda x: np.float32(1), r"got float32\[\]"),
        (lambda x: x.astype(">f4"), r"got >f4\[3, 501\]; convert it: x.astype\(np.float32\)"),
        (lambda x: [[1.0], []], r"'x' must be .*no array of a list: setting an array element"),
        (lambda x: WithGradients(), r"'x' must be .*no array of a WithGradients: detach it$"),
        (lambda x: {"z": x}, r"the inputs are 'x': 'x' missing; 'z' unknown"),
        (lambda x: {"x": x, "z": x}, r"the inputs are 'x': 'z' unknown"),
    ],
)
def test_a_wrong_input_is_named(engine: Engine, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine(change(tiny.samples(3)))


def test_a_batch_that_memory_cannot_hold_is_refused(engine: Engine) -> None:
    many = np.broadcast_to(tiny.samples(1), (2**50, 501))
    with pytest.raises(CompileError, match="out of memory for the arrays; give fewer samples"):
        engine(many)
    np.testing.assert_array_equal(engine(many[:5])[0], tiny.expected(many[:5]))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_engine_is_neither_copied_nor_pickled(engine: Engine, how: Callable[[Any], Any]) -> None:
    with pytest.raises(UsageError, match="load its file again where it is needed"):
        how(engine)


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


ON_ONE_CORE = """
import os, sys
import numpy as np
sys.path[:0] = sys.argv[2:]
import tiny_network as tiny
from secateur.compiler.runtime import Engine
engine = Engine.load(sys.argv[1], threads=3)
x = tiny.samples(5)
engine(x)
for thread in os.listdir("/proc/self/task"):  # none knows that there is but one core now
    os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
for _ in range(2000):
    np.testing.assert_array_equal(engine(x)[0], tiny.expected(x))
"""


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="threads are listed on Linux alone"
)
def test_work_of_threads_that_have_no_core_is_done_by_the_caller(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.so"
    path.write_bytes(content)
    here = [str(Path(__file__).parent)]
    subprocess.run([sys.executable, "-c", ON_ONE_CORE, str(path), *here], check=True, timeout=120)
