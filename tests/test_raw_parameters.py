"""Raw parameters: which are weights, along which dimension they are cut, and what stays whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur
from secateur import Budget, GatePhase, GateTraining, prunable, prune, select
from secateur.errors import BudgetError, UsageError
from secateur.pruning.gates.gates import Gates
from secateur.pruning.gates.learning import learning
from secateur.pruning.gates.stages import Schedule, StagedPruning

UNKNOWN = "which dimension counts inputs is not known"


class Raw(nn.Module):
    """A raw weight between two layers, multiplied as a test says."""

    def __init__(self, shape: tuple[int, ...], product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.LazyLinear(3)
        self.weight = nn.Parameter(torch.randn(shape))
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.product(self.stem(x).relu(), self.weight))


def raw(shape: tuple[int, ...], product: Callable[[Tensor, Tensor], Tensor]) -> Raw:
    torch.manual_seed(0)
    model = Raw(shape, product)
    model(torch.randn(2, 4))
    return model


def batched(x: Tensor, w: Tensor) -> Tensor:
    return torch.bmm(x.expand(len(w), *x.shape), w).sum(0)


def one_by_one(x: Tensor, w: Tensor) -> Tensor:
    return sum((F.linear(x, expert) for expert in w), torch.zeros(()))


def chosen(x: Tensor, w: Tensor) -> Tensor:
    picked = w[torch.arange(len(x)) % len(w)].to(torch.float64).float()
    return torch.bmm(picked, x.unsqueeze(-1)).squeeze(-1)


def stacked_rows(x: Tensor, w: Tensor) -> Tensor:
    return sum((x @ part.T for part in w.view(3, 4, 8)), torch.zeros(()))


WAYS = {
    "linear": ((12, 8), F.linear, 1),
    "its own transpose": ((8, 12), lambda x, w: F.linear(x, w.t()), 0),
    "matmul": ((8, 12), lambda x, w: x @ w, 0),
    "einsum": ((12, 8), lambda x, w: torch.einsum("ni,oi->no", x, w), 1),
    "left of a product": ((12, 8), lambda x, w: (w @ x.T).T, 1),
    "a vector": ((12, 8), lambda x, w: torch.stack([torch.mv(w, row) for row in x]), 1),
    "a slice": ((12, 8), lambda x, w: F.linear(x, w[2:10]), 1),
    "chunks": ((12, 8), lambda x, w: sum(F.linear(x, c) for c in w.chunk(2)), 1),
    "rows of stacked matrices": ((12, 8), stacked_rows, 1),
    "convolution": ((6, 8, 3), lambda x, w: F.conv1d(x[..., None], w, padding=1).flatten(1), 1),
    "transposed": ((8, 6, 3), lambda x, w: F.conv_transpose1d(x[..., None], w).flatten(1), 0),
    "bmm": ((3, 8, 12), batched, -2),
    "matmul of each": ((3, 8, 12), lambda x, w: sum(x @ w[i] for i in range(3)), -2),
    "linear of each": ((3, 12, 8), one_by_one, -1),
    "some of them": ((3, 12, 8), chosen, -1),
    "einsum of each": ((3, 12, 8), lambda x, w: torch.einsum("ni,eoi->neo", x, w).sum(1), -1),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_example_shows_which_dimension_counts_inputs(way: str) -> None:
    shape, product, axis = WAYS[way]
    model, x = raw(shape, product), torch.randn(5, 4)
    found = prunable(model, pattern="2:4", example=x)
    assert found.axes == {"weight": axis, "head.weight": 1}
    pruned, result = prune(model, pattern="2:4", example=x)
    kept = pruned.weight.movedim(axis, -1) != 0
    assert bool((kept.unflatten(-1, (-1, 4)).sum(-1) == 2).all())
    assert result.masks.layers["weight"] == (model.weight.numel() // 2, model.weight.numel())


UNCLEAR = {
    "both ways": ((8, 8), lambda x, w: F.linear(x, w) + x @ w),
    "each element": ((8,) * 2, lambda x, w: x * w.sum(0)),
    "masked": ((12, 8), lambda x, w: F.linear(x, w * torch.ones(12, 8))),
    "three dimensions": ((8, 3, 4), lambda x, w: torch.einsum("ni,ihd->nhd", x, w).flatten(1)),
    "parts of the inputs": ((24, 4), lambda x, w: sum(x @ p for p in w.view(3, 8, 4))),
    "not at all": ((12, 8), lambda x, w: x),
}


@pytest.mark.parametrize("way", UNCLEAR)
@pytest.mark.parametrize("pattern", ["2:4", "1x4"])
def test_what_an_example_does_not_show_is_left_whole(way: str, pattern: str) -> None:
    model, x = raw(*UNCLEAR[way]), torch.randn(5, 4)
    keep = None if ":" in pattern else 0.5
    pruned, result = prune(model, keep, pattern=pattern, example=x)
    assert bool((pruned.weight != 0).all())
    assert result.excluded["weight"] == UNKNOWN
    assert set(result.masks) == {"head.weight"}


def test_without_an_example_patterns_with_a_direction_leave_it_whole() -> None:
    model = raw((12, 8), F.linear)
    assert prunable(model).axes == {"weight": None, "head.weight": 1}
    assert prunable(model, pattern="2:4").excluded["weight"] == f"{UNKNOWN}; example= shows it"
    pruned, result = prune(model, pattern="2:4")
    assert bool((pruned.weight != 0).all())
    assert set(result.masks) == {"head.weight"}
    pruned, result = prune(model, Budget(0.5, floor=0))  # single weights have no direction
    assert result.masks.layers["weight"][0] < 12 * 8
    data = [torch.randn(32, 4)]  # whose first sample is the example
    assert "weight" in prune(model, pattern="2:4", data=data)[1].masks
    with pytest.raises(UsageError, match=f"weight: {UNKNOWN}"):
        prunable(model, pattern="2:4", exclude=["head.*"])


def test_scores_of_which_it_is_not_known_are_refused_by_name() -> None:
    model = raw((12, 8), F.linear)
    plan = prunable(model)
    scores = {name: model.get_parameter(name).detach().abs() for name in plan.names}
    for pattern in ("2:4", "1x4"):
        with pytest.raises(UsageError, match="'weight'"):
            select(scores, Budget(0.5, pattern=pattern), axes=plan.axes)
    gates = Gates.attach(model, plan.names)
    phase, optimizer = GatePhase(pattern="2:4"), torch.optim.SGD(model.parameters(), 0.1)
    with (
        pytest.raises(UsageError, match="'weight'"),
        learning(gates, phase) as pruning,
        pruning(optimizer),
    ):
        pass
    gates.remove()
    gating = GateTraining(model, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(UsageError, match="'weight'"):
        gating.finish(Budget(pattern="2:4"))
    assert bool((model.weight != 0).all())
    gating.finish(Budget(0.5))
    staged = StagedPruning(Schedule(Budget(pattern="2:4"), gate_start=0, prune_at=1))
    model = raw((12, 8), F.linear)
    staged.start(model, torch.optim.SGD(model.parameters(), 0.1))
    staged.reach(0)
    assert set(staged.finish()) == {"head.weight"}


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(raw((12, 8), F.linear), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    prunable(model, pattern="2:4", example=torch.randn(5, 4, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    with pytest.raises(UsageError, match=r"example: .*5x9"):
        prunable(model, pattern="2:4", example=torch.randn(5, 9))
    with pytest.raises(BudgetError, match="pattern is '2-4'"):
        prunable(model, pattern="2-4")


# Stacks of matrices.


class Experts(nn.Module):
    """Fused experts that say how they lie, as those of transformers 5 do."""

    def __init__(self, shape: tuple[int, ...], transposed: bool) -> None:
        super().__init__()
        self.is_transposed, self.has_gate = transposed, True
        self.up_proj = nn.Parameter(torch.rand(shape) + 0.1)
        self.up_proj_bias = nn.Parameter(torch.rand(shape[:2]))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("pattern", ["2:4", "1x4", "3x2", "4x8"])
def test_experts_are_cut_like_layers_of_their_own(transposed: bool, pattern: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5, bias=False) for _ in range(3)]  # no pattern divides both sizes
    fused = Experts((3, 6, 5) if transposed else (3, 5, 6), transposed)
    with torch.no_grad():
        for expert, layer in zip(fused.up_proj, layers, strict=True):
            expert.copy_(layer.weight.T if transposed else layer.weight)
    plan = prunable(fused)
    assert plan.axes == {"up_proj": -2 if transposed else -1}
    assert plan.excluded == {"up_proj_bias": "bias or norm"}
    budget = Budget(None if ":" in pattern else 0.4, floor=0, pattern=pattern)
    ours = select({"up_proj": fused.up_proj.detach().abs()}, budget, axes=plan.axes)["up_proj"]
    theirs = select({str(at): la.weight.detach().abs() for at, la in enumerate(layers)}, budget)
    for at, mask in enumerate(ours):
        assert torch.equal(mask.T if transposed else mask, theirs[str(at)])


def test_flags_of_another_meaning_say_nothing() -> None:
    experts = Experts((3, 4, 8), False)
    experts.is_transposed = "no"
    assert prunable(experts).axes == {"up_proj": None}
    experts = Experts((3, 4, 8), False)
    del experts.has_gate
    assert prunable(experts).axes == {"up_proj": None}


# Which are weights.


def named(**shapes: tuple[int, ...]) -> nn.Module:
    module = nn.Module()
    for name, shape in shapes.items():
        setattr(module, name, nn.Parameter(torch.rand(shape)))
    return module


def owned(kind: str, **shapes: tuple[int, ...]) -> nn.Module:
    module = named(**shapes)
    module.__class__ = type(kind, (nn.Module,), {})
    return module


def test_names_say_what_is_a_weight() -> None:
    weights = (
        *("weight", "W", "w1", "W_q", "wo", "Wk", "gate_up_proj", "x_proj_weight", "kernel"),
        *("text_projection", "prompts_visual_projection", "lora_A", "q", "o", "up", "V"),
    )
    whole = {
        "position table": ["pos_embed", "rel_pos_h", "positional_embedding", "position_bias"],
        "bias or norm": ["gate_up_proj_bias", "r_w_bias", "attention_biases", "bias_u"],
        "embedding table": ["level_embed", "embedding", "table", "embed_weight"],
        "token or query": ["query_tokens", "latents_1d", "probe", "prompt", "cls_token"],
        "scale": ["layer_scale", "gamma", "per_expert_scale", "lambda_q1", "logitScale"],
        "state-space constant": ["A_log", "D", "A", "dt", "time_mix_key"],
        "not known to be a weight": ["codebook", "fn", "theta", "B", "rows", "memory"],
    }
    names = [*weights, *(name for of in whole.values() for name in of)]
    found = prunable(named(**dict.fromkeys(names, (4, 8))))
    assert set(found.names) == set(weights)
    for reason, of in whole.items():
        assert {name: found.excluded[name] for name in of} == dict.fromkeys(of, reason)


def test_owners_say_what_is_none() -> None:
    model = nn.ModuleDict(
        {
            "stem": owned("Plain", weight=(8, 8)),
            "query": owned("QuantLinear", weight=(8, 8)),
            "router": nn.Sequential(nn.Linear(8, 4)),
            "other": owned("TopKRouter", weight=(4, 8)),
            "gate": owned("Thing", weight=(4, 8)),
            "glu": nn.ModuleDict({"gate": owned("Thing", weight=(16, 8)), "b": nn.Linear(8, 8)}),
            "mlp": nn.ModuleDict({"gate": nn.Linear(8, 4)}),
            "words": owned("QuantEmbedding", weight=(9, 8)),
            "places": owned("RelativePositionBias", weight=(9, 8)),
            "norm": owned("BigLayerNorm", weight=(3, 8)),
            "position_embeddings": nn.ParameterList([torch.rand(3, 1, 4), torch.rand(3, 4, 1)]),
            "w": nn.ParameterList([torch.rand(3, 4)]),
            "named": nn.ParameterDict({"weight": torch.rand(3, 4), "pos": torch.rand(3, 4)}),
        }
    )
    found = prunable(model, include_first=True)
    assert set(found.names) == {
        *("stem.weight", "query.weight", "glu.gate.weight", "glu.b.weight", "mlp.gate.weight"),
        *("w.0", "named.weight"),
    }
    reasons = {
        name: reason
        for name, reason in found.excluded.items()
        if model.get_parameter(name).dim() > 1
    }
    assert reasons == {
        "router.0.weight": "router",
        "other.weight": "router",
        "gate.weight": "router",
        "words.weight": "embedding table",
        "places.weight": "position table",
        "norm.weight": "bias or norm",
        "position_embeddings.0": "position table",
        "position_embeddings.1": "position table",
        "named.pos": "position table",
    }


def test_a_layers_subclass_may_own_raw_parameters() -> None:
    class Adapted(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.lora_a = nn.Parameter(torch.rand(2, 8))
            self.codes = nn.Parameter(torch.rand(2, 8))

    found = prunable(nn.Sequential(nn.Linear(8, 8), Adapted()))
    assert found.axes == {"1.weight": 1, "1.lora_a": None}
    assert found.excluded["1.codes"] == "not known to be a weight"


def test_a_weight_that_a_layer_shares_has_the_layers_axis() -> None:
    model = nn.Module()
    model.a = named(weight=(8, 8))
    model.b = nn.Linear(8, 8)
    model.b.weight = model.a.weight
    assert prunable(model, include_first=True).axes == {"a.weight": 1}
    listed = nn.Module()
    listed.layer = nn.Linear(8, 8)
    listed.anything = nn.ParameterList([listed.layer.weight])
    assert prunable(listed, include_first=True).axes == {"layer.weight": 1}
    listed.pos = listed.layer.weight
    with pytest.raises(UsageError, match=r"pos: position table"):
        prunable(listed, include_first=True)


def test_globs_include_what_would_be_left_whole() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Embedding(5, 8), nn.Linear(8, 8))
    model.pos_embed = nn.Parameter(torch.rand(7, 8))
    model.codes = nn.Parameter(torch.rand(7, 8))
    model.still_codes = nn.Parameter(torch.rand(7, 8), requires_grad=False)
    everything = prunable(model, include=["*"], exclude=["1.*"])
    assert set(everything.names) == {
        *("pos_embed", "codes", "0.weight", "0.bias", "2.weight", "2.bias"),
    }
    assert everything.excluded == {"still_codes": "frozen", "1.weight": "excluded by '1.*'"}
    assert set(prunable(model, include=["*codes"]).names) == {"codes", "2.weight"}
    assert prunable(model, include=["1.*", "2.bias"], pattern="2:4").names == ("2.weight",)
    pruned, result = prune(model, Budget(0.5, floor=0.1), plan=prunable(model, include=["pos_*"]))
    kept, total = result.masks.layers["pos_embed"]
    assert int((pruned.pos_embed != 0).sum()) == kept < total
    staged = StagedPruning(Schedule(0.5, gate_start=0, prune_at=1, include=["codes"]))
    staged.start(model, torch.optim.SGD(model.parameters(), 0.1))
    staged.reach(0)
    assert "codes" in staged.finish()
    with pytest.raises(UsageError, match=r"'tail\.\*' of include"):
        prunable(model, include=["tail.*"])
    with pytest.raises(UsageError, match=r"include is 'codes'"):
        prunable(model, include="codes")
    only = named(codes=(4, 4))
    with pytest.raises(UsageError, match=r"codes: not known to be a weight.*include="):
        prunable(only)
    assert secateur.prunable(only, include=["codes"]).names == ("codes",)
