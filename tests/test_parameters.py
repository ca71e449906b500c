"""Every parameter is prunable or has a named reason why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import Budget, prunable, select
from secateur.errors import BudgetError, UsageError
from secateur.model.parameters import aliases, parameters
from secateur.nets import NETS, build
from secateur.pruning.parameters import Prunable
from secateur.pruning.selecting.overrides import refuse_conflicts


class Everything(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 7, 8))
        self.scale = nn.Parameter(torch.ones(()))
        self.conv1 = nn.Conv1d(4, 8, 3)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.conv3 = nn.Conv3d(4, 8, 3)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.norm1 = nn.BatchNorm2d(8)
        self.norm2 = nn.LayerNorm([3, 8])
        self.norm3 = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
        self.lstm = nn.LSTM(8, 5, bidirectional=True)
        self.gru = nn.GRU(8, 5)
        self.words = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11)


PRUNABLE = {
    *("conv2.weight", "conv3.weight", "up.weight", "head.weight"),
    *("attention.in_proj_weight", "attention.out_proj.weight", "cross.out_proj.weight"),
    *("cross.q_proj_weight", "cross.k_proj_weight", "cross.v_proj_weight"),
    *("lstm.weight_ih_l0", "lstm.weight_hh_l0"),
    *("lstm.weight_ih_l0_reverse", "lstm.weight_hh_l0_reverse"),
    *("gru.weight_ih_l0", "gru.weight_hh_l0"),
}


def test_the_weights_of_every_layer_may_be_cut() -> None:
    model = Everything()
    found = prunable(model)
    assert set(found.names) == PRUNABLE
    assert found.excluded["conv1.weight"] == "first layer"
    assert found.excluded["words.weight"] == "embedding table"
    assert found.excluded["position"] == "position table"
    others = set(found.excluded) - {"conv1.weight", "words.weight", "position"}
    assert {found.excluded[name] for name in others} == {"bias or norm"}
    assert {"scale", "norm2.weight", "attention.bias_k", "lstm.bias_hh_l0"} <= others
    assert found.total(model) == sum(model.get_parameter(name).numel() for name in PRUNABLE)


@pytest.mark.parametrize("model", [Everything(), *map(build, NETS)], ids=["all", *NETS])
def test_names_and_reasons_cover_every_parameter_once(model: nn.Module) -> None:
    found = prunable(model, exclude=["*.bias"])
    names = [name for name, _ in model.named_parameters()]
    assert sorted([*found.names, *found.excluded]) == sorted(names)
    assert list(found.names) == [name for name in names if name in found.names]


def test_the_first_layer_may_be_included() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Linear(4, 2))
    assert prunable(model).names == ("2.weight",)
    everything = prunable(model, include_first=True)
    assert everything.names == ("1.weight", "2.weight")
    assert prunable(model, pattern="channel") == everything
    assert prunable(model).including_first(model) == everything
    assert everything.including_first(model) == everything


def test_the_first_layer_is_a_reason_only_where_there_is_no_other() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    found = prunable(model)
    assert found.excluded["0.weight"] == "frozen"
    assert found.including_first(model) == found
    model[1].requires_grad_(False)
    with pytest.raises(UsageError, match=r"0\.weight: frozen") as refused:
        prunable(model)
    assert "include_first" not in str(refused.value)


@pytest.mark.parametrize("first", [nn.Embedding(5, 4), nn.LSTM(4, 4)])
def test_a_linear_layer_after_an_embedding_is_not_the_first(first: nn.Module) -> None:
    assert "1.weight" in prunable(nn.Sequential(first, nn.Linear(4, 2))).names


def test_globs_exclude_by_name() -> None:
    model = Everything()
    found = prunable(model, exclude=["conv*", "head.weight"])
    assert set(found.names) == {n for n in PRUNABLE if not n.startswith(("conv", "head"))}
    assert found.excluded["conv1.bias"] == found.excluded["conv3.weight"] == "excluded by 'conv*'"
    assert found.excluded["head.weight"] == "excluded by 'head.weight'"
    with pytest.raises(UsageError, match=r"'tail\.\*' of exclude .*conv1\.weight"):
        prunable(model, exclude=["head.*", "tail.*"])
    with pytest.raises(UsageError, match=r"exclude is 'head"):
        prunable(model, exclude="head.*")


def test_shared_parameters_appear_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})
    model["c"].weight = model["b"].weight
    model["again"] = model["b"]
    found = prunable(model)
    assert found.names == ("b.weight",)
    assert set(found.excluded) == {"a.weight", "a.bias", "b.bias", "c.bias"}
    assert prunable(model, include_first=True, exclude=["c.weight"]).names == ("a.weight",)


def test_a_weight_tied_to_an_embedding_is_an_embedding() -> None:
    model = nn.ModuleDict({"head": nn.Linear(4, 9), "words": nn.Embedding(9, 4)})
    model["body"] = nn.Linear(4, 4)
    model["words"].weight = model["head"].weight
    found = prunable(model)
    assert found.names == ("body.weight",)
    assert found.excluded["head.weight"] == "embedding table"


def test_parameters_that_cannot_be_cut_say_why() -> None:
    model = nn.Module()
    model.fine_weight = nn.Parameter(torch.ones(2, 2))
    model.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    model.integer = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    model.complex = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    model.meta = nn.Parameter(torch.ones(2, 2, device="meta"))
    model.sparse = nn.Parameter(torch.eye(2).to_sparse())
    model.empty = nn.Parameter(torch.ones(2, 0))
    model.lazy = nn.Module()
    model.lazy.weight = nn.UninitializedParameter()
    model.normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2, bias=False))
    found = prunable(model)
    assert found.names == ("fine_weight",)
    assert found.excluded == {
        "frozen": "frozen",
        "integer": "dtype is int8",
        "complex": "dtype is complex64",
        "meta": "on the meta device",
        "sparse": "sparse layout",
        "empty": "has no weights",
        "lazy.weight": "not initialised yet: run the model once",
        "normed.parametrizations.weight.original0": (
            "parametrized: cutting it would not cut the weight"
        ),
        "normed.parametrizations.weight.original1": (
            "parametrized: cutting it would not cut the weight"
        ),
    }


def test_a_model_with_nothing_to_cut_lists_the_reasons() -> None:
    with pytest.raises(UsageError, match=r"0\.weight: first layer; 0\.bias: bias.*include_first"):
        prunable(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(UsageError, match="no parameters"):
        prunable(nn.ReLU())


def test_wrapped_models_have_the_names_of_the_model_inside() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert prunable(nn.DataParallel(model)) == prunable(model)
    assert prunable(torch.compile(model, backend="eager")) == prunable(model)
    assert prunable(model).total(nn.DataParallel(model)) == 8
    with pytest.raises(UsageError, match=r"'1\.weight'"):
        prunable(model).total(nn.Linear(3, 3))


class Conv1D(nn.Module):
    """As transformers has it: a linear layer whose weight is [inputs, outputs]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.rand(nx, nf))


