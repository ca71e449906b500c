"""A task's own training loop in every phase of a study, and what it cannot leave out."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur
from secateur import Study, Task
from secateur.errors import StudyError, UsageError
from secateur.study.results import Results
from secateur.training import Epoch, unpruned

pytestmark = pytest.mark.usefixtures("undrawn")

PLAN: dict[str, Any] = {
    "keep": (0.3,), "seeds": 1, "epochs": 1, "gate_epochs": 1, "calibration": 128, "device": "cpu",
}  # fmt: skip
ALL: dict[str, Any] = {"criteria": ("gate", "magnitude")}


def loop(
    model: Any, data: Any, recipe: Any, loss: Any, *, seed: int, pruning: Any,
    kind: Any = torch.optim.SGD, options: Any = None,
) -> None:  # fmt: skip
    """A plain loop as a user writes one."""
    options = options or {"lr": recipe.rate, "momentum": 0.9}
    optimizer = kind(model.parameters(), **options)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(recipe.epochs):
        for inputs, targets in data.epoch(recipe.batch_size, generator):
            optimizer.zero_grad()
            with pruning(optimizer):
                loss(model(inputs), targets).backward()
            optimizer.step()


def study(task: Task, out: Path, train: Any, **options: Any) -> Results:
    return Study(replace(task, train=train), out=out, **{**PLAN, **options}).run()


def numbers(directory: Path) -> dict[str, Any]:
    found = {}
    for path in sorted((directory / "records").glob("*.json")):
        record = json.loads(path.read_text())
        for entry in record.get("log", ()):
            entry.pop("seconds")
        kept = ("metrics", "masks", "checkpoint", "log", "gates")
        found[path.stem] = {name: record[name] for name in kept if name in record}
    return found


def test_secateurs_own_loop_given_as_the_users_changes_nothing(
    digits: Task, tmp_path: Path
) -> None:
    built_in, own = tmp_path / "built-in", tmp_path / "own"
    study(digits, built_in, None, gate_multiple=3.0, **ALL)
    study(digits, own, secateur.train, gate_multiple=3.0, **ALL)
    assert numbers(own) == numbers(built_in)


def test_a_plain_loop_learns_gates_and_holds_masks(digits: Task, tmp_path: Path) -> None:
    results = study(digits, tmp_path, loop, epochs=3, gate_epochs=3, **ALL)
    rows = {(row.criterion, row.recovery): row for row in results.summary.rows}
    assert rows["gate", "ladder"].test.mean > 80
    assert {recovery for _, recovery in rows} == {"batchnorm", "ladder"}
    kept = Study(
        replace(digits, train=loop), out=tmp_path, **{**PLAN, **ALL, "epochs": 3, "gate_epochs": 3}
    ).network(0.3)
    weights = dict(kept.named_parameters())
    (record,) = (
        json.loads(path.read_text())
        for path in (tmp_path / "records").glob("*gate_keep-0.3_ladder.json")
    )
    layers = record["weights"]["layers"]
    for name, layer in layers.items():
        assert int(weights[name].count_nonzero()) == layer["kept"]
    log = json.loads((tmp_path / "records" / "seed-0_start.json").read_text())["log"]
    assert log == []  # the loop told of no epoch


@pytest.mark.parametrize(
    ("kind", "options"),
    [(torch.optim.AdamW, {"lr": 0.003}), (torch.optim.Adam, {"lr": 0.003, "weight_decay": 1e-4})],
)
def test_gates_learn_beside_the_optimizer_of_the_loop(
    digits: Task, tmp_path: Path, kind: Any, options: dict[str, Any]
) -> None:
    """Also beside one whose decay cannot be kept from the weights that a step cuts."""
    train = partial(loop, kind=kind, options=options)
    plan = {"keep": (0.1,), "epochs": 3, "gate_epochs": 3, "criteria": ("gate", "magnitude")}
    results = study(digits, tmp_path, train, **plan)
    rows = {row.criterion: row for row in results.summary.rows if row.recovery == "ladder"}
    assert rows["gate"].test.mean > rows["magnitude"].test.mean


def test_torch_draws_from_the_seed_that_the_loop_is_given(digits: Task, tmp_path: Path) -> None:
    drawn: list[tuple[int, Any]] = []

    def train(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int) -> None:
        drawn.append((seed, torch.rand(3).tolist()))

    study(digits, tmp_path, train, criteria=("random",), seeds=2, gates="trunk")
    assert len({seed for seed, _ in drawn}) == len(drawn) == 4  # two networks of two seeds
    for seed, values in drawn:
        assert values == torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()


def test_a_loop_may_make_an_optimizer_for_every_epoch(digits: Task, tmp_path: Path) -> None:
    def restarts(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int, pruning: Any) -> None:
        for epoch in range(recipe.epochs):
            one = replace(recipe, epochs=1)
            loop(model, data, one, loss, seed=1000 * seed + epoch, pruning=pruning)

    plan = {"keep": (0.1,), "epochs": 3, "gate_epochs": 3}
    results = study(digits, tmp_path, restarts, **{**ALL, **plan})
    rows = {(row.criterion, row.recovery): row for row in results.summary.rows}
    assert rows["gate", "ladder"].test.mean > rows["magnitude", "batchnorm"].test.mean


def test_the_loop_decides_what_training_is(digits: Task, tmp_path: Path) -> None:
    def idle(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int) -> list[Epoch]:
        return [Epoch(epoch + 1, 1.5, 0.0, 0.0) for epoch in range(recipe.epochs)]

    seen: list[Epoch] = []
    job = Study(
        replace(digits, train=idle),
        out=tmp_path,
        **{**PLAN, "criteria": ("random",), "gates": "trunk", "epochs": 2},
    )
    results = job.run(lambda event: seen.extend([event.epoch] if event.epoch else []))
    assert results.summary.start.test.mean < 30
    assert [epoch.loss for epoch in seen] == [1.5] * 3  # told afterwards, as it takes no `watch`


def short(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int) -> None: ...


def of_0_1_0(
    model: Any, data: Any, recipe: Any, loss: Any, *, seed: int, around_step: Any = None,
    after_step: Any = None, extra: Any = (), extra_rate: float = 1.0,
) -> None: ...  # fmt: skip


def seedless(model: Any, data: Any, recipe: Any, loss: Any) -> None: ...


def few(model: Any, data: Any, *, seed: int) -> None: ...


def other(model: Any, data: Any, recipe: Any, loss: Any, schedule: Any, *, seed: int) -> None: ...


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (short, {}, "takes no `pruning`, which training with what is cut needs"),
        (short, {"criteria": ("magnitude",)}, "takes no `pruning`, which training with what is"),
        (short, {"gates": "trunk"}, "takes no `pruning`, which training with what is cut needs"),
        (short, {"gates": "frozen", "criteria": ("magnitude",)}, "takes no `pruning`"),
        (of_0_1_0, {}, "takes no `pruning`, which training with what is cut needs"),
        (seedless, {"criteria": ("random",)}, "takes no seed"),
        (few, {"criteria": ("random",)}, r"cannot be called with \(model, data, recipe, loss"),
        (other, {"criteria": ("random",)}, "schedule"),
        (3, {}, "train is 3, but must be a function"),
    ],
)
def test_a_loop_that_takes_too_little_is_refused_before_anything_is_written(
    digits: Task, tmp_path: Path, train: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        study(digits, tmp_path / "study", train, **options)
    assert not (tmp_path / "study").exists()


def without_pruning(model: Any, data: Any, recipe: Any, loss: Any, **hooks: Any) -> None:
    loop(model, data, recipe, loss, seed=hooks["seed"], pruning=unpruned)


def by_hand(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int, pruning: Any) -> None:
    """Opens `pruning` with an optimizer that never steps."""
    optimizer = torch.optim.SGD(model.parameters(), 0.03)
    for inputs, targets in data.epoch(recipe.batch_size, torch.Generator().manual_seed(seed)):
        optimizer.zero_grad()
        with pruning(optimizer):
            loss(model(inputs), targets).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.03)


def test_a_loop_without_pruning_is_enough_where_nothing_is_trained_cut(
    digits: Task, tmp_path: Path
) -> None:
    plans: list[dict[str, Any]] = [
        {"criteria": ("random",)},
        {"criteria": ("magnitude",), "gates": "trunk"},
        {"criteria": ("magnitude",), "keep": (0.8,)},
    ]
    for number, plan in enumerate(plans):
        assert not study(digits, tmp_path / str(number), short, **plan).summary.missing


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            by_hand,
            r"gate_rung-0\.3: no gate has learned(?s:.*)magnitude_rung-0\.3: .*not zero",
        ),
        (without_pruning, r"never opened `with pruning\(optimizer\):`"),
        (lambda *a, **k: [0.1], "gives .* where a sequence of secateur.training.Epoch"),
    ],
)
def test_a_loop_that_takes_pruning_and_ignores_it_is_found_out(
    digits: Task, tmp_path: Path, train: Any, message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        study(digits, tmp_path, train, **ALL)
    assert list((tmp_path / "failures").iterdir())


def test_weights_that_are_not_finite_are_a_failure_that_is_recorded(
    digits: Task, tmp_path: Path
) -> None:
    def broken(model: Any, data: Any, recipe: Any, loss: Any, *, seed: int) -> None:
        with torch.no_grad():
            next(model.parameters())[0, 0] = float("nan")

    with pytest.raises(StudyError, match=r"nothing of the study(?s:.*)is not finite"):
        study(digits, tmp_path, broken, criteria=("random",))
    assert "not finite" in (tmp_path / "failures" / "seed-0_start.json").read_text()
