"""Shrinking: a smaller module with the masked one's outputs, or a group refused by name."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import forked
from channel_nets import NETS, made
from channel_transformers import Attention, Encoder, HardCoded
from secateur import Budget
from secateur.errors import UsageError
from secateur.export import to_onnx
from secateur.pruning.channels import ChannelCut, channel_groups, select_channels
from secateur.pruning.smaller.shrinking import Shrunk, shrink


def half(model: nn.Module, example: Tensor, keep: float = 0.5) -> ChannelCut:
    scores = {name: p.detach().abs() for name, p in model.named_parameters() if p.dim() > 1}
    return select_channels(scores, channel_groups(model, example), Budget(keep, "layer"))


def shrunk(name: str) -> tuple[nn.Module, Tensor, ChannelCut, Shrunk]:
    """Return a network, masked, with its cut and what shrinking the dense one gave."""
    model, example = made(name)
    cut = half(model, example)
    result = shrink(model, cut, example)
    cut.apply(model)
    return model, NETS[name].example(), cut, result


def test_a_smaller_model_is_loaded_where_there_is_no_secateur(tmp_path: Path) -> None:
    _, x, _, result = shrunk("resnet")
    small = result.model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own
        torch.export.save(torch.export.export(small, (x,)), tmp_path / "small.pt2")
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch; sys.modules['secateur'] = None\n"
        "small = torch.export.load('small.pt2').module()\n"
        "torch.save(small(torch.load('x.pt')), 'y.pt')\n"
    )
    done = forked.run("-c", script, folder=tmp_path)
    assert done.status == 0, done.err
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "y.pt"), small(x), atol=1e-5)


def same(first: nn.Module, second: nn.Module, x: Tensor, tolerance: float = 1e-5) -> bool:
    with torch.no_grad():
        want, have = first(x), second(x)
    return torch.allclose(have, want, rtol=0, atol=tolerance * float(want.abs().max()))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_the_masked_model(name: str) -> None:
    masked, x, cut, result = shrunk(name)
    assert result.refused == {}
    assert same(masked, result.model, x)  # on inputs that shrink has not seen
    assert sum(result.removed.values()) == len(cut.cut) > 0
    assert result.before == count(masked)
    assert result.after == count(result.model) < result.before
    taken = sum(int((~mask).sum()) for mask in cut.everything.values())
    assert result.after == result.before - taken  # every zero of the cut is gone
    assert list(result.model.state_dict()) == list(masked.state_dict())


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "unet", "vit", "conv1d"])
def test_it_trains_and_its_layers_know_their_sizes(name: str) -> None:
    _, x, _, result = shrunk(name)
    model = result.model.train()
    model(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
        elif isinstance(module, nn.Conv2d):
            assert module.out_channels == len(module.weight)
            assert module.in_channels == module.weight.shape[1] * module.groups
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_var)
        elif isinstance(module, Attention):
            assert module.num_heads == 2


@pytest.mark.parametrize("name", ["plain", "resnet", "mobilenet", "dense", "vit", "llama"])
def test_onnx_gives_the_same(name: str) -> None:
    masked, x, _, result = shrunk(name)
    session = onnxruntime.InferenceSession(to_onnx(result.model, x, batched=False))
    have = session.run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        want = masked(x).numpy()
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_state_loads_into_the_same_smaller_architecture() -> None:
    def net(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, a, 3), nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3), nn.Flatten(),
            nn.Linear(b * 16, 2),
        )  # fmt: skip

    torch.manual_seed(0)
    model, x = net(8, 6).eval(), torch.randn(2, 3, 8, 8)
    small = shrink(model, half(model, x), x).model
    again = net(4, 3).eval()
    again.load_state_dict(small.state_dict())
    assert same(small, again, x, 0)
    assert str(again) == str(small)


def test_nothing_else_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
    model[1].eval()
    model[3].weight.requires_grad_(False)
    x = torch.randn(3, 4)
    cut = half(model, x)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    small = shrink(model, cut, x).model
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    modes = [module.training for module in small.modules()]
    assert modes == [module.training for module in model.modules()]
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert not any(p.is_inference() for p in small.parameters())


def test_shared_tensors_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.relu(self.a(x)) * self.b(x))

    torch.manual_seed(0)
    model, x = Tied(), torch.randn(2, 4)
    small = shrink(model, half(model, x), x).model
    assert isinstance(small, Tied)
    assert small.b.weight is small.a.weight
    assert small.a.out_features == small.b.out_features == 3
    gpt = shrunk("gpt")[3].model
    assert gpt.get_parameter("head.weight") is gpt.get_parameter("tokens.weight")


def test_sizes_in_code_are_refused_by_name_and_the_rest_shrinks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Encoder(16, HardCoded(16, 4)), Encoder(16, Attention(16, 4))).eval()
    x = torch.randn(2, 5, 16)
    cut = half(model, x)
    result = shrink(model, cut, x)
    assert list(result.refused) == ["0.attention.qkv.weight"]
    assert "'[2, 5, 16]'" in result.refused["0.attention.qkv.weight"]
    assert list(result.removed) == ["0.mlp.0.weight", "1.attention.qkv.weight", "1.mlp.0.weight"]
    cut.apply(model)
    assert same(model, result.model, x)
    assert "refused 0.attention.qkv.weight" in repr(result)


def test_outputs_that_would_differ_are_refused() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x / x.shape[1])

    torch.manual_seed(0)
    model, x = Counted(), torch.randn(2, 4)
    result = shrink(model, half(model, x), x)
    assert "outputs differ by" in result.refused["a.weight"]
    assert result.after == result.before


def test_a_head_that_starts_at_zero_hides_nothing() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.head(self.b(x) / x.shape[1])

    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(2, 4)
    cut = half(model, x)
    nn.init.zeros_(model.head.weight)
    result = shrink(model, cut, x)
    assert "outputs differ by" in result.refused["a.weight"]
    assert result.removed == {"b.weight": 4}
    assert not result.model.get_parameter("head.weight").any()


def test_bf16_and_wrapped_models() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    model = model.eval().bfloat16()
    x = torch.randn(3, 4).bfloat16()
    cut = half(model, x)
    result = shrink(torch.compile(model, backend="eager"), cut, x)
    assert result.refused == {}
    assert result.removed == {"0.weight": 4}
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert isinstance(result.model, nn.Sequential)
    cut.apply(model)
    assert same(model, result.model, x, 1e-2)


def test_a_cut_of_another_model_is_refused() -> None:
    model, x = made("gated")
    with pytest.raises(UsageError, match=r"'a\."):
        shrink(made("reused")[0], half(model, x), x)
    with pytest.raises(UsageError, match=r"example: .*2x5"):
        shrink(model, None, torch.ones(2, 5))


def found(model: nn.Module, x: Tensor) -> Shrunk:
    """Shrink without a cut; outputs must stay on inputs that were not seen."""
    model.eval()
    result = shrink(model, None, x)
    assert same(model, result.model, torch.randn_like(x) * 3)
    assert result.refused == {}
    return result


def test_a_dense_model_stays_as_it_is() -> None:
    model, x = made("resnet")
    result = found(model, x)
    assert (result.removed, result.folded, result.after) == ({}, (), result.before)


class Tied(nn.Module):
    """A layer whose channels are added to each other in another order, so that all go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y + y.view(-1, 2, 2).transpose(1, 2).reshape(-1, 4))


