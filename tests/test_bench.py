"""Measuring against peers: what is measured, what is refused, what is printed. Nothing is timed."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from secateur import bench, machine
from secateur.bench import comparison, energy, inputs, roofline
from secateur.bench.process import Process
from secateur.bench.race import Race, Runner, difference
from secateur.bench.result import Refusal, Result, Speedup, Step, Timing
from secateur.compiler import targets
from secateur.compiler.artifact import pack
from secateur.errors import CompileError, FileError, UsageError, printable

pytestmark = pytest.mark.usefixtures("as_shipped")
onnx = pytest.importorskip("onnx")
needs_onnxruntime = pytest.mark.skipif(
    not importlib.util.find_spec("onnxruntime"), reason="ONNX Runtime is not installed"
)
needs_engine = pytest.mark.skipif(
    not importlib.util.find_spec("secateur.compiler.runtime") or not shutil.which("cc"),
    reason="no C compiler",
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A linear layer of 8 to 4 with half its weights zero, and ReLU; the batch is dynamic."""
    weights = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    weights[::2] = 0
    return saved(
        tmp_path / "model.onnx",
        [
            onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
            onnx.helper.make_node("Relu", ["h"], ["y"]),
        ],
        {"x": ("FLOAT", ["batch", 8])},
        {"w": weights},
    )


def saved(
    path: Path,
    nodes: list[Any],
    given: dict[str, tuple[str, list[int | str]]],
    constants: dict[str, Any],
) -> Path:
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [
            onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)
            for name, (kind, shape) in given.items()
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def timing(engine: str, batch: int, *rounds: float, **more: Any) -> Timing:
    facts = {"p50": rounds[0], "p95": rounds[-1], "runs": 9, "load": 0.5, "memory": 50_000_000}
    facts |= {"file": 1000, "difference": 0.0, "version": "1.0"}
    return Timing(engine=engine, batch=batch, rounds=rounds, **(facts | more))


def result(*timings: Timing, **more: Any) -> Result:
    return Result(
        model="net.onnx",
        date="2026-01-01 00:00 UTC",
        machine={"cpu": "a CPU", "os": "Linux"},
        cores=(0, 1),
        pinned=True,
        rounds=3,
        seconds=0.2,
        timings=timings,
        **more,
    )


def printed(found: Result) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(bench.view(found))
    return text.getvalue()


MARKUP = "[/b]\x1b[2J[red]x:smile:\n\u202e\udc80"


@pytest.mark.parametrize("name", [MARKUP, "[/]", "[bold", "\\[", ":warning:", "\r" * 9])
def test_names_in_tables_are_text(name: str) -> None:
    steps = (Step(1, name, name, name, 1, 2, 1e-3),)
    refusal = Refusal("openvino", 1, f"cannot load {name}")
    mine = replace(timing("secateur", 1, 1.0), version=name)
    shown = printed(replace(result(mine, steps=steps, refusals=(refusal,)), model=name))
    assert all(line.isprintable() for line in shown.splitlines())
    last = printable(name.rsplit("\n", maxsplit=1)[-1])
    assert shown.count(last) >= 6  # op, layer, kernel; version; refusal; model
    assert f"{printable(name)}, float32" in " ".join(shown.split("\n"))


def test_a_long_name_takes_a_few_lines_of_a_table() -> None:
    name = "begin" + "\U0001f98a" * 100_000 + "end"
    shown = printed(result(timing("secateur", 1, 1.0), steps=(Step(1, "op", name, "", 1, 2, 1.0),)))
    assert "begin" in shown
    assert "end" in shown
    assert len(shown) < 5000


# Energy, roofline.


def test_energy_is_counted_over_a_wrap(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    part = tmp_path / "intel-rapl:0:0"  # is counted in the package
    for folder in (zone, part):
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("10000000\n")
        (folder / "energy_uj").write_text("9000000\n")
    counters = energy.Energy(tmp_path)
    before = counters.read()
    (zone / "energy_uj").write_text("500000\n")
    assert counters.joules(before, counters.read()) == 1.5


def test_energy_is_none_where_it_cannot_be_read(tmp_path: Path) -> None:
    assert energy.Energy(tmp_path).joules((), ()) is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").write_text("10\n")
    counters = energy.Energy(tmp_path)
    assert counters.joules(counters.read(), counters.read()) is None


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_the_roofline_is_measured() -> None:
    found = roofline.measure(machine.cores_for(1))
    assert found.threads == 1
    assert found.registers > 1e8
    assert found.cache > 1e8


def test_the_roofline_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match=r"install gcc or clang"):
        roofline.measure((0,))


