"""Raw parameters by their names and classes, and by how one pass uses them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import prunable, prune

UNKNOWN = "which dimension counts inputs is not known"
NO_WEIGHT = "not known to be a weight"

Forward = Callable[..., Tensor]


def owned(kind: str, **parts: tuple[int, ...] | nn.Module) -> nn.Module:
    """Return a module of a class of that name, with parameters of some shapes and children."""
    module: nn.Module = type(kind, (nn.Module,), {})()
    for name, part in parts.items():
        raw = not isinstance(part, nn.Module)
        setattr(module, name, nn.Parameter(torch.rand(part)) if raw else part)
    return module


def linear(rows: int, columns: int) -> nn.Linear:
    return nn.Linear(columns, rows, bias=False)


def experts(**parts: tuple[int, ...] | nn.Module) -> nn.Module:
    """Return a module with two gated experts beside what else it has."""
    two = [owned("Expert", gate=linear(8, 16), up=linear(8, 16)) for _ in range(2)]
    return owned("Block", experts=nn.ModuleList(two), **parts)


ROUTERS = {
    "its own name": owned("Block", router_weight=(4, 16)),
    "a part of a part": owned("Block", router_gate=linear(4, 16)),
    "a list": owned("Block", routers=nn.ModuleList([owned("Thing", weight=(4, 16))])),
    "CamelCase": owned("Block", tokenRouter=linear(4, 16)),
    "its class": owned("Block", choice=owned("NoisyTopKGate", weight=(4, 16))),
    "raw beside experts": experts(gate_weight=(4, 16)),
    "raw, transposed": experts(w_gate=(16, 4)),
    "short": experts(wg=(4, 16)),
    "a layer beside experts": experts(gate=linear(4, 16)),
    "a layer in a gate": experts(gate=owned("Gate", wg=linear(4, 16))),
    "a sequence": experts(gate=nn.Sequential(linear(4, 16), nn.Softmax(-1))),
    "of the shared expert": experts(shared_expert_gate=linear(1, 16)),
    "the same in CamelCase": experts(sharedExpertGate=linear(1, 16)),
    "a class of experts": owned("SparseMoeBlock", gate=linear(4, 16), up=linear(4, 16)),
}


@pytest.mark.parametrize("way", ROUTERS)
def test_routers_stay_whole(way: str) -> None:
    block = ROUTERS[way]
    model = nn.Sequential(linear(8, 8), linear(8, 8), block)
    inside = {f"2.{name}" for name, _ in block.named_parameters()}
    cut = {name for name in inside if ".experts." in name or ".up." in name}
    found = prunable(model)
    assert set(found.names) == cut | {"1.weight"}
    assert found.excluded == {"0.weight": "first layer"} | dict.fromkeys(inside - cut, "router")
    assert set(prunable(model, include=["2.*"]).names) == inside | {"1.weight"}


GATED = {
    "of a gated MLP": owned("Mlp", gate=linear(32, 16), gate_proj=linear(4, 16)),
    "without experts": owned("Block", gate=linear(4, 16)),
    "of a gated MLP beside experts": experts(shared=owned("Mlp", gate=linear(8, 16))),
    "wide, beside experts": experts(gate=linear(32, 16), gate_proj=linear(4, 16)),
    "of a recurrent layer": owned("Cell", gate=owned("LSTMGate", weight=(8, 24))),
    "of a class": owned("Block", forget=owned("HighwayGate", weight=(8, 24))),
    "raw": owned("Block", input_gate_weight=(4, 8), forget_gate=owned("Gate", weight=(8, 24))),
}


@pytest.mark.parametrize("way", GATED)
def test_gates_of_features_are_cut(way: str) -> None:
    assert prunable(GATED[way], include_first=True).excluded == {}


# What names and classes say.


def test_words_that_no_weight_has() -> None:
    whole = (
        *("u", "v", "k", "weight_mask", "mask_weight", "adjacency_matrix", "transition_matrix"),
        *("loss_weight", "layer_weights", "class_weights", "rel_w", "mem_kv"),
    )
    found = prunable(owned("Thing", weight=(4, 8), **dict.fromkeys(whole, (4, 8))))
    assert {name: found.excluded[name] for name in whole} == dict.fromkeys(whole, NO_WEIGHT)
    tables = {"W_E": "embedding table", "W_pos": "position table", "pos_weight": "position table"}
    found = prunable(owned("Thing", W_U=(4, 8), **dict.fromkeys(tables, (4, 8))))
    assert (found.names, found.excluded) == (("W_U",), tables)


def test_words_of_weights() -> None:
    weights = (
        *("W_query", "W_key", "W_value", "query_weight", "query_kernel", "Wqkv", "qkv", "W_out"),
        *("W_in", "W_hidden", "W_ir", "w_qs", "fc1", "experts", "wi_0", "token_mixing_weight"),
        *("wQuery", "key_w", "kv", "U_r", "W_token", "up"),
    )
    found = prunable(owned("Thing", **dict.fromkeys(weights, (4, 8))))
    assert (set(found.names), found.excluded) == (set(weights), {})
    attention = owned("Attention", q=(8, 4), k=(8, 4), v=(8, 4), o=(8, 4), u=(2, 4))
    assert prunable(attention).names == ("q", "k", "v", "o")


@pytest.mark.parametrize(
    ("kind", "leaf"),
    [
        *[("PosFFN", "w1"), ("PositionWiseFeedForward", "w2"), ("PositionwiseFFNLayer", "weight")],
        *[("BiasFreeLinear", "weight"), ("RMSNormLinear", "weight"), ("NormFreeConv2d", "weight")],
        *[("PatchEmbedding", "proj"), ("EmbeddingProjection", "weight"), ("VocabHead", "weight")],
        *[("LayerNormLSTMCell", "weight_ih"), ("LayerNormMLP", "fc1_weight"), ("Own", "weight")],
    ],
)
def test_classes_do_not_hide_weights(kind: str, leaf: str) -> None:
    assert prunable(owned(kind, **{leaf: (8, 8)})).names == (leaf,)


@pytest.mark.parametrize("kind", ["WordVectors", "Lookup", "Vocab", "TokenEmbeddingLayer"])
def test_classes_of_tables_are_left_whole(kind: str) -> None:
    model = nn.ModuleList([owned(kind, weight=(8, 8)), owned("Own", weight=(8, 8))])
    found = prunable(model)
    assert (found.names, found.excluded) == (("1.weight",), {"0.weight": "embedding table"})


# What one pass shows.


class Net(nn.Module):
    """Some raw weights that are used as a test says, between two layers."""

    def __init__(self, forward: Forward, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.LazyLinear(4)
        self.weights = nn.ParameterList([torch.randn(shape) for shape in shapes])
        self.way = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.way(self.stem(x), *self.weights))


def net(forward: Forward, *shapes: tuple[int, ...]) -> Net:
    torch.manual_seed(0)
    model = Net(forward, shapes)
    model(torch.randn(5, 8))
    return model


def axes(model: Net) -> list[int | None]:
    found = prunable(model, example=torch.randn(5, 8)).axes
    return [found[f"weights.{at}"] for at in range(len(model.weights))]


def recurrent(x: Tensor, w: Tensor, u: Tensor) -> Tensor:
    state = torch.zeros(len(x), 12)
    for _ in range(3):
        state = torch.tanh(F.linear(x, w) + F.linear(state, u))
    return state


def written(x: Tensor, w: Tensor) -> Tensor:
    buffer = torch.zeros(len(x), 16)
    buffer[:, 4:12] = x
    return buffer @ w


def selected(x: Tensor, w: Tensor) -> Tensor:
    picked = w[x[:, :4].argmax(1) % len(w)]
    return (x.unsqueeze(1) @ picked).squeeze(1)


SHOWN = {
    "a low-rank pair, one by one": (lambda x, u, v: x @ u @ v, ((8, 4), (4, 12)), [0, 0]),
    "without a dimension": (lambda x, w: F.linear(x, w.squeeze(0)), ((1, 12, 8),), [-1]),
    "scaled": (lambda x, w: F.linear(x, 2 * w / 3), ((12, 8),), [1]),
    "scaled by a tensor": (lambda x, w: x @ (w * torch.tensor(0.5)), ((8, 12),), [0]),
    "a recurrent layer": (recurrent, ((12, 8), (12, 12)), [1, 1]),
    "of what was written": (written, ((16, 12),), [0]),
    "experts by position": (selected, ((4, 8, 12),), [-2]),
    "shape only": (lambda x, w: x @ w + torch.zeros_like(w).sum(), ((8, 12),), [0]),
}


@pytest.mark.parametrize("way", SHOWN)
def test_products_with_activations_show_the_inputs(way: str) -> None:
    forward, shapes, seen = SHOWN[way]
    assert axes(net(forward, *shapes)) == seen


def merged(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w + b @ a)


HIDDEN = {
    "merged LoRA": (merged, ((12, 8), (4, 8), (12, 4))),
    "a product of weights": (lambda x, u, v: x @ (u @ v), ((8, 4), (4, 12))),
    "three": (lambda x, u, s, v: x @ (u @ s @ v), ((8, 4), (4, 4), (4, 12))),
    "a scaled one": (lambda x, u, v: x @ ((u * v.T.sum(0)[:4]) @ v), ((8, 4), (4, 12))),
    "a transform": (lambda x, w: F.linear(x, torch.eye(12) @ w), ((12, 8),)),
    "times a weight": (lambda x, w, g: F.linear(x, w * g), ((12, 8), (12, 8))),
    "and a sum": (lambda x, w: F.linear(x, w) + w.sum(), ((12, 8),)),
    "and a norm": (lambda x, w: F.linear(x, w) / w.norm(), ((12, 8),)),
    "joined": (lambda x, w, v: F.linear(x, torch.cat([w, v])), ((4, 8), (8, 8))),
    "added": (lambda x, w: x @ w + w[:5], ((8, 8),)),
    "keys": (
        lambda x, k: F.scaled_dot_product_attention(x[None], k[None], k[None])[0] + x @ k.T[:, :8],
        ((9, 8),),
    ),
    "changed in place": (lambda x, w: F.linear(x, w.clone().add_(1)), ((12, 8),)),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_other_uses_leave_it_whole(way: str) -> None:
    forward, shapes = HIDDEN[way]
    model = net(forward, *shapes)
    assert axes(model) == [None] * len(shapes)
    pruned, result = prune(model, pattern="2:4", example=torch.randn(5, 8))
    for at, weight in enumerate(pruned.weights):
        assert bool((weight != 0).all())
        assert result.excluded[f"weights.{at}"] == UNKNOWN


def ids(x: Tensor) -> Tensor:
    return x.argmax(1)


LOOKUPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "embedding": lambda x, w: F.embedding(ids(x), w),
    "index": lambda x, w: w[ids(x)],
    "index_select": lambda x, w: w.index_select(0, ids(x)),
    "gather": lambda x, w: w.gather(0, ids(x)[:, None].expand(-1, 8)),
    "bag": lambda x, w: F.embedding_bag(ids(x)[:, None], w),
    "positions": lambda x, w: x + w[torch.arange(len(x))],
    "tied": lambda x, w: w[ids(x)] @ w.T,
    "among each other": lambda x, w: w[ids(x)] @ w[ids(x)].T,
}


@pytest.mark.parametrize("way", LOOKUPS)
def test_what_is_looked_up_is_a_table(way: str) -> None:
    look = LOOKUPS[way]
    model = net(lambda x, w, v: look(x, w)[:, :5] @ v, (9, 8), (5, 12))
    x = torch.randn(5, 8)
    for pattern in ("weight", "2:4"):
        found = prunable(model, pattern=pattern, example=x)
        assert found.excluded["weights.0"] == "embedding table"
        # what multiplies activations is a weight, also where those were looked up
        assert found.axes["weights.1"] == 0
    assert "weights.0" in prunable(model, include=["weights.*"], example=x).names
