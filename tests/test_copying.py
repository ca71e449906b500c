"""Models that keep things of their last pass are copied; of others the attribute is named."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import secateur
from secateur.distillation import SoftTargets, distilled
from secateur.errors import UsageError
from secateur.model.copying import copied


@dataclass
class Record:
    last: Tensor | None = None


@dataclass(slots=True)
class Slots:
    last: Tensor | None = None


class Keeping(nn.Module):
    """Keeps a tensor of every pass, with its graph, where `keep` puts it."""

    def __init__(self, keep: Callable[[Any, Tensor], None], kept: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.keep, self.kept = keep, kept

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        self.keep(self, x)
        y: Tensor = self.c(torch.relu(self.b(x)))
        return y


class Buffered(Keeping):
    def __init__(self) -> None:
        super().__init__(lambda m, x: setattr(m, "state", x))
        self.register_buffer("state", None, persistent=False)


PLACES: dict[str, Callable[[], nn.Module]] = {
    "attribute": lambda: Keeping(lambda m, x: setattr(m, "kept", x)),
    "two views": lambda: Keeping(lambda m, x: setattr(m, "kept", (x, x[:, :4], x.T))),
    "list": lambda: Keeping(lambda m, x: m.kept.append(x), []),
    "deque": lambda: Keeping(lambda m, x: m.kept.append(x), deque(maxlen=3)),
    "dict": lambda: Keeping(lambda m, x: m.kept["a"].update(b=[x]), {"a": {}}),
    "dataclass": lambda: Keeping(lambda m, x: setattr(m.kept, "last", x), Record()),
    "slots": lambda: Keeping(lambda m, x: setattr(m.kept, "last", x), Slots()),
    "namespace": lambda: Keeping(lambda m, x: setattr(m.kept, "x", x), SimpleNamespace()),
    "partial": lambda: Keeping(lambda m, x: setattr(m, "kept", partial(torch.add, x))),
    "buffer": Buffered,
}


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, partial):
        return list(value.args)
    if isinstance(value, Mapping):
        return [t for item in value.values() for t in tensors(item)]
    if isinstance(value, (list, tuple, deque)):
        return [t for item in value for t in tensors(item)]
    if isinstance(value, Slots):
        return tensors(value.last)
    return tensors(vars(value)) if hasattr(value, "__dict__") else []


@pytest.mark.parametrize("place", PLACES)
def test_what_a_model_keeps_of_its_last_pass(place: str) -> None:
    torch.manual_seed(0)
    model, x = PLACES[place](), torch.randn(16, 8)
    model(x)
    held = model.state if isinstance(model, Buffered) else model.kept
    before = tensors(held)
    assert before
    assert all(t.grad_fn is not None for t in before)
    twin = copied(model)
    after = tensors(twin.state if isinstance(twin, Buffered) else twin.kept)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
        assert one is not other
        assert other.grad_fn is None
        assert one.grad_fn is not None
    pruned, _ = secateur.prune(model, 0.3)
    pruned(x).sum().backward()
    assert secateur.prune(model, 0.5, pattern="channel", example=x[:2])[0].b.in_features == 16
    data = [(x, torch.zeros(16).long()), (x, torch.zeros(16).long())]
    for options in ({"criterion": "wanda"}, {"criterion": "taylor"}, {"recover": "reconstruct"}):
        loss = nn.functional.cross_entropy
        secateur.prune(model, 0.3, data=data, loss=loss, **options)  # type: ignore[arg-type]


def test_gradients_that_have_a_graph() -> None:
    model, scale = nn.Linear(3, 2), torch.ones(3, requires_grad=True)
    loss = (model(torch.ones(1, 3) * scale) ** 2).sum()
    (scale.grad,) = torch.autograd.grad(loss, [scale], create_graph=True)
    model.scale = scale
    assert torch.equal(copied(model).scale.grad, scale.grad)


@pytest.mark.parametrize("make", [weakref.ref, weakref.proxy])
def test_weak_references_are_to_the_copy(make: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].around = make(model)
    model[1].others = {"a": [make(model[0])]}
    elsewhere = nn.Linear(1, 1)
    model[1].beside = make(elsewhere)
    twin = copied(model)

    def behind(value: Any) -> Any:
        return value() if make is weakref.ref else value.__repr__.__self__

    assert behind(twin[0].around) is twin
    assert behind(twin[1].others["a"][0]) is twin[0]
    assert behind(twin[1].beside) is elsewhere
    assert behind(model[0].around) is model


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")
def test_compiled_parts_hooks_and_parametrizations() -> None:
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 2))
    model[2].register_forward_hook(lambda m, i, o: seen.append(o))
    parametrizations.orthogonal(model[3])
    model[0] = torch.compile(model[0])  # type: ignore[assignment]
    x = torch.randn(4, 8)
    with torch.no_grad():
        want = model[1:](model[0]._orig_mod(x))
    twin = copied(model)
    assert twin[0]._orig_mod.weight is not model[0]._orig_mod.weight
    with torch.no_grad():
        assert torch.equal(twin[1:](twin[0]._orig_mod(x)), want)
    seen.append(torch.ones(1, requires_grad=True) * 2)  # what a closure holds is not copied
    assert copied(model)[3].parametrizations.keys() == {"weight"}


@pytest.mark.parametrize(
    "thing", [threading.Lock, lambda: (i for i in range(3)), lambda: threading, threading.Event]
)
@pytest.mark.parametrize("call", ["prune", "channels", "copied"])
def test_what_cannot_be_copied_is_named(thing: Callable[[], Any], call: str) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    model[1].handle = {"in": [thing()]}
    calls: dict[str, Callable[[], object]] = {
        "copied": lambda: copied(model),
        "prune": lambda: secateur.prune(model, 0.5),
        "channels": lambda: secateur.prune(model, 0.5, pattern="channel", example=torch.ones(1, 8)),
    }
    with pytest.raises(UsageError, match=r"its attribute '1\.handle'") as refused:
        calls[call]()
    assert ("in_place=True" in str(refused.value)) == (call == "prune")
    if call == "prune":
        secateur.prune(model, 0.5, in_place=True)


def test_teachers_and_compiled_models_that_keep_a_tensor() -> None:
    model, x = Keeping(lambda m, x: setattr(m, "kept", x)), torch.randn(16, 8)
    model(x)
    data: Any = secateur.LoaderData([(x, torch.zeros(16).long())])
    loss = nn.functional.cross_entropy
    taught, _ = distilled(data, loss, model, SoftTargets(), 0.5, autocast=False)
    assert next(taught.epoch(16, torch.Generator()))[1][1].shape == (16, 4)
    engine = secateur.compile(model, x[:1])
    with torch.no_grad():
        assert abs(engine(x[:1].numpy()) - model(x[:1]).numpy()).max() < 1e-5


class Remembering(nn.Module):
    """Keeps in evaluation what it made of a parameter, until its mode is set, as timm's LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
        self.scales = nn.Parameter(torch.randn(8))
        self.made: Tensor | None = None

    def train(self, mode: bool = True) -> Remembering:
        self.made = None
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.made is None:
            self.made = self.scales.exp()
        y: Tensor = self.b(self.a(x) * self.made)
        return y


def test_what_is_made_of_weights_is_made_anew() -> None:
    model, x = nn.Sequential(Remembering(), nn.Dropout()).eval(), torch.randn(3, 6)
    model[1].train()
    with torch.no_grad():
        model(x)
    scores = {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() > 1}
    groups = secateur.channel_groups(model, x)
    cut = secateur.select_channels(scores, groups, secateur.Budget(0.5))
    small = secateur.shrink(model, cut, x).model
    assert [module.training for module in small.modules()] == [False] * 4 + [True]
    small[1].eval()
    with torch.no_grad():
        assert small(x).shape == (3, 4)
        plan = secateur.prunable(model, include=["*.scales"], include_first=True)
        pruned, _ = secateur.prune(model, 0.25, plan=plan)
        pruned[1].eval()
        old = pruned(x)
        assert torch.equal(old, pruned.train().eval()(x))