# Inputs.


def test_inputs_follow_the_model(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "m.onnx",
        [onnx.helper.make_node("Gather", ["w", "ids"], ["y"])],
        {"ids": ("INT64", ["batch", 5]), "mask": ("BOOL", ["batch", 5]), "w": ("FLOAT", [2, 3])},
        {"w": np.zeros((2, 3), np.float32)},
    )
    given = inputs.of_onnx(path, {})
    assert [(i.name, i.dtype, i.shape) for i in given] == [
        ("ids", "int64", ("batch", 5)),
        ("mask", "bool", ("batch", 5)),
    ]
    drawn = inputs.draw(given, 3)
    assert drawn["ids"].dtype == np.int64
    assert set(np.unique(drawn["ids"])) == {0, 1}  # within any table of embeddings
    assert drawn["mask"].shape == (3, 5)
    assert inputs.axes(given, 3) == {"batch": 3}
    np.testing.assert_array_equal(drawn["ids"], inputs.draw(given, 3)["ids"])


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = saved(tmp_path / "m.onnx", [node], {"x": ("FLOAT", [2, 3])}, {})
    given = inputs.of_onnx(path, {})
    assert inputs.draw(given, 2)["x"].shape == (2, 3)
    with pytest.raises(UsageError, match=r"fixed at 2.*--batch 2"):
        inputs.draw(given, 64)


