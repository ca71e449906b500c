"""Channels: what is coupled is found, and whole units are cut by an exact budget."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from channel_nets import NETS, made
from channel_transformers import HardCoded
from secateur import Budget
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.pruning.channels import ChannelCut, Groups, Part, channel_groups, select_channels


def transformer(heads: str) -> dict[str, int]:
    """Return the groups of two blocks: four heads, and the hidden layer of an MLP."""
    return {f"blocks.{i}.{n}": c for i in (0, 1) for n, c in ((heads, 4), ("mlp.0.weight", 20))}


# Net → group → how many units; a group is named by the first weight that writes it.
EXPECTED = {
    "plain": {"0.weight": 8, "3.weight": 12, "7.weight": 6, "11.weight": 10},
    "resnet": {
        "0.0.weight": 8,  # the first residual stream
        "1.a.0.weight": 8,
        "2.a.0.weight": 12,
        "2.b.0.weight": 12,  # the second, with its downsample
        "3.a.0.weight": 12,
    },
    "dense": {"stem.weight": 6, **{f"layers.{i}.weight": 4 for i in range(3)}, "join.weight": 8},
    "mobilenet": {"0.0.weight": 8, "2.expand.0.weight": 16, "2.reduce.weight": 4},
    "resnext": {"0.weight": 3, "2.weight": 6, "4.weight": 8},  # one of each of 4 groups
    "shuffle": {"stem.weight": 8},  # one of each half
    "unet": {"a.0.weight": 6, "b.0.weight": 10, "up.weight": 6, "c.weight": 8, "smooth.weight": 6},
    "superres": {"0.weight": 16, "2.weight": 8},  # pixel shuffle: four channels each
    "vit": transformer("attention.qkv.weight"),
    "swin": {"qkv.weight": 4},
    "gpt": transformer("attention.attn.weight"),
    "llama": {"q.weight": 4, "gate.weight": 24},  # a key-value head with its two query heads
    "mha": {"mlp.0.weight": 24},
    "encoder": {"linear1.weight": 24},
    "lstm": {"chain.0.weight": 20},
    "reused": {"first.weight": 12, "side.weight": 8},
    "gated": {"a.weight": 12, "b.weight": 8},
    "conv1d": {"0.weight": 8, "4.weight": 6},
    "conv3d": {"0.weight": 6, "4.weight": 8},
}

# Net → weight → words of the reason why its outputs stay.
STAY = {
    "plain": {"13.weight": "output of the network"},
    "vit": {"patches.weight": "layer_norm", "blocks.0.attention.proj.weight": "layer_norm"},
    "gpt": {"tokens.weight": "index", "places.weight": "layer_norm"},
    "llama": {"o.weight": "in norm1"},
    "mha": {"attention.in_proj_weight": "attention is an nn.MultiheadAttention"},
    "encoder": {"self_attn.in_proj_weight": "self_attn is an nn.MultiheadAttention"},
    "lstm": {"rnn.weight_ih_l0": "rnn is an nn.LSTM"},
    "resnet20": {"layer2.0.conv2.weight": "16 of 32: "},
}


def magnitudes(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() > 1}


@pytest.fixture
def vit() -> tuple[nn.Module, Tensor, Groups]:
    model, example = made("vit")
    return model, example, channel_groups(model, example)


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Groups]:
    model, example = made("resnet")
    return model, channel_groups(model, example)


@pytest.mark.parametrize("name", EXPECTED)
def test_coupled_groups(name: str) -> None:
    found = channel_groups(*made(name))
    assert {group.name: len(group) for group in found} == EXPECTED[name]


@pytest.mark.parametrize("name", STAY)
def test_what_stays_has_a_reason(name: str) -> None:
    blocked = channel_groups(*made(name)).blocked
    for weight, words in STAY[name].items():
        assert words in blocked[weight]


def test_a_unit_is_all_that_belongs_to_it(vit: tuple[nn.Module, Tensor, Groups]) -> None:
    _, _, found = vit
    parts = found.parts(found[0].units[1])  # the second head of four, each of four channels
    rows = [16 * part + 4 + channel for part in range(3) for channel in range(4)]
    columns = [4 + channel for channel in range(4)]
    assert set(parts) == {
        *(Part("blocks.0.attention.qkv.weight", 0, row) for row in rows),
        *(Part("blocks.0.attention.qkv.bias", 0, row) for row in rows),
        *(Part("blocks.0.attention.proj.weight", 1, column) for column in columns),
    }


def test_running_statistics_belong_to_their_channel(resnet: tuple[nn.Module, Groups]) -> None:
    names = {part.name for part in resnet[1].parts(0)}
    assert {"0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var"} <= names


def test_groups_are_values() -> None:
    first, second = (channel_groups(*made("resnet")) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != channel_groups(*made("resnet"), exclude=["1.a*"])
    assert "52 units" in repr(first)
    assert "output of the network" in repr(first)


def test_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    channel_groups(model, torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert [module.training for module in model.modules()] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    model(torch.ones(3, 4)).sum().backward()


class Through(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: object) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda x: torch.fft.fft(x).real, "aten._fft_r2c"),
        (lambda x: x.softmax(-1), "aten.softmax"),
        (lambda x: x.log(), "aten.log"),
        (lambda x: 1 / x, "aten.reciprocal"),
        (lambda x: x + torch.arange(8.0), "not pruned"),
        (lambda x: x[:, [1, 0, 3, 2, 5, 4, 7, 6]], "position"),
        (lambda x: x.roll(1, -1), "is rolled"),
        (lambda x: x - x.mean(-1, keepdim=True), "aten.mean"),
        (lambda x: torch.zeros(2, 8).copy_(x), "written into a tensor that is not pruned"),
        (lambda x: x.clone().copy_(x.sigmoid()), "need not be zero"),
        (lambda x: x * x[:, 2:3], "position"),
        (lambda x: x @ torch.eye(8), "not pruned"),
        (lambda x: x.sigmoid().sum(-1, keepdim=True).expand(-1, 8), "aten.sum"),
        (lambda x: nn.functional.group_norm(x, 2), "group_norm"),
    ],
)
def test_channels_that_cannot_be_told_apart_stay(between: object, words: str) -> None:
    blocked = channel_groups(Through(between), torch.randn(2, 4)).blocked
    assert words in blocked["a.weight"]


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.clamp(-1, 2) * 3,
        lambda x: torch.where(x > 0, x, -x),
        lambda x: x.flip(-1),
        lambda x: x.unsqueeze(1).repeat(1, 3, 1).mean(1),
        lambda x: x.view(2, 2, 4).transpose(1, 2).reshape(2, 8),
        lambda x: torch.stack([x, -x], 1).amax(1),
        lambda x: torch.einsum("bi,bi->bi", x, x),
        lambda x: x / (1 + x.abs()),
    ],
)
def test_channels_are_followed(between: object) -> None:
    found = channel_groups(Through(between), torch.randn(2, 4))
    assert [group.name for group in found] == ["a.weight"]


def test_an_excluded_tensor_keeps_its_channels() -> None:
    model, example = made("plain")
    found = channel_groups(model, example, exclude=["3.*"])
    assert [group.name for group in found] == ["7.weight", "11.weight"]  # 0 is read by 3
    assert found.blocked["3.weight"] == "excluded by '3.*'"
    with pytest.raises(UsageError, match=r"'nothing' of exclude .*0\.weight"):
        channel_groups(model, example, exclude=["nothing"])
    with pytest.raises(UsageError, match="exclude is '3"):
        channel_groups(model, example, exclude="3.*")


@pytest.mark.parametrize(
    ("example", "words"),
    [(torch.ones(2, 5), "example: .*2x5"), ("text", "str"), (7, "int")],
)
def test_an_example_that_is_none(example: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        channel_groups(nn.Linear(4, 2), example)  # type: ignore[arg-type]


def test_arguments_in_a_tuple_or_by_name() -> None:
    model, example = made("gated")
    assert (
        channel_groups(model, (example,))
        == channel_groups(model, {"x": example})
        == channel_groups(model, example)
    )


def test_wrappers_are_looked_through() -> None:
    model, example = made("gated")
    assert channel_groups(torch.compile(model, backend="eager"), example) == channel_groups(
        model, example
    )
    assert channel_groups(nn.DataParallel(model), example) == channel_groups(model, example)


@pytest.mark.parametrize("scope", ["global", "layer", ("1.*", "2.*")])
@given(keep=st.floats(0.15, 1), seed=st.integers(0, 9), levels=st.sampled_from([1, 2, 1000]))
def test_exactly_k_units_and_nested(
    resnet: tuple[nn.Module, Groups], scope: object, keep: float, seed: int, levels: int
) -> None:
    model, found = resnet
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.randint(0, levels, weight.shape, generator=generator).float()
        for name, weight in magnitudes(model).items()
    }
    budget = Budget(keep, scope)  # type: ignore[arg-type]
    cut = select_channels(scores, found, budget)
    assert cut.kept == cut.requested == budget.count(52)
    assert all(kept >= 1 for kept, _ in cut.layers.values())
    wider = select_channels(scores, found, Budget(min(1, keep * 1.3), scope))  # type: ignore[arg-type]
    assert cut.nested_in(wider)
    if scope == "layer":
        assert all(abs(kept - keep * n) <= 1 for kept, n in cut.layers.values())


def test_ties_are_broken_by_position(resnet: tuple[nn.Module, Groups]) -> None:
    model, found = resnet
    scores = {name: torch.ones_like(weight) for name, weight in magnitudes(model).items()}
    cut = select_channels(scores, found, Budget(0.5, "layer"))
    for group in found:
        half = len(group) // 2
        assert cut.cut.isdisjoint(group.units[:half])
        assert cut.cut.issuperset(group.units[half:])


def test_a_units_score_is_the_mean_of_its_weights() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(x + self.b(x))

    model = Loop()
    found = channel_groups(model, torch.ones(1, 2))
    torch.manual_seed(0)
    a, b, c = torch.rand(3, 2), torch.rand(3, 3), torch.rand(1, 3)
    scores = {"a.weight": a, "b.weight": b, "c.weight": c}
    # A row of a, row and column of b with their crossing once, a column of c: 2 + 5 + 1 weights.
    means = (a.sum(1) + b.sum(0) + b.sum(1) - b.diag() + c[0]) / 8
    order = means.argsort(descending=True).tolist()
    assert set(range(3)) - select_channels(scores, found, Budget(1 / 3)).cut == {order[0]}
    assert select_channels(scores, found, Budget(2 / 3)).cut == {order[2]}


def test_minimum_and_multiple(resnet: tuple[nn.Module, Groups]) -> None:
    model, found = resnet
    scores = magnitudes(model)
    for name in ("2.a.0.weight", "3.b.0.weight"):
        scores[name] = scores[name] * 0
    cut = select_channels(scores, found, Budget(0.5), minimum=4)
    assert cut.kept == 26
    assert min(kept for kept, _ in cut.layers.values()) >= 4
    rounded = select_channels(scores, found, Budget(0.5), multiple=4)
    assert all(kept % 4 == 0 and 4 <= kept <= n for kept, n in rounded.layers.values())
    assert rounded.requested == 26
    wide = select_channels(scores, found, Budget(0.5), multiple=100)
    assert wide.kept == wide.total


def test_channels_that_stay_count_for_the_minimum() -> None:
    model, example = made("resnet20")
    found = channel_groups(model, example)
    cut = select_channels(magnitudes(model), found, Budget(0.06), minimum=2)
    assert cut.layers["conv1.weight"][0] >= 2  # the first stage has no channel that stays
    assert cut.kept == round(0.06 * 352)


def test_overrides_and_floors(resnet: tuple[nn.Module, Groups]) -> None:
    model, found = resnet
    scores = magnitudes(model)
    cut = select_channels(scores, found, Budget(0.5, overrides={"3.b*": 1.0, "1.a*": 0.25}))
    assert cut.layers["2.b.0.weight"] == (12, 12)  # 3.b writes the same stream
    assert cut.layers["1.a.0.weight"] == (2, 8)
    assert cut.kept == 26
    floored = select_channels(scores, found, Budget(0.4, floor=0.3))
    assert all(kept >= 0.3 * n for kept, n in floored.layers.values())
    with pytest.raises(BudgetError, match=r" 20; .* 0\.38\d* "):
        select_channels(scores, found, Budget(0.1), minimum=4)
    with pytest.raises(BudgetError, match=r"'head' .*overrides"):
        select_channels(scores, found, Budget(0.5, overrides={"head": 1.0}))


def test_bad_requests(resnet: tuple[nn.Module, Groups]) -> None:
    model, found = resnet
    scores = magnitudes(model)
    for bad in ("minimum", "multiple"):
        with pytest.raises(BudgetError, match=f"{bad} is 0"):
            select_channels(scores, found, Budget(0.5), **{bad: 0})
    broken = {**scores, "0.0.weight": scores["0.0.weight"] * torch.nan}
    with pytest.raises(ScoreError, match=r"'0\.0\.weight'.* infinite"):
        select_channels(broken, found, Budget(0.5))
    with pytest.raises(ScoreError, match=r"'0\.0\.weight' .*\(2, 2\)"):
        select_channels({**scores, "0.0.weight": torch.ones(2, 2)}, found, Budget(0.5))
    with pytest.raises(UsageError, match=r"exclude=\['1\.a\.0\.weight'\]"):
        select_channels({"0.0.weight": scores["0.0.weight"]}, found, Budget(0.5))
    linear = channel_groups(nn.Linear(3, 2), torch.ones(1, 3))
    with pytest.raises(UsageError, match="weight: output of the network"):
        select_channels({"weight": torch.ones(2, 3)}, linear, Budget(0.5))


def half(model: nn.Module, example: Tensor) -> ChannelCut:
    return select_channels(magnitudes(model), channel_groups(model, example), Budget(0.5, "layer"))


@pytest.mark.parametrize("name", NETS)
def test_what_is_cut_is_zero_and_does_nothing(name: str) -> None:
    model, example = made(name)
    cut = half(model, example)
    names = dict(model.named_parameters())
    assert set(cut.masks) | set(cut.others) <= set(names)
    assert set(cut.masks) == set(magnitudes(model))
    assert all(names[n].shape == mask.shape for n, mask in cut.everything.items())
    masked = copy.deepcopy(model)
    cut.apply(masked)
    want = masked(example)
    assert not torch.allclose(want, model(example), atol=1e-7)
    for unit in sorted(cut.cut)[:10]:
        for part in cut.groups.parts(unit):
            if part.name in names:
                assert not masked.get_parameter(part.name).select(part.dim, part.index).any()


def test_masks_are_the_units(resnet: tuple[nn.Module, Groups]) -> None:
    model, found = resnet
    cut = select_channels(magnitudes(model), found, Budget(0.4))
    cells = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for unit in cut.cut:
        for part in found.parts(unit):
            if part.name in cells:
                cells[part.name].select(part.dim, part.index).fill_(False)
    for name, mask in cells.items():
        assert torch.equal(cut.everything[name] if name in cut.everything else mask | True, mask)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "gpt"])
def test_held_zeros_survive_training(name: str) -> None:
    model, example = made(name)
    cut = half(model, example)
    cut.apply(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        model(example).square().mean().backward()
        optimizer.step()
        cut.hold(model)
    for parameter_name, mask in cut.everything.items():
        weight = model.get_parameter(parameter_name)
        assert not weight[~mask].any()
        assert bool(weight.isfinite().all())


def test_a_cut_of_another_model_changes_nothing() -> None:
    model, example = made("gated")
    cut = half(model, example)
    other, _ = made("reused")
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UsageError, match=r"'a\."):
        cut.apply(other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    reused = half(*made("reused"))
    with pytest.raises(UsageError, match="groups differ"):
        cut.nested_in(reused)


def test_reprs_say_what_is_kept() -> None:
    cut = half(*made("gated"))
    assert repr(cut).startswith("ChannelCut(10 of 20 units kept)")
    assert "6 of    12  a.weight" in repr(cut)
    assert cut.keep == 0.5
    assert cut.to("cpu").masks == cut.masks


def test_hard_coded_heads_are_found_all_the_same() -> None:
    found = channel_groups(HardCoded(16, 4), torch.randn(1, 3, 16))
    assert [(group.name, len(group)) for group in found] == [("qkv.weight", 4)]
