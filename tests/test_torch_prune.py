"""Models of torch.nn.utils.prune: plain afterwards, and computing the same."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur.errors import UsageError
from secateur.pruning.files.model_file import load, save
from secateur.pruning.files.reading import load_masks
from secateur.pruning.files.torch_prune import convert_state_dict, from_torch_prune


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    cut = network().eval()
    prune.l1_unstructured(cut[0], "weight", 0.5)
    prune.random_structured(cut[3], "weight", 2, dim=0)
    prune.l1_unstructured(cut[3], "weight", 0.3)  # again: a container of two methods
    prune.random_unstructured(cut[3], "bias", 2)
    return cut


X = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))


def test_a_model_becomes_plain_and_computes_the_same(model: nn.Sequential) -> None:
    wanted, weight = model(X), model[0].weight_orig
    kept = {"0.weight": model[0].weight_mask, "3.weight": model[3].weight_mask}
    masks = from_torch_prune(model)
    assert set(model.state_dict()) == set(network().state_dict())
    assert dict(model.named_parameters()).keys() == dict(network().named_parameters()).keys()
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(X), wanted)
    assert set(masks) == {"0.weight", "3.weight", "3.bias"}
    assert all(torch.equal(masks[name], mask.bool()) for name, mask in kept.items())
    assert model[0].weight is weight
    for name, mask in masks.items():
        cut = model.get_parameter(name)[~mask]
        assert len(cut)
        assert not cut.view(torch.int32).any()  # +0.0 exactly


def test_the_model_goes_on_like_any_other(model: nn.Sequential, tmp_path: Path) -> None:
    masks = from_torch_prune(model)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(3):
        model(X).square().sum().backward()
        optimizer.step()
        masks.hold(model)
    copied = copy.deepcopy(model)
    save(copied, tmp_path / "model", masks=masks)
    back = load(tmp_path / "model", network().eval())
    assert torch.equal(back(X), model(X))
    assert load_masks(tmp_path / "model") == masks


def test_what_is_no_number_is_cut_too() -> None:
    layer = nn.Linear(3, 1)
    prune.custom_from_mask(layer, "weight", torch.tensor([[0.0, 0.0, 1.0]]))
    with torch.no_grad():
        layer.weight_orig[0, :2] = torch.tensor([math.nan, -math.inf])
    from_torch_prune(layer)
    assert layer.weight[0, :2].tolist() == [0, 0]


@pytest.mark.parametrize("build", [nn.LSTM, nn.GRU])
def test_recurrent_layers(build: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    layer, x = build(3, 4), torch.randn(5, 2, 3)
    prune.l1_unstructured(layer, "weight_hh_l0", 0.5)
    masks = from_torch_prune(layer)
    plain = build(3, 4)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], plain(x)[0])
    assert not layer.weight_hh_l0[~masks["weight_hh_l0"]].any()
    layer.double()(x.double())  # its own list of weights is up to date


def test_a_state_dict_is_converted_alike(model: nn.Sequential) -> None:
    state = model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    plain, masks = convert_state_dict(state)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    fresh = network().eval()
    fresh.load_state_dict(plain, strict=True)
    assert torch.equal(fresh(X), model(X))
    assert masks == from_torch_prune(model)


def test_buffers_that_are_only_called_so_stay() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("causal_mask", torch.ones(2, 2))

    attention = Attention()
    prune.l1_unstructured(attention.layer, "weight", 1)
    plain, _ = convert_state_dict(attention.state_dict())
    assert set(plain) == {"causal_mask", "layer.weight", "layer.bias"}
    from_torch_prune(attention)
    assert set(attention.state_dict()) == set(plain)


def pair() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    layers[1].weight = layers[0].weight
    prune.l1_unstructured(layers[0], "weight", 4)
    return layers


def test_a_shared_weight_is_cut_in_all_places_or_not_at_all() -> None:
    alike = pair()
    prune.custom_from_mask(alike[1], "weight", alike[0].weight_mask)
    assert set(from_torch_prune(alike)) == {"0.weight"}
    assert alike[0].weight is alike[1].weight
    half_cut, otherwise = pair(), pair()
    with pytest.raises(UsageError, match=r"'0.weight' and '1.weight' are one .* only the first"):
        from_torch_prune(half_cut)
    prune.custom_from_mask(otherwise[1], "weight", 1 - otherwise[0].weight_mask)
    with pytest.raises(UsageError, match="cut differently"):
        from_torch_prune(otherwise)
    assert all("0.weight_orig" in layers.state_dict() for layers in (half_cut, otherwise))


def pruned() -> nn.Linear:
    layer = nn.Linear(2, 3)
    prune.l1_unstructured(layer, "weight", 2)
    return layer


def half(layer: nn.Linear) -> None:
    layer.weight_mask[0, 0] = 0.5


WRONG: dict[str, Callable[[nn.Linear], object]] = {
    "no 'weight_mask'": lambda layer: delattr(layer, "weight_mask"),
    "there is no 'weight_orig'": lambda layer: delattr(layer, "weight_orig"),
    r"'weight_mask' has shape \(3,\)": lambda la: setattr(la, "weight_mask", torch.ones(3)),
    "other values than 0 and 1": half,
    "both 'weight' and 'weight_orig'": lambda la: (
        la.__dict__.pop("weight"),
        la.register_parameter("weight", nn.Parameter(torch.ones(3, 2))),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named_and_left_alone(message: str) -> None:
    both = nn.Sequential(pruned(), pruned())
    WRONG[message](both[1])
    before = list(both.state_dict())
    with pytest.raises(UsageError, match=message.replace("'weight", "'1.weight")):
        from_torch_prune(both)
    assert list(both.state_dict()) == before
    assert "0.weight_orig" in before
    if "there is no" not in message:
        with pytest.raises(UsageError, match=message):
            convert_state_dict(
                {n[2:]: t for n, t in both.state_dict().items() if n.startswith("1.")}
            )


def test_models_that_are_not_cut_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no parameter that torch\.nn\.utils\.prune has cut"):
        from_torch_prune(network())
    state: dict[str, Tensor] = dict(network().state_dict())
    with pytest.raises(UsageError, match="no names ending"):
        convert_state_dict(state)