def test_another_dynamic_axis_must_be_fixed(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    path = saved(tmp_path / "m.onnx", [node], {"x": ("FLOAT", ["n", "length"])}, {})
    with pytest.raises(UsageError, match=r"--input-shape x="):
        inputs.of_onnx(path, {})
    with pytest.raises(UsageError, match=r"has 2 axes"):
        inputs.of_onnx(path, {"x": (1, 7, 7)})
    given = inputs.of_onnx(path, {"x": (1, 7)})
    assert inputs.draw(given, 2)["x"].shape == (2, 7)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\xff not protobuf")
    with pytest.raises(FileError, match=r"is it an ONNX file"):
        inputs.of_onnx(path, {})


def test_external_weights_count_as_the_models_size(model: Path, tmp_path: Path) -> None:
    assert inputs.onnx_bytes(model) == model.stat().st_size
    apart = tmp_path / "apart"
    apart.mkdir()
    onnx.save(
        onnx.load(model),
        apart / "m.onnx",
        save_as_external_data=True,
        location="w",
        size_threshold=0,
    )
    files = [apart / "m.onnx", apart / "w"]
    assert inputs.onnx_bytes(files[0]) == sum(file.stat().st_size for file in files)


# Values.


def test_differences_are_relative_to_the_largest_output() -> None:
    a = [np.array([1.0, -4.0], np.float32), np.array([7])]
    b = [np.array([1.0, -4.2], np.float32), np.array([8])]  # of integers nothing is said
    assert difference(a, b) == pytest.approx(0.2 / 4.2)
    assert difference(a, a) == 0
    assert difference(a, [b[0]]) == float("inf")
    assert np.isnan(difference([np.array([np.nan])], [np.array([1.0])]))


def test_speedups_pair_the_rounds() -> None:
    ours = timing("secateur", 1, 1.0, 2.0, 4.0)
    theirs = timing("openvino", 1, 2.0, 4.0, 8.0)  # twice as slow, whatever else goes on
    found = Speedup.of(ours, theirs)
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_throughput_and_cost() -> None:
    found = timing("secateur", 64, 0.1, 0.32, 9.0, price=7.2)
    assert found.throughput == pytest.approx(200)
    assert found.cost == pytest.approx(7.2 / 3600 / 200 * 1e6)
    assert timing("secateur", 64, 1.0, 1.0).cost is None


def test_a_result_names_losses_and_the_best_peer() -> None:
    found = result(
        timing("secateur", 1, 1.0, 1.0),
        timing("onnxruntime", 1, 3.0, 3.0),
        timing("openvino", 1, 2.0, 2.0),
        timing("secateur", 64, 1.0, 1.0),
        timing("openvino", 64, 0.5, 0.5),
    )
    assert found.batches == (1, 64)
    assert [(loss.over, loss.batch, loss.median) for loss in found.losses] == [
        ("openvino", 64, 0.5)
    ]
    worst = found.worst(1, ("onnxruntime", "openvino"))
    assert worst is not None
    assert worst.over == "openvino"
    assert found.worst(64, ("onnxruntime",)) is None


def test_a_result_is_json() -> None:
    step = Step(1, "FusedConv", "conv1", "sparse", 10, 1000, 1e-3)
    found = result(timing("secateur", 1, 1.0), timing("openvino", 1, 2.0), steps=(step,))
    content = json.loads(found.json())
    assert content["timings"][1]["throughput"] == 0.5
    assert content["speedups"][0]["median"] == 2
    assert content["steps"][0]["speed"] == pytest.approx(2e6)


def test_the_table_tells_everything() -> None:
    steps = (
        Step(1, "FusedConv", "conv1", "sparse", 1234, 5_000_000, 1e-3),
        Step(1, "Softmax", "softmax", "", 0, 0, 1e-3),
    )
    found = result(
        timing("secateur", 1, 2e-3, 2e-3, price=3.6, joules=0.25),
        timing("openvino", 1, 1e-3, 1e-3, price=3.6, difference=1e-6),
        refusals=(Refusal("deepsparse", 1, "deepsparse cannot load the network: no"),),
        steps=steps,
        roofline=roofline.Roofline(20e9, 19e9, 2),
        compile=1.25,
    )
    text = printed(found)
    assert "secateur is slower than openvino at batch 1: 0.50× (0.50–0.50)" in text
    assert "not measured at batch 1: deepsparse cannot load the network: no" in text
    for figure in ("2.000", "500", "1.0e-06", "0.25", "cost per million", "1,234", "50 %", "10"):
        assert figure in text
    assert "2 threads, bound to cores 0,1" in text
    assert "Compiled in 1.2 s" in text
    assert "an estimate" in text


def test_a_busy_machine_is_told() -> None:
    found = result(timing("secateur", 1, 1.0))
    assert "when the machine is quiet" not in printed(replace(found, others=0.01))
    assert "other processes took 30 % of the cores" in printed(replace(found, others=0.3))


# Real processes.


@pytest.fixture
def race() -> Race:
    return Race(machine.cores_for(1), rounds=2, seconds=0.001)


@needs_onnxruntime
def test_engines_are_timed_and_compared(model: Path, race: Race) -> None:
    one = Runner("onnxruntime", Path(sys.executable), model, 1000)
    missing = replace(one, engine="deepsparse")
    found = comparison.compete(
        [one, one, missing], inputs.of_onnx(model, {}), (1, 3), race, name="m"
    )
    assert [t.engine for t in found.at(3)] == ["onnxruntime", "onnxruntime"]
    assert all(len(t.rounds) == 2 and t.runs >= 2 and t.difference == 0 for t in found.timings)
    assert found.timings[0].version.count(".") == 2
    assert found.timings[0].memory is None or found.timings[0].memory > 10**6
    assert {(r.engine, r.batch) for r in found.refusals} == {("deepsparse", 1), ("deepsparse", 3)}
    assert "ModuleNotFoundError" in found.refusals[0].why
    with pytest.raises(CompileError, match=r"deepsparse cannot load the network"):
        comparison.compete(
            [replace(missing, required=True)], inputs.of_onnx(model, {}), (1,), race, name="m"
        )


@needs_onnxruntime
def test_engines_that_run_different_networks_are_not_compared(
    model: Path, tmp_path: Path, race: Race
) -> None:
    other = saved(
        tmp_path / "other.onnx",
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ("FLOAT", ["batch", 8])},
        {"w": np.ones((8, 4), np.float32)},
    )
    one = Runner("onnxruntime", Path(sys.executable), model, 1000)
    found = comparison.compete(
        [one, replace(one, model=other)], inputs.of_onnx(model, {}), (2,), race, name="m"
    )
    assert len(found.timings) == 1
    assert "do not run the same network" in found.refusals[0].why


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
