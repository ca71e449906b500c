"""Multiply-adds are counted where they happen, against formulas written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur import nets
from secateur.errors import UsageError
from secateur.measure.work import work


def test_convolutions_linear_layers_and_groups() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 7)
    )
    counted = work(model, torch.zeros(2, 4, 5, 5))
    assert counted.parameters == {"0.weight": 2 * 25 * 6 * 2 * 9, "3.weight": 2 * 150 * 7}
    assert counted.activations == 0


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(3, 5, 4, stride=2), (2, 3, 10), 2 * 4 * 5 * 3 * 4),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 8 * 3 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5), 2 * 25 * 4 * 3 * 9),
    ],
)
def test_other_convolutions(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert work(layer, torch.zeros(shape)).parameters == {"weight": expected}


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    counted = work(kind(10, 20, 2), torch.zeros(7, 3, 10))
    assert counted.parameters == {
        "weight_ih_l0": 21 * gates * 20 * 10,
        "weight_hh_l0": 21 * gates * 20 * 20,
        "weight_ih_l1": 21 * gates * 20 * 20,
        "weight_hh_l1": 21 * gates * 20 * 20,
    }


def test_attention_counts_products_of_activations() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    counted = work(layer.eval(), torch.zeros(2, 5, 32))
    assert counted.activations == 2 * 2 * 5 * 5 * 32  # queries times keys, then times values
    assert counted.parameters["self_attn.in_proj_weight"] == 2 * 5 * 32 * 96
    assert counted.parameters["linear1.weight"] == 2 * 5 * 32 * 64


class Twice(nn.Module):
    """One layer in two places, its weight used functionally too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x))
        return nn.functional.linear(x, self.layer.weight[:3])


def test_every_use_of_a_weight_counts() -> None:
    assert work(Twice(), torch.zeros(2, 6)).parameters == {"layer.weight": 2 * (36 + 36 + 18)}


@pytest.mark.parametrize("net", ["convnet", "resnet20", "vgg16"])
def test_it_agrees_with_torch_on_whole_networks(net: str) -> None:
    model = nets.build(net)
    example = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as reference, torch.no_grad():
        model.eval()(example)
    assert 2 * work(model, example).total == reference.get_total_flops()


def test_autocast_and_half_models_count_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    plain = work(model, torch.zeros(3, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert work(model, torch.zeros(3, 8)) == plain
    half = model.to(torch.bfloat16)
    assert work(half, torch.zeros(3, 8, dtype=torch.bfloat16)) == plain


def test_kept_counts_in_proportion_and_the_model_is_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    counted = work(model, torch.randn(2, 3, 5, 5))
    assert counted.kept({"0.weight": (27, 108)}) == counted.total // 4
    assert counted.kept({}) == counted.total
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_inputs_by_name_and_in_sequence() -> None:

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.a(x) * scale

    named = {"x": torch.zeros(1, 2), "scale": torch.ones(1)}
    assert work(Named(), named).parameters == {"a.weight": 6}
    assert work(Named(), tuple(named.values())).parameters == {"a.weight": 6}


def test_an_example_that_does_not_fit_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match=r"Linear does not take the example float32 \[1, 3\]"):
        work(nn.Linear(2, 2), torch.zeros(1, 3))