def test_a_model_without_channels_to_cut_stays_as_it_is() -> None:
    result = found(Tied(), torch.ones(2, 3))
    assert (result.removed, result.after) == ({}, result.before)


def test_channels_that_nobody_reads_go() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    with torch.no_grad():
        model[2].weight[:, [1, 5]] = 0
    result = found(model, torch.randn(2, 3, 6, 6))
    assert result.removed == {"0.weight": 2}
    assert result.folded == ()


def constant_net(padding: int, between: nn.Module) -> nn.Sequential:
    """Return a net with three dead rows; a norm gives their channels constants 1, -1 and 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        between,
        nn.Conv2d(8, 4, 3, padding=padding, bias=False),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).eval()
    model(torch.randn(2, 3, 8, 8))
    with torch.no_grad():
        model[0].weight[[1, 4, 6]] = 0
        model[1].bias[[1, 4, 6]] = torch.tensor([1.0, -1.0, 0.0])
    return model


def test_constants_are_folded_into_the_next_bias() -> None:
    model = constant_net(0, nn.Hardtanh())
    result = found(model, torch.randn(2, 3, 8, 8))
    assert result.removed == {"0.weight": 3}
    assert result.folded == ("3",)
    assert result.model.get_submodule("3").bias is not None


def test_constants_beside_padding_are_left_unless_they_are_zero() -> None:
    assert found(constant_net(1, nn.Hardtanh()), torch.randn(2, 3, 8, 8)).removed == {"0.weight": 1}
    assert found(constant_net(1, nn.ReLU()), torch.randn(2, 3, 8, 8)).removed == {"0.weight": 2}
    # Padding by itself makes a channel that is not constant.
    assert found(constant_net(0, nn.ZeroPad2d(1)), torch.randn(2, 3, 8, 8)).removed == {}


def test_a_table_over_positions_is_no_constant() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.table = nn.Parameter(torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) + self.table)

    torch.manual_seed(0)
    model, x = Places(), torch.randn(2, 5, 4)
    assert [group.name for group in channel_groups(model, x)] == ["a.weight"]
    with torch.no_grad():
        model.a.weight[[1, 6]] = 0
    assert found(model, x).removed == {}
    with torch.no_grad():
        model.table[:, 6] = 0
        model.a.bias[6] = 0
    assert found(model, x).removed == {"a.weight": 1}


def test_constants_are_followed_through_a_chain() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)
    )
    with torch.no_grad():
        model[0].weight[[0, 3]] = 0
        model[2].weight[1] = 0
        model[2].weight[1, [0, 3]] = 2.0  # reads constants alone: constant once they are folded
    result = found(model, torch.randn(3, 4))
    assert result.removed == {"0.weight": 2, "2.weight": 1}
    assert result.folded == ("2", "4")
    assert result.after == 4 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2


def test_a_residual_channel_goes_only_when_all_that_write_it_are_dead() -> None:
    model, x = made("resnet")
    with torch.no_grad():
        for name in ("0.0", "1.b.0"):
            model.get_parameter(f"{name}.weight")[2] = 0
        model.get_parameter("0.0.weight")[5] = 0  # still written by 1.b
        for name in ("0.1", "1.b.1"):
            model.get_parameter(f"{name}.bias")[2] = -1.0
            model.get_parameter(f"{name}.weight")[2] = 0.0
    result = found(model, x)
    # The first norm's channel is read as it is by the next block: -1, with padding, stays.
    assert result.removed == {}
    with torch.no_grad():
        model.get_parameter("0.1.bias")[2] = 0.0
    assert found(model, x).removed == {"0.0.weight": 1}


def test_a_dead_head_goes_only_when_it_is_silent() -> None:
    model, x = made("vit")
    with torch.no_grad():
        qkv = model.get_submodule("blocks.0.attention.qkv")
        assert isinstance(qkv, nn.Linear)
        for part in range(3):
            qkv.weight[16 * part + 8 : 16 * part + 12] = 0
    assert found(model, x).removed == {}  # its bias still speaks
    with torch.no_grad():
        for part in range(3):
            qkv.bias[16 * part + 8 : 16 * part + 12] = 0
    result = found(model, x)
    assert result.removed == {"blocks.0.attention.qkv.weight": 1}
    assert result.model.get_submodule("blocks.0.attention").num_heads == 3


def test_a_layer_never_loses_its_last_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        model[0].weight.zero_()
    result = found(model, torch.randn(3, 4))
    assert result.removed == {"0.weight": 5}
    assert result.model.get_submodule("0").out_features == 1


def test_masks_over_single_weights_shrink_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[torch.rand_like(layer.weight) > 0.08] = 0
    result = found(model, torch.randn(3, 8))
    assert sum(result.removed.values()) > 10
