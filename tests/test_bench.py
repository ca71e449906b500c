"""Measuring against peers: in processes of their own. Nothing is timed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from bench_cases import MARKUP, linear, printed, saved
from secateur import bench, machine
from secateur.bench import inputs
from secateur.bench.contest import Contest
from secateur.bench.process import Process
from secateur.bench.race import Runner
from secateur.compiler import targets
from secateur.compiler.artifact import pack
from secateur.errors import CompileError, FileError, UsageError, printable

pytestmark = pytest.mark.usefixtures("as_shipped")
needs_onnxruntime = pytest.mark.skipif(
    not importlib.util.find_spec("onnxruntime"), reason="ONNX Runtime is not installed"
)
needs_engine = pytest.mark.skipif(
    not importlib.util.find_spec("secateur.compiler.runtime") or not shutil.which("cc"),
    reason="no C compiler",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return linear(tmp_path)


def timed(runners: list[Runner], model: Path, batches: tuple[int, ...]) -> bench.Result:
    contest = Contest("m", runners, inputs.of_onnx(model, {}), machine.cores_for(1))
    return contest.race(batches, rounds=2, seconds=0.001)


@pytest.fixture
def runner(model: Path) -> Runner:
    return Runner("onnxruntime", "onnxruntime", Path(sys.executable), model, 1000)


@needs_onnxruntime
def test_engines_are_timed_and_compared(model: Path, runner: Runner) -> None:
    missing = replace(runner, name="deepsparse", engine="deepsparse")
    found = timed([runner, replace(runner, name="again"), missing], model, (1, 3))
    assert [t.engine for t in found.at(3)] == ["onnxruntime", "again"]
    assert all(len(t.rounds) == 2 and t.runs >= 2 and t.difference == 0 for t in found.timings)
    assert found.timings[0].version.count(".") == 2
    assert found.timings[0].precision == "f32"
    assert found.timings[0].memory is None or found.timings[0].memory > 10**6
    assert {(r.engine, r.batch) for r in found.refusals} == {("deepsparse", 1), ("deepsparse", 3)}
    assert "ModuleNotFoundError" in found.refusals[0].why
    assert "-m pip install deepsparse" in found.refusals[0].why
    with pytest.raises(CompileError, match=r"deepsparse cannot load the network"):
        timed([replace(missing, required=True)], model, (1,))


@needs_onnxruntime
def test_engines_that_run_different_networks_are_not_compared(
    model: Path, tmp_path: Path, runner: Runner
) -> None:
    other = saved(
        tmp_path / "other.onnx",
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ("FLOAT", ["batch", 8])},
        {"w": np.ones((8, 4), np.float32)},
    )
    found = timed([runner, replace(runner, model=other)], model, (2,))
    assert len(found.timings) == 1
    assert "do not run the same network" in found.refusals[0].why
    with pytest.raises(CompileError, match=r"do not run the same network"):
        timed([runner, replace(runner, model=other, required=True)], model, (2,))


def test_a_process_that_dies_or_hangs_is_told(tmp_path: Path) -> None:
    with Process("secateur", Path(sys.executable), 1) as process:
        with pytest.raises(CompileError, match=r"secateur cannot dance the network: AttributeErr"):
            process.ask("dance")
        with pytest.raises(CompileError, match=r"did not answer in 0\.2 s"):
            process.ask("run", seconds=60, warm=0, limit=0.2)
        with pytest.raises(CompileError, match=r"its process ended with status -?\d+"):
            process.ask("memory")


# The whole way.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batches": ()}, r"batch sizes"),
        ({"batches": (0,)}, r"batch sizes"),
        ({"rounds": 1}, r"2 rounds"),
        ({"seconds": 0.0}, r"2 rounds"),
        ({"against": "x"}, r"cannot compare with 'x'"),
        ({"env": ("x=y",)}, r"cannot use environment"),
    ],
)
def test_wrong_requests_are_refused(model: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        bench.run(model, **arguments)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*gone\.onnx"):
        bench.run(tmp_path / "gone.onnx")


def test_peers_need_the_onnx_file_of_an_artifact(tmp_path: Path) -> None:
    engine = tmp_path / "net.so"
    engine.write_bytes(pack(b"a library", targets.find("aarch64-linux"), {}))
    with pytest.raises(UsageError, match=r"--onnx"):
        bench.run(engine, "openvino")


@needs_engine
@needs_onnxruntime
def test_a_network_is_compiled_and_measured(model: Path) -> None:
    found = bench.run(model, batches=(1, 3), threads=1, rounds=2, seconds=0.001, layers=True)
    assert [t.engine for t in found.timings] == ["secateur", "onnxruntime"] * 2
    assert found.timings[1].difference < 1e-5
    assert found.compile is not None
    layers = [step for step in found.steps if step.kernel]
    assert {step.nonzeros for step in layers} == {16}
    assert {(step.batch, step.macs) for step in layers} == {(1, 16), (3, 48)}
    assert "steps at batch 3" in printed(found)


@needs_engine
@needs_onnxruntime
def test_inputs_of_any_names_are_told_apart(tmp_path: Path) -> None:
    """No name in an archive, no argument of a function: `x` and `x.npy` would be one there."""
    names = ["file", "x", "x.npy", "../x", "arr_1", MARKUP[:-1], "allow_pickle"]
    nodes = [onnx.helper.make_node("Sum", names, ["h"], f"sum {MARKUP[:-1]}")]
    nodes.append(onnx.helper.make_node("MatMul", ["h", "w"], ["y"], MARKUP[:-1]))
    weights = {"w": np.eye(3, dtype=np.float32)}
    given: dict[str, tuple[str, list[int | str]]] = {
        name: ("FLOAT", [f"{MARKUP[:-1]} batch", 3]) for name in names
    }
    path = saved(tmp_path / f"{MARKUP[:-1].replace('/', ':')}.onnx", nodes, given, weights)
    found = bench.run(path, batches=(2,), threads=1, rounds=2, seconds=0.001, layers=True)
    assert [t.engine for t in found.timings] == ["secateur", "onnxruntime"]
    assert found.timings[1].difference < 1e-5
    assert MARKUP[:-1] in {step.layer for step in found.steps}
    assert printable(MARKUP[:-1]) in printed(found).replace("\n", "")


@needs_engine
def test_an_engines_process_never_imports_torch() -> None:
    code = "import sys, secateur.compiler.runtime; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
