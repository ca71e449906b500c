"""No layer is left without channels: random networks of slices, splits, concatenations and sums."""

from __future__ import annotations

import random
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.errors import BudgetError
from secateur.pruning.channels import channel_groups, select_channels
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.smaller.shrinking import shrink


class Random(nn.Module):
    """A chain of blocks drawn from a seed; each takes and gives `width` channels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        width = draw.choice([6, 8, 12])
        self.stem = nn.Conv2d(3, width, 1)
        self.kinds = [draw.choice(KINDS) for _ in range(3)]
        self.blocks = nn.ModuleList(kind(width, draw) for kind in self.kinds)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(F.relu(x))
        return self.head(x.mean((2, 3)))


class Part(nn.Module):
    """A convolution reads a slice at the start, as in FasterNet."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__()
        self.taken = draw.randrange(1, width)
        self.own = nn.Conv2d(self.taken, self.taken, 3, padding=1)
        self.after = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, [self.taken, x.shape[1] - self.taken], 1)
        return x + self.after(torch.cat((self.own(a), b), 1))


class Middle(nn.Module):
    """A slice in the middle is read, normalised and pooled alone."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__()
        self.start = draw.randrange(1, width // 2)
        self.size = draw.randrange(1, width // 3 + 1)
        self.norm = nn.BatchNorm2d(self.size)
        self.read = nn.Conv2d(self.size, width, 1)
        self.all = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        some = self.all(x)[:, self.start : self.start + self.size]
        return x + self.read(F.max_pool2d(self.norm(some), 3, 1, 1))


class Branches(nn.Module):
    """Pieces of different sizes, each with a layer of its own, depthwise and grouped."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__()
        first = draw.randrange(1, width - 2)
        second = draw.randrange(1, width - first)
        self.sizes = [first, second, width - first - second]
        self.depthwise = nn.Conv2d(first, first, 3, padding=1, groups=first)
        self.plain = nn.Conv2d(second, second, 1)
        self.mix = nn.Conv2d(width, width, 1, groups=draw.choice([1, 2]))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(x, self.sizes, 1)
        return self.mix(torch.cat((c, self.depthwise(a), self.plain(b)), 1))


class Heads(nn.Module):
    """Tokens of a plane, projected together, attend by heads, of which one is read twice."""

    def __init__(self, width: int, draw: random.Random) -> None:
        super().__init__()
        self.heads = 2
        self.size = draw.choice([2, 3])
        self.qkv = nn.Linear(width, 3 * self.heads * self.size)
        self.one = nn.Linear(self.size, width)
        self.out = nn.Linear(self.heads * self.size, width)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        tokens = tokens + self.out(y.flatten(2)) + self.one(y[:, :, 1])
        return tokens.transpose(1, 2).reshape(n, -1, h, w)


KINDS = [Part, Middle, Branches, Heads]


def audible(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return model.eval()


@pytest.mark.parametrize("seed", range(30))
def test_random_networks_are_cut_to_the_least_that_can_be(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = audible(Random(seed)), torch.randn(2, 3, 4, 4)
    groups = channel_groups(model, x)
    scores = {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() > 1}
    earlier = None
    reached = []
    with pytest.raises(BudgetError, match=r"'\S+' \(\d+\)") as refused:
        select_channels(scores, groups, Budget(1e-9, "layer"))
    found = re.search(r"at least ([\d.]+)", str(refused.value))
    assert found
    least = float(found[1])
    for keep in (0.9, 0.7, 0.4, 0.25, 0.12, least):
        if keep < least:
            continue
        cut = select_channels(scores, groups, Budget(keep, "layer"))
        assert cut.kept == Budget(keep).count(groups.units)
        assert earlier is None or cut.nested_in(earlier)
        for axis in groups.axes:
            assert not cut.cut.issuperset(axis.units), axis.name
        earlier = cut
        small = shrink(model, cut, x)
        assert not small.refused
        masked = audible(Random(seed))
        masked.load_state_dict(model.state_dict())
        cut.apply(masked)
        with torch.no_grad():
            assert torch.allclose(small.model(x), masked(x), atol=1e-4)
        reached.append(small.after)
    assert reached[-1] < reached[0] < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("scope", ["layer", "global", ("1.after*",)])
@pytest.mark.parametrize("multiple", [1, 2])
def test_a_slice_keeps_a_channel_whatever_the_scores_say(scope: object, multiple: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), Part(12, random.Random(2)), nn.Conv2d(12, 2, 1))
    taken = model[1].taken
    assert isinstance(taken, int)
    with torch.no_grad():
        model[0].weight[:taken] *= 1e-3
        model[1].after.weight[:taken] *= 1e-3
        model[1].own.weight.mul_(1e-3)
    pruned, result = secateur.prune(
        model,
        secateur.Budget(0.3, scope=scope, pattern="channel"),  # type: ignore[arg-type]
        multiple=multiple,
        example=torch.randn(1, 3, 4, 4),
    )
    own = pruned.get_submodule("1.own")
    assert isinstance(own, nn.Conv2d)
    assert own.in_channels >= 1
    assert own.out_channels >= 1
    assert not any("was not made smaller" in note for note in result.notes)


def test_what_does_nothing_goes_but_for_one_channel_of_a_slice() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), Part(12, random.Random(2)), nn.Conv2d(12, 2, 1))
    x = torch.randn(1, 3, 4, 4)
    taken = model[1].taken
    assert isinstance(taken, int)
    with torch.no_grad():
        model[0].weight[:taken] = 0
        model[0].bias[:taken] = 0
        for parameter in model[1].own.parameters():
            parameter.zero_()
        model[1].after.weight[:taken] = 0
        model[1].after.bias[:taken] = 0
        want = model(x)
    small = shrink(model, None, x)
    assert not small.refused
    own = small.model.get_submodule("1.own")
    assert isinstance(own, nn.Conv2d)
    assert own.in_channels == 1
    assert torch.allclose(small.model(x), want, atol=1e-5)
