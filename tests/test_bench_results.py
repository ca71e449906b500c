"""What measuring gives: differences, speed-ups, cost, energy, the roofline, and the table of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench_cases import MARKUP, printed, result, timing
from secateur import machine
from secateur.bench import energy, roofline
from secateur.bench.race import difference
from secateur.bench.result import Refusal, Speedup, Step
from secateur.errors import CompileError, printable


@pytest.mark.parametrize("name", [MARKUP, "[/]", "[bold", "\\[", ":warning:", "\r" * 9])
def test_names_in_tables_are_text(name: str) -> None:
    steps = (Step(1, name, name, name, 1, 2, 1e-3),)
    refusal = Refusal("openvino", 1, f"cannot load {name}")
    mine = replace(timing("secateur", 1, 1.0), version=name)
    shown = printed(replace(result(mine, steps=steps, refusals=(refusal,)), model=name))
    assert all(line.isprintable() for line in shown.splitlines())
    last = printable(name.rsplit("\n", maxsplit=1)[-1])
    assert shown.count(last) >= 6  # op, layer, kernel; version; refusal; model
    assert f"{printable(name)}, random inputs" in " ".join(shown.split("\n"))


def test_a_long_name_takes_a_few_lines_of_a_table() -> None:
    name = "begin" + "\U0001f98a" * 100_000 + "end"
    shown = printed(result(timing("secateur", 1, 1.0), steps=(Step(1, "op", name, "", 1, 2, 1.0),)))
    assert "begin" in shown
    assert "end" in shown
    assert len(shown) < 5000


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
        Step(1, "QuadConv", "conv2", "int8 sparse", 4321, 5_000_000, 1e-3),
    )
    found = result(
        timing("secateur", 1, 2e-3, 2e-3, price=3.6, joules=0.25),
        timing("openvino", 1, 1e-3, 1e-3, price=3.6, difference=1e-6),
        refusals=(Refusal("deepsparse", 1, "deepsparse cannot load the network: no"),),
        steps=steps,
        roofline=roofline.Roofline(20e9, 19e9, 40e9, 2),
        compile=1.25,
    )
    text = printed(found)
    assert "secateur is slower than openvino at batch 1: 0.50× (0.50–0.50)" in text
    assert "not measured at batch 1: deepsparse cannot load the network: no" in text
    for figure in ("2.000", "500", "1.0e-06", "0.25", "cost a", "1,234", "50 %", "25 %", "10"):
        assert figure in text
    assert "2 threads, bound to cores 0,1" in text
    assert "Compiled in 1.2 s" in text
    assert "an estimate" in text


def test_the_table_fits_a_terminal_of_80() -> None:
    facts = {"price": 3.6, "joules": 0.25, "version": "2026.4.1", "memory": 2_345_000_000}
    found = result(
        timing("secateur", 64, 12.3456, 12.3456, **facts),
        timing("onnxruntime-int8", 64, 1.0, 1.0, precision="int8 (QDQ)", difference=0.1, **facts),
        timing("openvino-int8", 64, 2.0, 2.0, precision="int8, rest bf16", **facts),
    )
    text = printed(found, width=80)
    assert "…" not in text
    for figure in ("onnxruntime-int8", "int8, rest bf16", "12345.600", "(0.08–0.08)", "2345"):
        assert figure in text


def test_notes_on_quantised_networks_are_shown() -> None:
    found = result(timing("secateur", 1, 1.0), notes=("a-peer: calibrated on random samples",))
    assert "a-peer: calibrated on random samples" in printed(found)
    assert json.loads(found.json())["notes"] == ["a-peer: calibrated on random samples"]


def test_a_busy_machine_is_told() -> None:
    found = result(timing("secateur", 1, 1.0))
    assert "when the machine is quiet" not in printed(replace(found, others=0.01))
    assert "other processes took 30 % of the cores" in printed(replace(found, others=0.3))


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
@pytest.mark.parametrize("named", [None, "cc -DNOTHING"])
def test_the_roofline_is_measured(monkeypatch: pytest.MonkeyPatch, named: str | None) -> None:
    if named:
        monkeypatch.setenv("CC", named)
    found = roofline.measure(machine.cores_for(1))
    assert found.threads == 1
    assert found.registers > 1e8
    assert found.cache > 1e8


def test_the_roofline_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CompileError, match=r"--layers.*'no-such-compiler'.*install it"):
        roofline.measure((0,))
