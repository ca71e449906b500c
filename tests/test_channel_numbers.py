"""Sizes that a module keeps in numbers, wherever they lie, follow the channels that are cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur


class Sizes(NamedTuple):
    first: int
    second: int


@dataclass(frozen=True)
class Frozen:
    sizes: tuple[int, int]
    name: str = "a"


@dataclass
class Nested:
    inner: dict[str, Any] = field(default_factory=dict)


class Config(MutableMapping[str, Any]):
    """A mapping of its own kind, as configuration libraries have them."""

    def __init__(self, **values: Any) -> None:
        self._content = values

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._content = {**self._content, key: value}

    def __delitem__(self, key: str) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


class Split(nn.Module):
    """A split whose sizes are told by whatever the module holds."""

    def __init__(self, sizes: tuple[int, ...], held: Any, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.held, self.read = held, read
        self.stem = nn.Conv2d(3, sum(sizes), 1)
        self.own = nn.ModuleList(nn.Conv2d(size, size, 1) for size in sizes)
        self.head = nn.Conv2d(sum(sizes), 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.split(self.stem(x), self.read(self.held), 1)
        return self.head(
            torch.cat([layer(piece) for layer, piece in zip(self.own, pieces, strict=True)], 1)
        )


SPLITS: dict[str, tuple[tuple[int, ...], Any, Callable[[Any], Any]]] = {
    "tuple": ((8, 8), (8, 8), lambda z: z),
    "list": ((4, 12), [4, 12], lambda z: z),
    "three, two alike": ((4, 4, 8), (4, 4, 8), lambda z: z),
    "torch.Size": ((4, 12), torch.Size((4, 12)), list),
    "numpy": ((4, 12), (np.int64(4), np.int64(12)), lambda z: [int(n) for n in z]),
    "named tuple": ((4, 12), Sizes(4, 12), list),
    "fields of a named tuple": ((4, 12), Sizes(4, 12), lambda z: [z.first, z.second]),
    "dict": ((4, 12), {"a": 4, "b": 12}, lambda z: [z["a"], z["b"]]),
    "dict by number": ((4, 12), {0: 4, 1: 12}, lambda z: [z[0], z[1]]),
    "nested": ((4, 12), {"x": [{"y": (4, 12)}]}, lambda z: z["x"][0]["y"]),
    "list of tuples": ((4, 4, 8), [(4, 4), (8,)], lambda z: [*z[0], *z[1]]),
    "frozen dataclass": ((4, 12), Frozen((4, 12)), lambda z: z.sizes),
    "nested dataclass": ((4, 12), Nested({"z": [4, 12]}), lambda z: z.inner["z"]),
    "namespace": ((4, 12), SimpleNamespace(a=4, b=12), lambda z: [z.a, z.b]),
    "a mapping of its own": ((4, 12), Config(a=4, b=12), lambda z: [z["a"], z["b"]]),
}


def cut(model: nn.Module, x: Tensor, keep: float = 0.5) -> nn.Module:
    """Prune, and hold that all of it became smaller, and that nothing of the original changed."""
    model.eval()
    before = copy.deepcopy({name: repr(vars(m)) for name, m in model.named_modules()})
    want = model(x)
    pruned, result = secateur.prune(model, keep, pattern="channel", example=x)
    assert not [note for note in result.notes if "was not made smaller" in note]
    assert {name: repr(vars(m)) for name, m in model.named_modules()} == before
    assert torch.equal(model(x), want)
    assert pruned(x).shape == want.shape
    assert pruned(torch.cat([x, x])).shape[0] == 2 * len(x)
    return pruned


@pytest.mark.parametrize("name", SPLITS)
def test_sizes_of_a_split(name: str) -> None:
    torch.manual_seed(0)
    sizes, held, read = SPLITS[name]
    model = Split(sizes, held, read)
    pruned = cut(model, torch.randn(2, 3, 4, 4))
    assert pruned.stem.weight.shape[0] == sum(sizes) // 2
    assert [layer.in_channels for layer in pruned.own] == list(read(pruned.held))
    assert type(pruned.held) is type(held)


class Shaped(nn.Module):
    """Shapes of views, told in several ways."""

    def __init__(self, shape: Any, way: str) -> None:
        super().__init__()
        self.shape, self.way = shape, way
        self.a, self.b = nn.Linear(6, 8 * 3), nn.Linear(8, 2)
        self.unflatten = nn.Unflatten(1, (8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.way == "view":
            x = x.view(self.shape)
        elif self.way == "star":
            x = x.reshape(len(x), *self.shape)
        elif self.way == "unflatten":
            x = x.unflatten(1, self.shape)
        else:
            x = self.unflatten(x)
        return self.b(F.relu(x).amax(2))


@pytest.mark.parametrize(
    ("shape", "way"),
    [
        ((-1, 8, 3), "view"),
        ([-1, 8, 3], "view"),
        ((8, 3), "star"),
        ((8, 3), "unflatten"),
        ((8, -1), "unflatten"),
        (None, "module"),
    ],
)
def test_shapes_of_views(shape: Any, way: str) -> None:
    torch.manual_seed(0)
    pruned = cut(Shaped(shape, way), torch.randn(2, 6))
    assert pruned.b.weight.shape == (2, 4)
    assert pruned.a.weight.shape[0] == 12


class Sliced(nn.Module):
    """One layer reads a slice; the numbers say where it begins, ends, or how long it is."""

    def __init__(self, held: Any, take: Callable[[Tensor, Any], Tensor], size: int) -> None:
        super().__init__()
        self.held, self.take = held, take
        self.stem, self.own = nn.Linear(6, 16), nn.Linear(size, 5)
        self.head, self.end = nn.Linear(16, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.end(self.own(self.take(x, self.held)) + self.head(x))


@pytest.mark.parametrize(
    ("held", "take", "size"),
    [
        (slice(4, 12), lambda x, z: x[:, z], 8),
        (slice(None, 5), lambda x, z: x[:, z], 5),
        (slice(-5, None), lambda x, z: x[:, z], 5),
        (6, lambda x, z: x[:, z:], 10),
        (6, lambda x, z: x[:, :-z], 10),
        ((4, 7), lambda x, z: x.narrow(1, *z), 7),
        ([4, 4], lambda x, z: x.narrow(1, *z), 4),
        ({"from": 4, "to": 11}, lambda x, z: x[:, z["from"] : z["to"]], 7),
        ((5, 10), lambda x, z: torch.tensor_split(x, z, 1)[1], 5),
    ],
)
def test_where_slices_begin_and_end(held: Any, take: Any, size: int) -> None:
    torch.manual_seed(0)
    pruned = cut(Sliced(held, take, size), torch.randn(2, 6))
    assert pruned.stem.weight.shape[0] < 16
    assert type(pruned.held) is type(held)


def test_two_numbers_that_were_one_size() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = 4, 4
            self.stem, self.rest = nn.Linear(6, 16), nn.Linear(8, 4)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            sizes = [self.first, self.second, y.shape[1] - self.first - self.second]
            a, b, c = torch.split(y, sizes, 1)
            return self.head(torch.cat([self.a(a), self.b(b), self.rest(c)], 1))

    torch.manual_seed(0)
    model = Two()
    with torch.no_grad():
        model.stem.weight[:4] *= 3
        model.a.weight *= 3
    budget = secateur.Budget(0.4, scope="global", pattern="channel")
    pruned, _ = secateur.prune(model, budget, example=torch.randn(2, 6))
    assert (pruned.first, pruned.second) == (pruned.a.in_features, pruned.b.in_features)
    assert pruned.first > pruned.second


def test_numbers_of_the_module_around() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor, sizes: list[int]) -> list[Tensor]:
            return list(torch.split(x, sizes, 1))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = [4, 12]
            self.stem, self.inner = nn.Linear(6, 16), Inner()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.inner(self.stem(x), self.sizes)
            return self.a(a) + self.b(b)

    torch.manual_seed(0)
    pruned = cut(Outer(), torch.randn(2, 6))
    assert pruned.sizes == [pruned.a.in_features, pruned.b.in_features]


def test_an_object_that_modules_share_is_each_ones_own_afterwards() -> None:
    config = SimpleNamespace(width=8, out=2)

    class Half(nn.Module):
        def __init__(self, config: SimpleNamespace) -> None:
            super().__init__()
            self.config = config
            self.a, self.b = nn.Linear(6, 24), nn.Linear(config.width, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(len(x), self.config.width, 3).amax(2))

    torch.manual_seed(0)
    model = nn.Sequential(Half(config), Half(config))
    with torch.no_grad():
        model[0].a.weight *= 5
    budget = secateur.Budget(0.5, scope="global", pattern="channel")
    pruned, result = secateur.prune(model, budget, example=torch.randn(2, 6))
    assert not [note for note in result.notes if "was not made smaller" in note]
    widths = [half.config.width for half in pruned]
    assert widths == [half.b.in_features for half in pruned]
    assert widths[0] != widths[1]
    assert config.width == 8


def test_numbers_that_only_look_like_sizes_stay() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel_size, self.pieces = (8, 8), (8, 8)
            self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.stem(x).split(self.pieces, 1)
            return self.head(F.avg_pool2d(a * b, self.kernel_size).flatten(1))

    torch.manual_seed(0)
    model = Pool()
    pruned = cut(model, torch.randn(1, 3, 8, 8))
    assert (pruned.kernel_size, pruned.pieces) == ((8, 8), (4, 4))
