"""The networks of benchmarks/suite.py, and what it makes of records; nothing is timed."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bench_cases import result, timing

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = ("lenet300", "ds-cnn", "vad", "bert-tiny", "tc-resnet")
"""Exported here; the whole suite takes minutes."""


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("suite_nets")


@pytest.fixture
def suite(nets: Any) -> Any:
    return importlib.import_module("suite")


def record(folder: Path, net: str, sparsity: float, speed: float, apart: float = 1e-6) -> None:
    content = {"net": net, "kind": "a kind", "sparsity": sparsity}
    found = result(
        timing("secateur", 1, 1.0, 1.0),
        timing("onnxruntime", 1, speed, speed, difference=apart),
        compile=2.5,
    )
    path = folder / f"{net}-{sparsity:g}.json"
    path.write_text(json.dumps(content | json.loads(found.json())))


def test_there_are_networks_of_many_kinds_each_with_its_publication(nets: Any) -> None:
    assert len(nets.NETWORKS) >= 40
    assert len({network.kind for network in nets.NETWORKS.values()}) >= 20
    builders = [network.build for network in nets.NETWORKS.values()]
    assert len(set(builders)) == len(builders)
    for name, network in nets.NETWORKS.items():
        assert re.fullmatch(r"[a-z0-9-]+", name)
        first, *_, last = network.build.__doc__.strip().split("\n\n")
        assert re.search(r"(19|20)\d\d", first), f"{name} cites nothing"
        assert "Figures: " in last, f"{name} does not say what it takes"


@pytest.mark.parametrize("name", TINY)
def test_a_network_is_exported_for_one_sample(nets: Any, name: str, tmp_path: Path) -> None:
    path = nets.onnx_file(name, 0.8, tmp_path)
    assert path == tmp_path / f"{name}-0.8-0.onnx"
    graph = onnx.load(path).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    before = path.stat().st_mtime_ns
    assert nets.onnx_file(name, 0.8, tmp_path).stat().st_mtime_ns == before


def test_layers_are_cut_but_for_the_first_depthwise_ones_and_outputs(nets: Any) -> None:
    layers = {
        name: layer
        for name, layer in nets.module("ds-cnn", 0.8).named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    }
    zeros = {name: np.mean(layer.weight.detach().numpy() == 0) for name, layer in layers.items()}
    dense = [name for name, share in zeros.items() if share < 0.01]
    first, *_, last = layers
    depthwise = [name for name, layer in layers.items() if getattr(layer, "groups", 1) > 1]
    assert dense == sorted({first, last, *depthwise}, key=list(layers).index)
    assert all(zeros[name] == pytest.approx(0.8, abs=0.001) for name in layers if name not in dense)


def test_the_same_seed_gives_the_same_network(nets: Any) -> None:
    one, other = (nets.module("vad", 0.8).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_measured_becomes_a_table_and_goals(
    suite: Any, nets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for net in nets.NETWORKS:
        record(tmp_path, net, 0.0, 0.5 if net == "crnn" else 1.0)
        record(tmp_path, net, 0.8, 4.0)
    assert suite.main([str(tmp_path), "--report"]) == 1
    said = capsys.readouterr().out
    assert "| crnn | a kind | 1000.000 | 500.000 | 0.50 (0.50–0.50) | 1.0e-06 | 2.5 |" in said
    count = len(nets.NETWORKS)
    assert f"met: 80 % zeros: geometric mean at least 3.0× onnxruntime; 4.00, {count} netw" in said
    assert "met: 80 % zeros: slowest network at least 1.2× onnxruntime; 4.00, " in said
    assert "MISSED: dense: slowest network at least 0.7× onnxruntime; 0.50, crnn" in said
    assert "met: dense: geometric mean at least 0.9× onnxruntime; 0.98, " in said
    assert said.count("within 0.0001 of onnxruntime's; ") == 2
    record(tmp_path, "crnn", 0.0, 0.8)
    assert suite.main([str(tmp_path), "--report"]) == 0


def test_a_network_that_fails_or_differs_is_a_line_and_a_missed_goal(
    suite: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise ValueError("no\nkernel")

    record(tmp_path, "unet", 0.8, 4.0, apart=0.01)
    monkeypatch.setattr(suite, "run", refused)
    arguments = ["--nets", "lenet300,unet", "--sparsities", "0.8"]
    assert suite.main([str(tmp_path), *arguments]) == 1
    said = capsys.readouterr().out
    assert "- lenet300, 80 %: ValueError: no kernel" in said
    assert "MISSED: 80 % zeros: every network compiled, and its outputs within 0.0001" in said
    assert "; wrong: lenet300, unet" in said
    assert "NOT MEASURED: 80 % zeros: slowest network" in said
    assert "NOT MEASURED: dense: geometric mean at least 0.9× onnxruntime\n" in said


def test_steps_of_the_slowest_are_told(
    suite: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, "unet", 0.8, 4.0)
    path = tmp_path / "unet-0.8.json"
    content = json.loads(path.read_text())
    content["steps"] = [
        {"op": "conv", "layer": "back", "kernel": "sparse", "seconds": 0.003},
        {"op": "max_pool", "layer": "", "kernel": "", "seconds": 0.001},
    ]
    path.write_text(json.dumps(content))
    suite.main([str(tmp_path), "--report"])
    said = capsys.readouterr().out
    assert "conv back sparse 3.000 ms (75%), max_pool 1.000 ms (25%)" in said
