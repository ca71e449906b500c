"""Channels in another order: the same outputs, and more of what matters in fewer blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur
from secateur import nets
from secateur.errors import ScoreError, UsageError
from secateur.pruning.smaller.reordering import gathered, reorder


def gain(magnitudes: np.ndarray, order: np.ndarray, size: int) -> float:
    """What an order is judged by: the squares of what each block holds, summed."""
    blocks = np.array_split(magnitudes[order], range(size, len(order), size))
    return float(sum((block.sum(0) ** 2).sum() for block in blocks))


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 4))
def test_an_order_is_no_worse_than_that_it_was_given(seed: int, channels: int, size: int) -> None:
    magnitudes = np.random.default_rng(seed).exponential(size=(channels, 5)) ** 2
    order = gathered(magnitudes, size)
    assert sorted(order) == list(range(channels))
    blocks = np.arange(channels) // size
    for a, b in itertools.combinations(range(channels), 2):  # no exchange would gain
        if blocks[a] != blocks[b]:
            other = order.copy()
            other[a], other[b] = order[b], order[a]
            found = gain(magnitudes, order, size)
            assert gain(magnitudes, other, size) <= found * (1 + 1e-6)


@given(st.integers(0, 99), st.integers(2, 20), st.sampled_from([2, 3, 4, 16]))
def test_no_exchange_of_two_channels_gains_more(seed: int, channels: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    magnitudes = np.abs(rng.standard_normal((channels, 3)))
    magnitudes[rng.random((channels, 3)) < 0.3] = 0
    found = gathered(magnitudes, size)

    def gained(order: np.ndarray) -> float:
        sets = (magnitudes[order[at : at + size]] for at in range(0, channels, size))
        return float(sum((block.sum(0) ** 2).sum() for block in sets))

    best = gained(found)
    for a, b in itertools.combinations(range(channels), 2):
        other = found.copy()
        other[[a, b]] = other[[b, a]]
        assert gained(other) <= best * (1 + 1e-6)


def test_what_belongs_together_is_found() -> None:
    scattered = np.zeros((8, 2))
    scattered[[0, 2, 4, 6], 0] = scattered[[1, 3, 5, 7], 1] = 1
    blocks = gathered(scattered, 4).reshape(2, 4) % 2
    assert (blocks == blocks[:, :1]).all()


def test_channels_without_weights_are_no_error() -> None:
    assert sorted(gathered(np.zeros((6, 3)), 4)) == list(range(6))


def held(weight: Tensor, rows: int, size: int, keep: float) -> float:
    """What the largest blocks of a matrix hold of the sum of its magnitudes."""
    m = weight.detach().abs()
    m = nn.functional.pad(m, (0, -m.shape[1] % size, 0, -m.shape[0] % rows))
    blocks = m.unflatten(0, (-1, rows)).unflatten(2, (-1, size)).sum((1, 3)).flatten()
    return float(blocks.topk(max(1, round(keep * len(blocks)))).values.sum() / m.sum())


@pytest.mark.parametrize(("hidden", "rows", "size"), [(64, 16, 4), (70, 8, 4), (48, 2, 2)])
def test_blocks_of_several_outputs_hold_more(hidden: int, rows: int, size: int) -> None:
    """Units that do one thing stand scattered, as training leaves them, and come together."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(20, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 8)
    ).eval()
    kinds = torch.randperm(hidden) % 4
    with torch.no_grad():
        for k in (0, 2):
            net[k].weight.mul_(0.1)
            inputs = torch.arange(net[k].weight.shape[1]) % 4 if k == 0 else kinds
            net[k].weight[kinds[:, None] == inputs] *= 20
        net[4].weight[:, kinds > 1] *= 0.05
    x = torch.randn(6, 20)
    made = reorder(net, x, size=size, rows=rows)
    torch.testing.assert_close(made.model(x), net(x))
    assert len(made.moved) == 2
    before, after = (held(m[2].weight, rows, size, 0.3) for m in (net, made.model))
    assert after > 1.2 * before
    with pytest.raises(UsageError, match="rows is 6, but must be 1 or a multiple of size"):
        reorder(net, x, rows=6)


class Joined(nn.Module):
    """Residuals, a concatenation, groups, a flattened plane and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.branch = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(32, 16, 1, groups=2)
        self.last = nn.Linear(16 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x + self.branch(x)
        x = torch.cat([x, self.depthwise(x).relu()], 1)
        x = self.grouped(x).relu()
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        y: Tensor = self.last(x.flatten(1))
        return y


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor values of its own, so that nothing hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.4)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_var is not None
                module.running_var.abs_().add_(0.5)
    return model.eval()


@pytest.mark.parametrize("net", ["joined", "resnet20", "dctnet-s"])
def test_outputs_are_the_same(net: str) -> None:
    model = drawn(Joined() if net == "joined" else nets.build(net))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = reorder(model, images)
    assert sum(made.moved.values()) >= 16
    with torch.inference_mode():
        torch.testing.assert_close(made.model(images), model(images), rtol=1e-3, atol=1e-4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # the given one stays
    assert not made.model.training


def test_blocks_hold_more_of_the_weights() -> None:
    model = drawn(nets.build("resnet20"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.pow_(3)
    made = reorder(model, torch.rand(2, 3, 32, 32)).model

    def share(net: nn.Module) -> float:
        names = [name for name, p in net.named_parameters() if p.dim() == 4 and p.shape[1] >= 16]
        weights = [net.get_parameter(name).detach().abs() for name in names]
        blocks = torch.cat([w.unflatten(1, (-1, 4)).sum(2).flatten() for w in weights])
        return float(blocks.topk(len(blocks) // 10).values.sum() / blocks.sum())

    assert share(made) > 1.02 * share(model)


class Counted(nn.Module):
    """Its code tells channels apart by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        self.register_buffer("which", torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        order = x.abs().mean(0).argsort()
        y: Tensor = self.last(x[:, order])
        return y


def test_channels_that_cannot_change_places_stay() -> None:
    model = drawn(Counted())
    x = torch.rand(4, 8, generator=torch.Generator().manual_seed(3))
    made = secateur.reorder(model, x)
    with torch.inference_mode():
        torch.testing.assert_close(made.model(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    model = drawn(Joined())
    with torch.no_grad():
        model.get_parameter("last.weight")[0, 3] = bad
        model.get_parameter("branch.weight")[0, 3] = bad
    with pytest.raises(ScoreError, match=r"weights of 'branch.weight' are NaN or infinite"):
        reorder(model, torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_an_order_does_not_depend_on_the_scale(scale: float) -> None:
    magnitudes = np.random.default_rng(0).exponential(size=(12, 5)) ** 2
    np.testing.assert_array_equal(gathered(magnitudes * scale, 4), gathered(magnitudes, 4))


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(UsageError, match="size"):
        reorder(Joined(), torch.rand(2, 3, 8, 8), size=1)
    with pytest.raises(UsageError, match="model is"):
        reorder("a file", torch.rand(2, 3))  # type: ignore[arg-type]
