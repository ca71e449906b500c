"""A batch that a file fixes is run in tiles as a free one is, where its samples stay apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kernel_harness
import onnx_models as om
from secateur.compiler import fixed_batch, network, passes, verification
from secateur.compiler.graph import Graph, Node
from secateur.compiler.graph import Tensor as Type
from secateur.compiler.pipeline import compile_network
from secateur.errors import CompileError
from secateur.export import to_onnx

pytest.importorskip("onnx")


class Shaped(nn.Module):
    """Writes its batch into shapes, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(x)).view(len(x), 8 * 36))


class Token(nn.Module):
    """A token of its own before each sample's, and heads folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        heads = x.reshape(len(x), -1, 2, 4).transpose(1, 2).reshape(len(x) * 2, -1, 4)
        mixed = torch.softmax(heads @ heads.transpose(1, 2), -1) @ heads
        own = mixed.reshape(len(x), 2, -1, 4).transpose(1, 2).reshape(len(x), -1, 8)
        return own + self.layer(x, x, x, need_weights=False)[0]


class First(nn.Module):
    """The sequence first, and states for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.zeros(1, len(x), 6), torch.ones(1, len(x), 6)
        out: Tensor = self.layer(x.transpose(0, 1), states)[0]
        return out.transpose(0, 1)


class Grown(nn.Module):
    """A plane that is made larger, to a size that holds the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, size=(9, 7), mode="bilinear") + 1


class Rows(nn.Module):
    """Several rows of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 8))


class Met(nn.Module):
    """Every sample sees the others."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Counted(nn.Module):
    """Each sample has something of its own added."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.arange(len(x))[:, None, None] % 3


class Reversed(nn.Module):
    """The samples in another order."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x).flip(0)


class Times(nn.Module):
    """Time on the first axis, of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[0]
        return out


class Seldom(nn.Module):
    """A sample sees the one on the other side, where that is far larger than any that is drawn."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(x.flip(0) - 1e4)


class Neighbours(nn.Module):
    """The largest of three neighbours, of samples that are far larger than any that is drawn."""

    def forward(self, x: Tensor) -> Tensor:
        most = nn.functional.max_pool2d(x.transpose(0, 1)[None], (3, 1), 1, (1, 0))[0]
        return x + torch.relu(most.transpose(0, 1) - 1e4)


APART: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "shaped": (Shaped, (3, 6, 6)),
    "token": (Token, (5, 8)),
    "first": (First, (5, 8)),
    "grown": (Grown, (3, 6, 5)),
    "rows": (Rows, (3, 8)),
    "linear": (lambda: nn.Linear(16, 16), (16,)),  # its weights begin with the batch, too
}
TOGETHER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "met": (Met, (3, 8)),
    "counted": (Counted, (3, 8)),
    "reversed": (Reversed, (3, 8)),
    "time": (Times, (5, 8)),
    "seldom": (Seldom, (3, 8)),
    "neighbours": (Neighbours, (3, 8)),
}


@pytest.mark.parametrize("batch", [2, 16, 19])
@pytest.mark.parametrize("name", [*APART, *TOGETHER])
def test_an_engine_of_a_fixed_batch_gives_what_torch_gives(name: str, batch: int) -> None:
    make, shape = {**APART, **TOGETHER}[name]
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(batch, *shape)
    with compile_network(to_onnx(model, x, batched=False)).engine(threads=2) as engine:
        info = engine.info
        assert not info["batched"]
        assert info["samples"] == (batch if name in APART else 1)
        assert [tuple(port["shape"]) for port in info["inputs"]] == [(batch, *shape)]
        for _ in range(2):
            x = torch.randn(batch, *shape)
            x[0] += 3e4 * (name in ("seldom", "neighbours"))
            with torch.no_grad():
                wanted = model(x).numpy()
            np.testing.assert_allclose(engine(x.numpy()), wanted, rtol=1e-6, atol=2e-5)
        assert all(seconds >= 0 for _, seconds in engine.profile(x.numpy(), repeats=2))


@pytest.mark.parametrize("name", [*APART, *TOGETHER])
def test_a_part_of_many_samples_tells_whether_they_meet(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "MOST_COMPARED", 1)
    make, shape = {**APART, **TOGETHER}[name]
    torch.manual_seed(0)
    content = to_onnx(make().eval(), torch.randn(19, *shape), batched=False)
    found = network.prepare(content, kernel_harness.machine())
    apart = found.whole is not None
    if found.whole is not None:
        assert found.whole.types[found.whole.inputs[0]].shape[0] == 6
        try:
            verification.truth(found)
        except CompileError:
            apart = False
    assert apart == (name in APART)


def graph(nodes: list[Node], of: tuple[int, ...], **constants: np.ndarray) -> Graph:
    types = {"x": Type(np.dtype(np.float32), of)}
    made = Graph(tuple(nodes), ("x",), ("y",), constants, types)
    return passes.apply(made, passes.PASSES[:1])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_samples_are_told_from_other_axes_of_the_same_extent(count: int) -> None:
    shape = np.array([4, 4, 2, 2])
    one = fixed_batch.of_samples(
        graph([Node("Reshape", "r", ("x", "shape"), ("y",))], (4, 4, 4), shape=shape), count
    )
    assert one.types["x"].shape == (count, 4, 4)
    assert one.types["y"].shape == (count, 4, 2, 2)


@pytest.mark.parametrize(("of", "shape"), [((4, 4), (4, 5)), ((4, 3, 4), (4, 4)), ((4, 2), (2, 4))])
def test_a_matrix_with_as_many_rows_or_columns_as_samples_holds_none(
    of: tuple[int, ...], shape: tuple[int, int]
) -> None:
    weight = np.arange(20, dtype=np.float32)[: shape[0] * shape[1]].reshape(shape)
    whole = graph([Node("MatMul", "m", ("x", "w"), ("y",))], of, w=weight)
    one = fixed_batch.of_samples(whole, 1)
    assert one.types["y"].shape == (1, *of[1:-1], shape[1])
    np.testing.assert_array_equal(one.constants["w"], weight)


def test_a_network_of_another_number_of_samples_can_be_refused() -> None:
    whole = graph([Node("Gather", "g", ("x", "one"), ("y",))], (4, 3), one=np.array([0, 0]))
    with pytest.raises(CompileError, match=r"for 1 samples it gives \[2, 3\]"):
        fixed_batch.of_samples(whole, 1)
    own = np.arange(4, dtype=np.float32)[:, None]
    with pytest.raises(CompileError, match="differs from sample to sample"):
        fixed_batch.of_samples(graph([Node("Add", "a", ("x", "own"), ("y",))], (4, 3), own=own), 1)


@pytest.mark.parametrize("shape", [(3, 0, 4), (0, 4), (2, 64, 0)])
@pytest.mark.parametrize("batched", [True, False])
def test_outputs_that_hold_nothing_are_not_written(shape: tuple[int, ...], batched: bool) -> None:
    dims = ["N", *shape[1:]] if batched else list(shape)
    model = om.model([om.node("Relu", "x", "y")], {"x": dims})
    with compile_network(model.SerializeToString()).engine(threads=2) as engine:
        native, given, outputs, count = engine._prepare([np.zeros(shape, np.float32)])
        room = [np.full(64, 77, np.float32) for _ in outputs]
        if count:
            native.run(*engine._addresses(given, room), count)
        assert all((array == 77).all() for array in room)
        assert engine(np.zeros(shape, np.float32)).shape == shape
