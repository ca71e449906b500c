"""Numbers of numpy and torch, and any iterables of names, are as good as Python's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur
from secateur.errors import UsageError
from secateur.machine import cores_for
from secateur.nets import build
from secateur.study.options import Options
from wrong_values import ARRAY, LOSS, X, content, loader, net, study, task

WHOLE: list[Callable[[int], Any]] = [np.int64, np.int32, np.uint8, torch.tensor, np.array]
REAL: list[Callable[[float], Any]] = [np.float32, np.float64, np.float16, torch.tensor, np.array]
TRUTH: list[Callable[[bool], Any]] = [np.bool_, torch.tensor, np.array]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers(kind: Callable[[int], Any]) -> None:
    right, _ = secateur.prune(net(), 0.5, criterion="random", seed=3)
    given, _ = secateur.prune(net(), 0.5, criterion="random", seed=kind(3))
    assert same(right, given)
    channels = {"pattern": "channel", "example": X[:1]}
    right, _ = secateur.prune(net(), 0.5, minimum=3, multiple=4, **channels)
    given, _ = secateur.prune(net(), 0.5, minimum=kind(3), multiple=kind(4), **channels)
    assert same(right, given)
    assert secateur.Goal(params=kind(200)) == secateur.Goal(params=200)
    for goal in ("params", "macs", "bytes"):
        limit = 2000 if goal != "bytes" else 2500
        found = [
            secateur.prune(net(), goal=secateur.Goal(**{goal: value}), example=X[:1])[1].masks
            for value in (limit, np.int64(limit))
        ]
        assert found[0] == found[1]
    assert secateur.Calibration.of(X, samples=kind(40)).count == 40
    recipe = secateur.Recipe(kind(1), batch_size=kind(64))
    assert recipe == secateur.Recipe(1, batch_size=64)
    assert type(recipe.epochs) is type(recipe.batch_size) is int
    one, other = net(), net()
    secateur.train(one, loader(), recipe, LOSS, seed=kind(2))
    secateur.train(other, loader(), recipe, LOSS, seed=2)
    assert same(one, other)


@pytest.mark.parametrize("kind", REAL)
def test_real_numbers(kind: Callable[[float], Any]) -> None:
    budget = secateur.Budget(kind(0.5), floor=kind(0.25), overrides={"a": kind(0.5)})
    assert budget == secateur.Budget(0.5, floor=0.25, overrides={"a": 0.5})
    assert [type(v) for v in (budget.keep, budget.floor, budget.overrides[0][1])] == [float] * 3
    assert secateur.prune(net(), kind(0.5))[1].masks == secateur.prune(net(), 0.5)[1].masks
    assert secateur.Recipe(1, rate=kind(0.5)) == secateur.Recipe(1, rate=0.5)
    assert type(secateur.Recipe(1, rate=kind(0.5)).rate) is float
    assert type(secateur.Metric("m", "%", LOSS, margin=kind(0.5)).margin) is float
    assert secateur.GatePhase(lowest_keep=kind(0.25)).lowest_keep == 0.25
    assert secateur.Rung(kind(0.5), share=kind(0.5)) == secateur.Rung(0.5, share=0.5)
    assert secateur.SoftTargets(kind(2.0)).temperature == 2.0
    drop = secateur.Goal(max_drop=kind(0.5), evaluate=lambda model: kind(1.0))
    assert secateur.prune(net(), goal=drop)[1].masks.keep < 0.1


@pytest.mark.parametrize("kind", TRUTH)
def test_truth_values(kind: Callable[[bool], Any]) -> None:
    assert "0.weight" in secateur.prunable(net(), include_first=kind(True)).names
    assert secateur.Calibration.of(X, autocast=kind(True)).autocast is True
    given = net()
    assert secateur.prune(given, 0.5, in_place=kind(True))[0] is given
    assert type(study(first_layer=kind(True)).spec.options.first_layer) is bool
    with pytest.raises(UsageError, match=r"seed is True, but must be a whole number"):
        secateur.prune(net(), 0.5, seed=kind(True))


def test_a_study_hashes_values_and_not_their_types() -> None:
    right = study(keep=(0.5, 0.25), seeds=2, epochs=3, rate=0.5, margin=0.25, first_layer=True)
    for whole, real in zip(WHOLE, REAL, strict=True):
        given = study(
            keep=[real(0.5), real(0.25)],
            seeds=whole(2),
            epochs=whole(3),
            rate=real(0.5),
            margin=real(0.25),
            first_layer=np.bool_(True),
        )
        assert given.spec.hash == right.spec.hash
    assert study(rate=np.float32(0.1)).spec.options.rate == float(np.float32(0.1))
    assert study(rate=Fraction(1, 2)).spec.hash == study(rate=0.5).spec.hash
    assert study(keep=torch.tensor(0.5)).spec.hash == study(keep=0.5).spec.hash
    assert study(keep=torch.tensor([0.5, 0.25])).spec.hash == study(keep=(0.5, 0.25)).spec.hash
    assert Options(seeds=np.int64(2)) == Options(seeds=2)
    described = {"classes": np.int64(3), "of": [np.float64(0.5), {"b": np.bool_(True)}]}
    plain = {"classes": 3, "of": [0.5, {"b": True}]}
    hashes = [secateur.Study(task(description=d)).spec.hash for d in (described, plain)]
    assert hashes[0] == hashes[1]


def test_what_is_written_as_json(tmp_path: Path) -> None:
    secateur.save(
        net(), tmp_path / "m", provenance={"seed": np.int64(3), "rate": [np.float32(0.5)]}
    )
    assert secateur.read(tmp_path / "m")[1].provenance == {"seed": 3, "rate": [0.5]}
    secateur.save_pretrained(net(), tmp_path / "f", config={"classes": np.int32(4)})
    assert json.loads((tmp_path / "f" / "config.json").read_text())["classes"] == 4


def test_threads_and_shapes() -> None:
    shapes = {"input": (np.int64(2), np.int32(8))}
    engine = secateur.compile(
        content(), input_shapes=shapes, threads=np.int64(1), tune=np.bool_(False)
    )
    assert engine(ARRAY[:2]).shape == (2, 4)
    assert engine.profile(ARRAY[:2], repeats=np.int32(2))
    assert cores_for(np.int64(1)) == cores_for(1)
    with pytest.raises(UsageError, match=r"1\.0"):
        cores_for(1.0)  # type: ignore[arg-type]
    built = build("mlp", input_shape=(np.int64(3), 8, 8), classes=np.int64(3))
    assert built(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("make", [list, set, frozenset, iter, dict.fromkeys, np.array])
def test_names_in_any_iterable(make: Callable[[list[str]], Any]) -> None:
    names = ["2.weight", "4.weight"]
    assert secateur.prunable(net(), exclude=make(names[:1])).names == ("4.weight",)
    assert secateur.prunable(net(), include=make(["0.weight"])).names[0] == "0.weight"
    found = secateur.prunable(net(), exclude=make(names[:1]), include=make(["4.bias"]))
    assert set(found.names) == {"4.weight", "4.bias"}
    groups = secateur.channel_groups(net(), X, exclude=make(names[:1]))
    assert groups.blocked == secateur.channel_groups(net(), X, exclude=names[:1]).blocked
    assert secateur.Gates.attach(net(), make(names)).names == tuple(names)
    model = net()
    secateur.learn_gates(model, make(names), loader(), secateur.Recipe(1), LOSS, seed=0)
    assert secateur.Gates.of(model).names == tuple(names)


def test_what_prunable_gives_stands_for_its_names() -> None:
    model = net()
    plan = secateur.prunable(model)
    assert secateur.Gates.attach(model, plan).names == plan.names


def test_devices_and_paths_in_their_own_types(tmp_path: Path) -> None:
    assert study(device=torch.device("cpu")).device == study(device="cpu").device
    (tmp_path / "x.py").write_text(
        "import secateur\ntask = secateur.classification('digits', 'mlp', progress=False)\n"
    )
    reference = tmp_path / "x.py:task"
    assert secateur.load_task(reference).name == secateur.load_task(str(reference)).name
