"""The accuracy benchmark end to end, on a few made-up images."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from secateur import Gates, Rung
from secateur.data.images import Augmentation, ImageData, Split
from secateur.nets.mlp import Mlp

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def few_images() -> ImageData:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 10
        images = torch.randint(0, 128, (count, 8, 8, 3), generator=generator)
        return Split((images + 12 * labels[:, None, None, None]).byte(), labels)

    return ImageData(
        name="few",
        train=split(256),
        validation=split(40),
        test=split(40),
        classes=tuple("0123456789"),
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        augmentation=Augmentation(pad=1, flip=True),
    )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("accuracy")
    table = importlib.import_module("accuracy_nets")
    net = table.NETS["convnet"]
    assert net.phase1 is not None

    def short(training: object) -> object:
        return replace(training, recipe=replace(training.recipe, epochs=1))  # type: ignore[type-var, attr-defined]

    small = replace(
        net,
        net="mlp",
        phase1=replace(net.phase1, epochs=2),
        joint=short(net.joint),
        frozen=short(net.frozen),
    )
    monkeypatch.setitem(table.NETS, "convnet", small)
    monkeypatch.setattr(module.data, "load", lambda *_, **__: few_images())
    monkeypatch.setattr(module.nets, "build", lambda name: Mlp((3, 8, 8), 10, hidden=(48, 32)))
    return module


def run(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments, "--nets", "convnet"])
    return bench.main()  # type: ignore[no-any-return]


def test_every_condition_gives_a_record_once_and_a_table(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conditions = [*bench.CONDITIONS, "joint gate_rate=3 teach=0.5"]
    arguments = [str(tmp_path), "--seeds", "0", "1", "--device", "cpu", "--conditions", *conditions]
    assert run(bench, monkeypatch, *arguments) == 0
    records = {path: path.read_text() for path in tmp_path.glob("*.json")}
    assert len(records) == 2 * len(conditions)
    for text in records.values():
        record = json.loads(text)
        assert all(0 <= each["test"] <= 100 for each in record["accuracy"].values())
    settings = {kept["condition"]: kept["settings"] for kept in map(json.loads, records.values())}
    assert settings["finetuned"]["follow"] == 0.9  # the network that was cut, as in a study
    assert "follow" not in settings["joint"]
    (lost,) = tmp_path.glob("convnet_joint_0_*.json")
    lost.unlink()
    assert run(bench, monkeypatch, *arguments) == 0
    again = json.loads(lost.read_text())
    assert again["accuracy"] == json.loads(records.pop(lost))["accuracy"]  # from its checkpoint
    assert all(path.read_text() == text for path, text in records.items())
    printed = capsys.readouterr().out
    assert "joint - fixed" in printed
    assert "descended - descended-fixed" in printed
    assert "gate_rate=3" in printed
    lines = (tmp_path / "accuracy.csv").read_text().splitlines()
    assert lines[0].startswith("# benchmarks/accuracy.py; ")
    rows = list(csv.DictReader(lines[1:]))
    assert {row["condition"] for row in rows} == {
        *conditions,
        "joint - fixed",
        "descended - descended-fixed",
    }
    assert all(row["n"] == "2" for row in rows)
    assert b"<svg" in (tmp_path / "accuracy.svg").read_bytes()


def test_a_ladder_may_start_from_the_magnitude_and_reconstruct(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = sys.modules["accuracy_nets"]
    net = table.NETS["convnet"]
    short = replace(net.finetune, epochs=1)
    rungs = (Rung(0.5, settle=short, reconstruct=True), Rung(0.2, learn=short, settle=None))
    way = replace(net.descended, recipe=None, rungs=rungs)
    monkeypatch.setitem(table.NETS, "convnet", replace(net, descended=way))
    arguments = [str(tmp_path), "--seeds", "0", "--device", "cpu", "--conditions", "descended"]
    assert run(bench, monkeypatch, *arguments) == 0
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*descended*.json"))
    assert set(record["accuracy"]) == {"0.5", "0.2"}
    assert record["settings"]["recipe"] is None
    upper, lower = record["settings"]["rungs"]
    assert upper["reconstruct"]["images"] > 0
    assert "reconstruct" not in lower


def test_a_ladders_control_starts_from_the_magnitudes_that_its_trunk_left(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    zero, descend = [], bench.descend

    def watched(model: torch.nn.Module, *given: Any, **more: Any) -> Any:
        zero.append(not any(gate.any() for gate in Gates.of(model).values().values()))
        return descend(model, *given, **more)

    monkeypatch.setattr(bench, "descend", watched)
    conditions = ["descended", "descended-fixed"]
    run(bench, monkeypatch, str(tmp_path), "--seeds", "0", "--conditions", *conditions)
    assert zero == [False, True]


def test_a_ladders_control_trains_as_long_and_learns_no_order(bench: ModuleType) -> None:
    def epochs(way: Any) -> list[int]:
        recipes = [(rung.learn, rung.settle) for rung in way.rungs]
        return [sum(recipe.epochs for recipe in both if recipe) for both in recipes]

    nets_of = sys.modules["accuracy_nets"].NETS
    for net in nets_of.values():
        ours, control = net.training("descended"), net.training("descended-fixed")
        assert epochs(control) == epochs(ours)
        assert control.recipe == ours.recipe
        assert control.phase.order == "fixed"
        assert not any(rung.learn for rung in control.rungs)
    assert any(rung.learn and rung.settle for rung in nets_of["resnet18"].descended.rungs)


def test_bad_arguments_are_refused(
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for wrong, message in (
        (["--conditions", "jont"], "no condition 'jont'"),
        (["--conditions", "joint rte=1"], "joint has no field 'rte'"),
        (["--conditions", "joint gate_rate=-1"], "gate_rate is -1"),
        (["--table"], "holds no record"),
    ):
        with pytest.raises(SystemExit):
            run(bench, monkeypatch, str(tmp_path), *wrong)
        assert message in capsys.readouterr().err
