"""Every public name refuses what makes no sense with one error that names argument and value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import secateur
from secateur.compiler import pipeline
from secateur.errors import SecateurError, UsageError
from secateur.export import to_onnx
from test_cli import run

pytestmark = pytest.mark.usefixtures("quick_compiler")

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
ARRAY = X.numpy()
LOSS = nn.functional.cross_entropy
NO_MODULE = [None, 3, "x", {}, nn.Linear]
NO_FUNCTION = [3, "x", {}]
NO_PATH = [3, None, b"x", "a\0b", ["x"]]
NO_BOOL = ["x", None, 1]
NO_SEED = ["1", 1.5, None, True]
NO_TEXT = [3, ["x"], {}]
NO_BUDGET = [0.1, "x", None, (0.1,), secateur.Budget]
NO_MASKS = [3, "x", None, {}, {"2.weight": torch.ones(2)}]
NO_NUMBER = ["x", None, [1], True, float("nan"), -1]


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    return nn.Sequential(*layers)


def gated() -> nn.Module:
    model = net()
    secateur.Gates.attach(model, ["2.weight"])
    return model


@cache
def pruned() -> tuple[nn.Module, secateur.Result]:
    return secateur.prune(net(), 0.5)


def loader() -> secateur.LoaderData:
    return secateur.LoaderData([(X, torch.zeros(64, dtype=torch.long))])


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.1)


def gating(**arguments: Any) -> secateur.GateTraining:
    model = net()
    return secateur.GateTraining(**{"model": model, "optimizer": sgd(model), **arguments})


@cache
def engine() -> secateur.Engine:
    return secateur.compile(net(), X[:1])


@cache
def content() -> bytes:
    return to_onnx(net(), X[:1])


def task(**changes: Any) -> secateur.Task:
    built = secateur.classification("digits", "mlp", progress=False)
    return replace(built, **changes) if changes else built


def study(**changes: Any) -> secateur.Study:
    return secateur.Study(**{"task": task(), "out": "no-study", **changes})


MODEL = {"model": NO_MODULE}
OPTIONS: dict[str, list[Any]] = {
    "target": [*NO_TEXT, "vax", None],
    "values": [3, "int8", None],
    "input_shapes": [3, "x", (1, 8), {"input": 3}, {"input": ("a", 8)}, {"input": (1.5, 8)}],
    "fixed": [3, "x", {"input": 3}, {"input": "x"}],
    "name": NO_TEXT,
    "tune": NO_BOOL,
}
SOLVING: dict[str, list[Any]] = {
    "damping": [*NO_NUMBER, 0],
    "positions": ["x", 0, 1.5, None],
    "seed": NO_SEED,
    "calibration": [X, None, 3, "x"],
}
TRAINING: dict[str, list[Any]] = {
    "model": NO_MODULE,
    "recipe": [1, "x", None, {"epochs": 1}, secateur.Recipe],
    "loss": [None, *NO_FUNCTION],
    "seed": NO_SEED,
    "watch": [None, *NO_FUNCTION],
}

# name → the call, arguments that are right, and for some of them values that are wrong
Call = tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]
CALLS: dict[str, Call] = {
    "Budget": (
        secateur.Budget,
        {"keep": 0.5},
        {
            "keep": ["0.1", None, True, 1.5, 0, -1, float("nan"), [0.1], X, np.ones(2), 1j],
            "scope": [3, "x", None],
            "floor": ["x", 2, -0.1, None],
            "pattern": [3, None, "9:4", "x"],
            "overrides": [3, "ab", {"a": "b"}, {3: 0.1}],
        },
    ),
    "Calibration": (
        secateur.Calibration,
        {"inputs": (X,)},
        {
            "inputs": [X, ARRAY, (ARRAY,), 3, None, "x", iter([X])],
            "targets": [X, ARRAY, (ARRAY,), 3, "x"],
            "loss": NO_FUNCTION,
            "autocast": NO_BOOL,
        },
    ),
    "GatePhase": (
        secateur.GatePhase,
        {},
        {
            "lowest_keep": ["x", 0, None],
            "dense_steps": ["x", 1],
            "gate_rate": ["x", 0],
            "weights": [3, "x", None],
            "order": [3, "x"],
            "decay": [3, "x"],
            "scope": [3, "x"],
            "floor": ["x", 2],
        },
    ),
    "GateTraining": (
        gating,
        {},
        {
            "model": [None, 3, "x"],
            "optimizer": [3, None, "sgd"],
            "phase": [3, "x"],
            "plan": [3, ["2.weight"]],
        },
    ),
    "GateTraining.finish": (
        lambda **a: gating().finish(**a), {"budget": None}, {"budget": NO_BUDGET}
    ),
    "GateTraining.load_state_dict": (
        lambda **a: gating().load_state_dict(**a),
        {"state": None},
        {"state": [3, "x", None, {}, {"gates": {}}]},
    ),
    "Gates.attach": (
        secateur.Gates.attach,
        {"model": net(), "names": ["2.weight"]},
        {**MODEL, "names": ["2.weight", 3, None, [3]]},
    ),
    "Gates.of": (secateur.Gates.of, {"model": gated()}, MODEL),
    "LoaderData": (
        secateur.LoaderData,
        {"training": [(X, X)]},
        {"training": [3, None, iter([(X, X)])], "device": [3.5, "vax", None]},
    ),
    "MaskHold": (
        secateur.MaskHold,
        {"model": net(), "optimizer": sgd(net()), "masks": None},
        {"masks": NO_MASKS, **MODEL, "optimizer": [3, None, "sgd"]},
    ),
    "Masks": (
        secateur.Masks,
        {"masks": {"a": X > 0}},
        {"masks": [3, None, "x", {"a": X}, {"a": 3}, {"a": ARRAY}]},
    ),
    "Masks.apply": (pruned()[1].masks.apply, {"model": net()}, MODEL),
    "Masks.load": (secateur.Masks.load, {"path": "x"}, {"path": NO_PATH}),
    "Masks.save": (
        pruned()[1].masks.save, {"path": "x"}, {"path": NO_PATH, "force": NO_BOOL}
    ),
    "Metric": (
        secateur.Metric,
        {"name": "m", "unit": "%", "function": LOSS},
        {
            "name": NO_TEXT,
            "unit": NO_TEXT,
            "function": [3, "x", None],
            "higher_is_better": NO_BOOL,
            "margin": ["x", 0, float("nan"), [1]],
        },
    ),
    "Recipe": (
        secateur.Recipe,
        {"epochs": 1},
        {
            "epochs": ["x", 0, 1.5, None, True],
            "batch_size": ["x", 0],
            "rate": ["x", None, 0],
            "momentum": ["x", 1],
            "weight_decay": ["x", -1],
            "schedule": ["x", 3, []],
            "warmup": ["x", 1],
            "precision": ["x", 3],
        },
    ),
    "Rung": (
        secateur.Rung,
        {"keep": 0.5},
        {
            "keep": ["x", None, 2, True],
            "learn": [3, "x"],
            "settle": [3, "x"],
            "share": ["x", 0],
            "reconstruct": NO_BOOL,
        },
    ),
    "SoftTargets": (secateur.SoftTargets, {}, {"temperature": ["x", 0, None]}),
    "Study": (
        study,
        {},
        {
            "task": [nn.Linear(2, 2), "digits", 3, secateur.classification, {}],
            "options": [{}, 3, "x"],
            "out": [3, b"x", "a\0b", ["x"]],
            "device": [3, None, "vax"],
            "keep": [1.5, 0, -1, float("nan"), "0.1", True, None, (0.5, "a"), {0.5}, {0.5: 1}],
            "seeds": ["3", 0, 1.5, None, True, (0, 1)],
            "criteria": ["size", 3, None, (3,), ("gate", "gate"), {"gate"}],
            "epochs": ["1", 0, 1.5, None],
            "scope": [3, "x"],
            "precision": [3, "x"],
            "first_layer": NO_BOOL,
            "margin": ["x", -1],
            "confidence": ["x", 2],
        },
    ),
    "Study.network": (
        lambda **a: study().network(**a),
        {"keep": 0.5},
        {"keep": ["x", None, 2, True], "criterion": [3, "size"], "seed": ["a", 9, 1.5]},
    ),
    "Study.onnx": (lambda **a: study().onnx(**a), {"keep": 0.5}, {"keep": ["x", None, 2]}),
    "Study.run": (lambda **a: study().run(**a), {}, {"observe": [3, "x", None]}),
    "Task": (
        secateur.Task,
        {"name": "t", "model": net, "data": loader, "loss": LOSS, "metric": task().metric},
        {
            "name": [3, None, net()],
            "model": [3, None, "x", net()],
            "data": [3, None, [(X, X)]],
            "loss": [3, None, "ce"],
            "metric": [3, None, "accuracy", LOSS],
            "description": [3, "x", None],
            "imitation": NO_FUNCTION,
            "output": NO_FUNCTION,
            "train": NO_FUNCTION,
        },
    ),
    "classification": (
        secateur.classification,
        {"data": "digits", "net": "mlp"},
        {
            "data": [3, None, "mnist"],
            "net": [3, None, "alexnet"],
            "label_smoothing": ["x", None, 1, -0.1, True],
            "data_dir": [3, b"x"],
            "progress": NO_BOOL,
        },
    ),
    "compile": (
        secateur.compile,
        {"model": content()},
        {
            "model": [None, 3, {}, task(), np.ones(3)],
            "out": [3, b"x", "a\0b", ["x"]],
            "threads": ["x", 0, 1.5],
            "force": NO_BOOL,
            **OPTIONS,
        },
    ),
    "compile of a module": (
        secateur.compile,
        {"model": net(), "example": X},
        {"example": [3, "x", [], (3,), ARRAY, [ARRAY], {"input": ARRAY}]},
    ),
    "compile_network": (
        secateur.compile_network,
        {"source": content()},
        {"source": [None, 3, {}, net(), "a\0b"], **OPTIONS},
    ),
    "convert_state_dict": (
        secateur.convert_state_dict, {"state": {}}, {"state": [None, 3, "x", net()]}
    ),
    "descend": (
        secateur.descend,
        {
            "model": gated(), "rungs": [secateur.Rung(0.5)], "data": loader(), "loss": LOSS,
            "seed": 0,
        },
        {
            "model": NO_MODULE,
            "rungs": [0.5, [0.5], None, "x", secateur.Rung(0.5)],
            "loss": NO_FUNCTION,
            "phase": [3, "x"],
            "seed": NO_SEED,
            "watch": NO_FUNCTION,
        },
    ),
    "distilled": (
        secateur.distilled,
        {
            "data": loader(), "loss": LOSS, "teacher": net(), "imitation": LOSS, "weight": 0.5,
            "autocast": False,
        },
        {
            "loss": NO_FUNCTION,
            "teacher": NO_MODULE,
            "imitation": NO_FUNCTION,
            "weight": [*NO_NUMBER, 2],
            "autocast": NO_BOOL,
        },
    ),
    "emit_c": (
        pipeline.emit_c,
        {"source": content(), "folder": "c"},
        {"source": [None, 3, {}], "folder": NO_PATH, "force": NO_BOOL, **OPTIONS},
    ),
    "Engine": (
        secateur.Engine,
        {"source": b""},
        {"source": [3, None, net(), "a\0b", ["x"]], "threads": ["x", 0, 1.5]},
    ),
    "Engine.load": (secateur.Engine.load, {"path": "x"}, {"path": NO_PATH}),
    "Engine.profile": (
        lambda **a: engine().profile(ARRAY, **a), {}, {"repeats": ["x", 0, 1.5, None]}
    ),
    "export_onnx": (
        secateur.export_onnx,
        {"model": net(), "example": X, "path": "x.onnx"},
        {
            **MODEL,
            "example": [None, 3, "x", [], [3], {}, ARRAY, [ARRAY]],
            "path": NO_PATH,
            "tolerance": ["x", -1, float("nan")],
            "batched": NO_BOOL,
            "force": NO_BOOL,
        },
    ),
    "finetune": (
        secateur.finetune,
        {"model": net(), "masks": None, "data": loader(), "loss": LOSS, "seed": 0},
        {**TRAINING, "masks": NO_MASKS, "recipe": [1, "x", None]},
    ),
    "from_torch_prune": (secateur.from_torch_prune, {"model": net()}, MODEL),
    "learn_gates": (
        secateur.learn_gates,
        {
            "model": net(), "names": ["2.weight"], "data": loader(), "recipe": secateur.Recipe(1),
            "loss": LOSS, "seed": 0,
        },
        {**TRAINING, "names": ["2.weight", 3, None, [3]], "phase": [3, "x"]},
    ),
    "load": (
        secateur.load,
        {"path": "x"},
        {"path": NO_PATH, "factory": NO_FUNCTION, "trust": NO_BOOL},
    ),
    "load_masks": (secateur.load_masks, {"path": "x"}, {"path": NO_PATH}),
    "load_task": (
        secateur.load_task,
        {"reference": "x.py:task"},
        {"reference": [3, None, "x", ":", "x.py:", Path("x.py:task"), "a\0b.py:task", "none.py:t"]},
    ),
    "packed_bytes": (
        secateur.packed_bytes,
        {"model": net()},
        {
            "model": [*NO_MODULE[:3], [X], {3: X}],
            "masks": [3, "x", {"2.weight": X}],
            "gates": NO_BOOL,
            "dtype": [3, "float16", torch.int8],
            "budget": [0.5, "x"],
        },
    ),
    "prune": (
        secateur.prune,
        {"model": net(), "keep": 0.5},
        {
            **MODEL,
            "keep": ["0.1", 1.5, 0, True, float("nan"), [0.1]],
            "criterion": [3, "size", ["magnitude"]],
            "data": ["x", 3, ARRAY, [ARRAY], [(ARRAY, ARRAY)], {"input": ARRAY}],
            "loss": NO_FUNCTION,
            "example": ["x", 3, ARRAY, [ARRAY], {"input": ARRAY}],
            "scope": [3, "x"],
            "floor": ["x", 2],
            "pattern": [3, None, "9:4", "x"],
            "overrides": [3, "x", {"a": "b"}],
            "exclude": [3, (3,), "0.*", None],
            "include_first": NO_BOOL,
            "minimum": ["x", 0, 1.5],
            "multiple": ["x", 0, 1.5],
            "recover": ["x", 3, ["none"]],
            "autocast": NO_BOOL,
            "in_place": NO_BOOL,
            "seed": NO_SEED,
            "evaluate": NO_FUNCTION,
            "higher_is_better": NO_BOOL,
        },
    ),
    "prune to a goal": (
        secateur.prune,
        {"model": net(), "example": X},
        {
            "latency_ms": ["x", None, [1], float("nan"), -1],
            "max_drop": ["x", None, True],
            "params": ["x", True, None],
            "macs": ["x", None],
            "bytes": ["1MB", None],
        },
    ),
    "prune_gradually": (
        secateur.prune_gradually,
        {
            "model": net(), "names": ["2.weight"], "budgets": [secateur.Budget(0.5)],
            "calibration": secateur.Calibration((X,)),
        },
        {
            **MODEL,
            "names": ["2.weight", 3, None],
            "budgets": [0.5, [0.5], None, secateur.Budget(0.5)],
            "criterion": ["size", 3],
            "step": ["x", 0, 1, None],
            "images": ["x", 0, 1.5],
            **SOLVING,
        },
    ),
    "read": (secateur.read, {"path": "x"}, {"path": NO_PATH}),
    "recalibrate": (
        secateur.recalibrate,
        {"model": net(), "inputs": [X]},
        {**MODEL, "inputs": [3, None, "x", ARRAY, [ARRAY]], "autocast": NO_BOOL},
    ),
    "reconstruct": (
        secateur.reconstruct,
        {
            "model": net(), "dense": net(), "masks": None,
            "calibration": secateur.Calibration((X,)),
        },
        {"masks": NO_MASKS, "model": NO_MODULE, "dense": NO_MODULE, **SOLVING},
    ),
    "save": (
        secateur.save,
        {"model": net(), "path": "x"},
        {
            "model": [*NO_MODULE[:3], [X], {3: X}],
            "path": NO_PATH,
            "masks": [3, "x", {}, {"2.weight": X}],
            "gates": NO_BOOL,
            "dtype": [3, "float16", torch.int8],
            "budget": [0.5, "x"],
            "architecture": [3, ("a",), "nocolon", ("a:b", 3)],
            "provenance": [3, "x", {"a": {1, 2}}],
            "force": NO_BOOL,
        },
    ),
    "select": (
        secateur.select,
        {"scores": {"a": X}, "budget": secateur.Budget(0.5)},
        {
            "scores": [X, 3, None, {"a": 3}],
            "budget": NO_BUDGET,
            "axes": [3, "x"],
            "method": ["x", 3],
            "chunk": ["x", 0],
        },
    ),
    "shrink": (
        secateur.shrink,
        {"model": net(), "cut": None, "example": X},
        {**MODEL, "cut": [0.5, pruned()[1].masks, "x"], "example": [ARRAY, [ARRAY], None, 3, "x"]},
    ),
    "to_semi_structured": (
        secateur.to_semi_structured,
        {"model": net()},
        {**MODEL, "example": [ARRAY, [ARRAY]], "graph": NO_BOOL},
    ),
    "train": (
        secateur.train,
        {
            "model": net(), "data": loader(), "recipe": secateur.Recipe(1), "loss": LOSS,
            "seed": 0,
        },
        TRAINING,
    ),
}  # fmt: skip

# What is not called with arguments of a user's own, and what is tried in tests of its own.
ELSEWHERE = {"Result", "Shrunk", "SecateurError", "ChannelCut"}
ELSEWHERE |= {"prunable", "channel_groups", "select_channels"}
ELSEWHERE |= {"from_pretrained", "push_to_hub", "save_pretrained"}
OF_VALUES = {"names": "2.weight", "data": "batch"}  # a message may speak of what a value holds


def wrong() -> Iterator[Any]:
    for name, (_, _, arguments) in CALLS.items():
        for argument, values in arguments.items():
            for number, value in enumerate(values):
                shown = str(value).split("\n")[0][:20].replace("\0", "NUL")
                yield pytest.param(name, argument, value, id=f"{name}-{argument}-{number}-{shown}")


def named(message: str, argument: str, value: object) -> bool:
    """Whether a message names an argument, and its value or the kind of that."""
    kinds = [type(part).__name__ for part in parts(value)]
    said = [repr(part)[:20] for part in parts(value)] + [str(part)[:20] for part in parts(value)]
    words = {"model": "mod", "overrides": "override", "masks": "mask", "fixed": "fixed"}
    words |= {"input_shapes": "shape", "source": "", "criteria": "criteri", "data": "data"}
    words |= {"reference": "task", "target": "target", "device": "device", "gates": "gate"}
    words |= {"training": "training", "net": "net", "values": "values", "scores": ""}
    words |= {"out": "out", "path": "path", "inputs": "", "folder": "folder"}
    return words.get(argument, argument) in message and any(
        text.replace("\0", "\\x00") in message for text in (*kinds, *said) if text
    )


def parts(value: object) -> Iterator[object]:
    yield value
    if isinstance(value, dict):
        for each in (*value, *value.values(), *value.items()):
            yield from parts(each)
    elif isinstance(value, (tuple, list, set)):
        for each in value:
            yield from parts(each)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "argument", "value"), [*wrong()])
def test_it_is_refused_by_name(name: str, argument: str, value: Any, tmp_path: Path) -> None:
    call, right, _ = CALLS[name]
    given = {
        key: pruned()[1].masks if key == "masks" and v is None else v for key, v in right.items()
    }
    with pytest.raises(SecateurError) as refusal:
        call(**{**given, argument: value})
    assert named(str(refusal.value), argument, value), refusal.value
    assert not list(tmp_path.iterdir())


def test_every_public_name_is_tried() -> None:
    tried = {name.split(".")[0].split(" ")[0] for name in CALLS}
    assert set(secateur.__all__) - tried == ELSEWHERE


def test_a_study_takes_one_value_where_it_may_have_several() -> None:
    assert study(keep=0.1).spec == study(keep=(0.1,)).spec == study(keep=[0.1]).spec
    assert study(keep=(k for k in (0.5, 0.1))).spec == study(keep=(0.5, 0.1)).spec
    assert study(keep=np.array([0.5, 0.25])).spec.hash == study(keep=(0.5, 0.25)).spec.hash
    assert study(criteria="gate").spec == study(criteria=("gate",)).spec


def test_a_module_in_a_tasks_place_is_told_of_prune() -> None:
    with pytest.raises(UsageError, match=r"task is .*Linear.*secateur\.Task.*secateur\.prune"):
        secateur.Study(nn.Linear(2, 2))


def test_models_that_are_none_are_told_so() -> None:
    with pytest.raises(UsageError, match="Linear is a class"):
        secateur.compile(nn.Linear)
    with pytest.raises(UsageError, match="example"):
        secateur.compile(net())
    for path in ("a\0b", Path("a\0b")):
        with pytest.raises(UsageError, match="path"):
            secateur.compile(path)
    for state in ({"a": 3}, {"a": ARRAY}):
        with pytest.raises(UsageError, match=f"'a' is no tensor but {type(state['a']).__name__}"):
            secateur.save(state, "x")


@pytest.mark.parametrize("word", ["sparsity", "amount"])
def test_a_sparsity_is_told_as_what_is_kept(word: str) -> None:
    for call in (
        lambda: secateur.prune(net(), **{word: 0.9}),
        lambda: secateur.prune(net(), 0.5, **{word: 0.9}),
        lambda: secateur.Budget(**{word: 0.9}),
        lambda: secateur.Rung(**{word: 0.9}),
        lambda: study(**{word: 0.9}),
    ):
        with pytest.raises(UsageError, match=rf"'{word}'.*keep=0\.1$"):
            call()


@pytest.mark.parametrize(
    ("call", "given", "meant"),
    [
        (lambda **a: secateur.prune(net(), 0.5, **a), "patern", "pattern"),
        (lambda **a: secateur.prune(net(), 0.5, **a), "calibration_data", "data"),
        (lambda **a: secateur.prune(net(), 0.5, **a), "example_inputs", "example"),
        (lambda **a: secateur.Recipe(1, **a), "lr", "rate"),
        (lambda **a: secateur.Recipe(1, **a), "epoch", "epochs"),
        (lambda **a: secateur.compile(content(), **a), "input_shape", "input_shapes"),
        (lambda **a: secateur.compile(content(), **a), "value", "values"),
        (lambda **a: secateur.compile_network(content(), **a), "tuned", "tune"),
        (lambda **a: secateur.save(net(), "x", **a), "mask", "masks"),
        (lambda **a: secateur.export_onnx(net(), X, "x", **a), "tolerence", "tolerance"),
        (lambda **a: secateur.Metric("m", "%", LOSS, **a), "higher_better", "higher_is_better"),
        (gating, "fase", "phase"),
        (study, "seed", "seeds"),
        (lambda **a: secateur.classification("digits", "mlp", **a), "smoothing", "label_smoothing"),
    ],
)
def test_an_argument_that_is_none_is_told_what_it_may_mean(
    call: Callable[..., Any], given: str, meant: str
) -> None:
    with pytest.raises(UsageError, match=rf"'{given}'.*'?{meant}"):
        call(**{given: 3})


def test_a_call_that_lacks_an_argument_names_it() -> None:
    with pytest.raises(UsageError, match="'metric'"):
        secateur.Task("t", net, loader, LOSS)
    with pytest.raises(UsageError, match="'path'"):
        secateur.save(net())


def test_signatures_and_values_are_as_they_were() -> None:
    assert list(inspect.signature(secateur.Recipe).parameters)[:3] == [
        "epochs",
        "batch_size",
        "rate",
    ]
    assert secateur.Recipe(2) == replace(secateur.Recipe(1), epochs=2)
    assert secateur.prune.__name__ == "prune"
    assert "keep ratio" in secateur.prune.__doc__


def weights(tmp_path: Path) -> dict[str, Path]:
    """Files that are no network."""
    save_file(net().state_dict(), tmp_path / "m.safetensors")
    secateur.save(net(), tmp_path / "ours.safetensors")
    torch.save(net().state_dict(), tmp_path / "m.pt")
    torch.save(net().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "m.npz", a=ARRAY)
    np.save(tmp_path / "m.npy", ARRAY)
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "m.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", ["compile", "bench"])
def test_files_that_are_no_network_are_named(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, path in (*weights(tmp_path).items(), ("none.onnx", tmp_path / "none.onnx")):
        before = sorted(tmp_path.iterdir())
        code, out, err = run([command, str(path)], monkeypatch, capsys)
        assert code in (1, 2), name
        assert name in err
        assert "Traceback" not in err
        assert not out
        assert sorted(tmp_path.iterdir()) == before
        if path.suffix in (".safetensors", ".pt", ".npz"):
            assert code == 2
            assert "weights" in err
        with pytest.raises(SecateurError, match=name):
            secateur.compile(path)


def test_an_engine_is_not_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secateur.compile(content(), out=tmp_path / "net.so")
    code, _, err = run(["compile", str(tmp_path / "net.so")], monkeypatch, capsys)
    assert code == 2
    assert "compiled already" in err


def test_an_engine_takes_no_arguments_by_name() -> None:
    with pytest.raises(UsageError, match="'input'"):
        engine()(input=ARRAY)
    assert (engine()({"input": ARRAY}) == engine()(ARRAY)).all()