def test_axes_say_which_dimension_counts_inputs() -> None:
    model = Everything()
    model.up1 = nn.ConvTranspose1d(4, 6, 3)
    model.up3 = nn.ConvTranspose3d(4, 6, 3, groups=2)
    model.theirs = Conv1D(8, 12)
    found = prunable(model)
    assert list(found.axes) == list(found.names)
    first = {name for name, axis in found.axes.items() if axis == 0}
    assert first == {"up.weight", "up1.weight", "up3.weight", "theirs.weight"}
    assert {axis for name, axis in found.axes.items() if name not in first} == {1}
    assert Prunable(("a",), {}).axes == {}
    weights = parameters(model, found.names)
    masks = select(weights, Budget(pattern="1:4"), axes=found.axes)
    for name, layer in {"up": model.up, "up1": model.up1, "theirs": model.theirs}.items():
        inputs = layer.weight.shape[0]
        assert masks.layers[f"{name}.weight"][0] == layer.weight.numel() // inputs * inputs // 4
        assert (masks[f"{name}.weight"].unflatten(0, (-1, 4)).sum(1) == 1).all()


def shared() -> nn.ModuleDict:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "c": nn.Linear(3, 3)})
    model["c"].weight = model["b"].weight
    model["again"] = model["b"]
    return model


def test_aliases_are_all_names_of_every_parameter() -> None:
    model = shared()
    found = aliases(nn.DataParallel(model))
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert found["a.weight"] == ("a.weight",)
    assert found["b.weight"] == ("b.weight", "c.weight", "again.weight")
    assert found["b.bias"] == ("b.bias", "again.bias")


def test_overrides_must_agree_about_shared_parameters() -> None:
    model = shared()
    names = prunable(model, include_first=True).names

    def look(*pairs: tuple[str, float]) -> None:
        refuse_conflicts(model, names, Budget(0.5, overrides=pairs))

    look()
    look(("a.weight", 0.1), ("b.weight", 0.2))
    look(("b.*", 0.5), ("c.*", 0.5))
    look(("c.bias", 0.1))
    with pytest.raises(
        BudgetError,
        match=r"'b\.weight' and 'c\.weight' are one .* keep 0\.5 of 'b\.weight' and keep 0\.25 of",
    ):
        look(("b.*", 0.5), ("c.*", 0.25))
    with pytest.raises(BudgetError, match=r"nothing of 'b\.weight' and keep 1 of 'again\.weight'"):
        look(("again.*", 1))
    # what is not to be cut is not looked at
    refuse_conflicts(model, ["a.weight"], Budget(0.5, overrides={"again.*": 1}))


def test_vectors_of_other_shapes_are_no_weights_but_a_narrow_layer_has_some() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.scale = nn.Parameter(torch.ones(6, 1, 1))
            self.token = nn.Parameter(torch.zeros(1, 1, 6))
            self.table = nn.Parameter(torch.zeros(1, 5, 6))
            self.last = nn.Linear(6, 1)

    found = prunable(Scaled())
    assert found.names == ("last.weight",)
    assert found.excluded["table"] == "embedding table"
    assert found.excluded["scale"] == found.excluded["token"] == "a vector: one scale or token"
