"""What calls of public names are tried with: models, data, and values that make no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

import secateur
from secateur.export import to_onnx

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
ARRAY = X.numpy()

# a call, arguments that are right for it, and for some of them values that are wrong
Call = tuple[Callable[..., Any], dict[str, Any], dict[str, list[Any]]]

LOSS = nn.functional.cross_entropy
NO_MODULE = [None, 3, "x", {}, nn.Linear]
NO_FUNCTION = [3, "x", {}]
NO_PATH = [3, None, b"x", "a\0b", ["x"]]
NO_BOOL = ["x", None, 1]
NO_SEED = ["1", 1.5, None, True]
NO_GLOBS = [3, (3,), [3], "0.*", None]
NO_DATA = [3, None, "x", [(X, X)], torch.utils.data.DataLoader([(X[0], 0)])]
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


@cache
def quantized() -> secateur.Quantized:
    return secateur.quantize(content(), ARRAY)


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


def states() -> list[dict[str, Any]]:
    """States of a `GateTraining` with one wrong value each."""
    right = gating().state_dict()
    wrong = {"number": "x", "gates": 5, "momentum": {"2.weight": 3}, "order": [1], "square": "x"}
    return [{**right, name: value} for name, value in wrong.items()]


STATES = states()
MODEL = {"model": NO_MODULE}
OPTIONS: dict[str, list[Any]] = {
    "target": [*NO_TEXT, "vax", None],
    "values": [3, "int8", None],
    "input_shapes": [3, "x", (1, 8), {"input": 3}, {"input": ("a", 8)}, {"input": (1.5, 8)}],
    "fixed": [3, "x", {"input": 3}, {"input": "x"}],
    "name": NO_TEXT,
    "tune": NO_BOOL,
    "verify_with": [3, True, ["x"], {"x": ARRAY}],
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
