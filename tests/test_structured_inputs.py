"""Models take dicts, lists and dataclasses, and give them: wherever secateur runs one."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.errors import UsageError
from secateur.export import export_onnx, to_onnx
from secateur.measure.latency import compiled_latency
from secateur.measure.work import work
from secateur.model import inputs
from secateur.pruning.recovery.batchnorm import recalibrate


@dataclass
class Batch:
    x: Tensor
    scale: float
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Tensor
    name: str = "a"


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Given:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    name: str = "given"
    cache: object = None


class Net(nn.Module):
    """Reads its images out of whatever `take` says, and gives what `give` makes."""

    def __init__(self, take: Any, give: Any = lambda y, h: y) -> None:
        super().__init__()
        self.take, self.give = take, give
        self.a, self.n, self.b = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.c = nn.Conv2d(8, 4, 1)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = F.relu(self.b(F.relu(self.n(self.a(self.take(*args, **kwargs))))))
        return self.give(self.c(hidden).mean((2, 3)), hidden)


X = torch.randn(64, 3, 6, 6)
Y = torch.arange(64) % 4

TAKEN: dict[str, tuple[Any, Any]] = {
    "tensor": (X, lambda x: x),
    "one dict": (({"x": X},), lambda batch: batch["x"]),
    "one list": (([X, X],), lambda batch: batch[0] + batch[1]),
    "nested": (({"a": [{"x": (X, None)}], "n": 3},), lambda b: b["a"][0]["x"][0] * b["n"]),
    "by name": ({"x": X}, lambda x: x),
    "by name, with others": (
        {"x": X, "mask": None, "how": "relu", "many": 2, "wide": True},
        lambda x, mask, how, many, wide: x * many if wide and how == "relu" else mask,
    ),
    "user dict": (UserDict({"x": X}), lambda x: x),
    "one user dict": ((UserDict({"x": X}),), lambda batch: batch.data["x"]),
    "nested by name": ({"batch": {"x": X, "k": 2}}, lambda batch: batch["x"] * batch["k"]),
    "dataclass": (Batch(X, 2.0), lambda batch: batch.x * batch.scale),
    "slotted dataclass": ((Slotted(X), 2), lambda batch, k: batch.x * k),
    "named tuple": ((Pair(X, X),), lambda pair: pair.x - 2 * pair.y),
    "tensor and number": ((X, 3, None), lambda x, k, m: x * k),
    "a tensor without dimensions": ((X, torch.tensor(2.0)), lambda x, k: x * k),
}

GIVEN: dict[str, Any] = {
    "dict": lambda y, h: {"logits": y, "hidden": [h], "none": None, "text": "a"},
    "list": lambda y, h: [y, (h, 3)],
    "named tuple": Pair,
    "dataclass": lambda y, h: Given(y, (h, h)),
    "nested": lambda y, h: ({"a": Given(y, (h,))}, [None, "b"]),
}


def few(given: Any) -> Any:
    return inputs.head(given, 2)


def tensors(given: Any) -> list[Tensor]:
    return list(inputs.tensors_in(given))


@pytest.mark.parametrize("name", TAKEN)
def test_every_way_of_pruning_takes_them(name: str) -> None:
    torch.manual_seed(0)
    given, take = TAKEN[name]
    model, example = Net(take).eval(), few(given)
    small, result = secateur.prune(model, 0.5, pattern="channel", example=example)
    assert small.b.weight.shape == (4, 4, 1, 1)
    assert result.macs is not None
    assert inputs.run(small, given).shape == (64, 4)
    # in data a batch is inputs and targets, or begins with the inputs
    labelled, plain = [(given, Y)], [(given,)]
    for options in (
        {"criterion": "wanda", "data": plain},
        {"criterion": "taylor", "data": labelled, "loss": F.cross_entropy},
        {"criterion": "obs", "data": labelled, "loss": F.cross_entropy},
        {"recover": "reconstruct", "data": plain},
        {"pattern": "channel", "data": plain},
    ):
        pruned, found = secateur.prune(model, 0.5, **options)  # type: ignore[arg-type]
        assert inputs.run(pruned, given).shape == (64, 4)
        assert found.macs is not None
        if "pattern" not in options:
            assert pruned.n.num_batches_tracked > 0
    assert work(model, example).total == result.macs.before
    assert recalibrate(model, [given]) == 1


def test_names_that_come_twice_keep_their_places() -> None:
    """So that none of them is taken for the other."""
    assert list(inputs.names_of(({"x": X}, {"x": X}))) == ["input0_x", "input1_x"]
    assert list(inputs.names_of((X, {"mask": X}))) == ["input0", "mask"]


@pytest.mark.parametrize("name", TAKEN)
def test_compiled_and_exported(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    given, take = TAKEN[name]
    model, example = Net(take).eval(), few(given)
    assert export_onnx(model, example, tmp_path / "net.onnx") < 1e-4
    if name == "a tensor without dimensions":
        return  # an engine has no such inputs
    engine = secateur.compile(model, example)
    flat = [tensor.numpy() for tensor in tensors(example)]
    want = inputs.run(model, example).detach().numpy()
    assert np.allclose(engine(*flat), want, atol=1e-5)
    ports = [port["name"] for port in engine.info["inputs"]]
    assert len(set(ports)) == len(flat)
    own = {"tensor": ["input"], "one list": ["input0_0", "input0_1"], "nested": ["a_0_x_0"]}
    own |= {"nested by name": ["batch_x"], "named tuple": ["x", "y"]}
    own |= {"tensor and number": ["input"]}
    assert ports == own.get(name, ["x"])
    assert compiled_latency(model, example) > 0


@pytest.mark.parametrize("name", GIVEN)
def test_what_models_give(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, plain = Net(lambda x: x, GIVEN[name]).eval(), Net(lambda x: x).eval()
    plain.load_state_dict(model.state_dict())
    small, _ = secateur.prune(model, 0.5, pattern="channel", example=X[:2])
    assert type(small(X[:2])) is type(model(X[:2]))
    # what is given stays, so the layer that the last one reads keeps its outputs
    assert small.a.weight.shape[0] == 4
    assert small.b.weight.shape[0] == 8

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(tensors(outputs)[0], targets)

    one, _ = secateur.prune(model, 0.5, criterion="taylor", data=[(X, Y)], loss=loss)
    other, _ = secateur.prune(plain, 0.5, criterion="taylor", data=[(X, Y)], loss=loss)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    engine = secateur.compile(model, X[:2])
    for got, want in zip(engine(X[:2].numpy()), tensors(model(X[:2])), strict=True):
        assert np.allclose(got, want.detach().numpy(), atol=1e-5)
    assert export_onnx(model, X[:2], tmp_path / "net.onnx") < 1e-4


def test_parts_of_a_batch_keep_their_kind() -> None:
    batch = ({"x": X, "k": None}, Batch(X, 2.0), Pair(X, X), [UserDict({"x": X})])
    first = inputs.parts(batch, 48)[1]
    assert isinstance(first, tuple)
    assert isinstance(first[1], Batch)
    assert isinstance(first[2], Pair)
    assert isinstance(first[3][0], UserDict)
    assert [len(t) for t in tensors(first)] == [16] * 5
    assert len(batch[1].x) == 64
    assert inputs.named(batch)
    assert list(inputs.named(batch) or ()) == ["0.x", "1.x", "2.x", "2.y", "3.0.x"]


@pytest.mark.parametrize("example", [None, "text", 3, (), {}, {"x": None}, [[]], X.numpy()])
def test_what_is_no_example_is_refused(example: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    with pytest.raises(UsageError, match="example"):
        secateur.prune(model, 0.5, pattern="channel", example=example)
    with pytest.raises(UsageError, match="example"):
        to_onnx(model, example)
