"""Layer-wise reconstruction against closed forms, and on a real network."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur import Budget, Masks, prunable, select
from secateur.errors import UsageError
from secateur.nets import build
from secateur.pruning.calibration import Calibration
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.ladder.gradual import prune_gradually
from secateur.pruning.recovery.reconstruct import reconstruct


def images(*shape: int, count: int = 64, seed: int = 0) -> Calibration:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, *shape, generator=generator)
    mixed = mixed + 0.7 * mixed.roll(1, 1) + 0.3  # inputs that have something to do with each other
    return Calibration(tuple(mixed.split(24)))


def cut(model: nn.Module, keep: float, names: Sequence[str] | None = None) -> Masks:
    names = names or prunable(model, include_first=True).names
    return select(CRITERIA["magnitude"].scores(model, names), Budget(keep, floor=0))


def test_a_linear_layer_is_solved_row_by_row() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(12, 5)
    data, masks = images(12, count=90), cut(dense, 0.4)
    model = copy.deepcopy(dense)
    result = reconstruct(model, dense, masks, data, damping=1e-9)
    x = torch.cat(data.inputs).double().numpy()
    y = dense(torch.cat(data.inputs)).detach().double().numpy()
    for row, kept in enumerate(masks["weight"].numpy()):
        design = np.concatenate([x[:, kept], np.ones((len(x), 1))], 1)
        best = np.linalg.lstsq(design, y[:, row], rcond=None)[0]
        got = model.weight[row].detach().numpy()
        np.testing.assert_allclose(got[kept], best[:-1], atol=1e-4)
        assert (got[~kept] == 0).all()
        np.testing.assert_allclose(model.bias[row].item(), best[-1], atol=1e-4)
    assert result.layers[0].after < result.layers[0].before
    assert result.seconds >= 0


def test_damping_pulls_towards_the_dense_weights() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(12, 5, bias=False)
    data, masks = images(12), cut(dense, 0.4)
    distances = []
    for damping in (1e-9, 1.0, 1e6):
        model = copy.deepcopy(dense)
        reconstruct(model, dense, masks, data, damping=damping)
        distances.append((model.weight - dense.weight * masks["weight"]).norm().item())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-3


def test_a_solution_that_is_worse_is_not_taken() -> None:
    """Weights at their best are pulled away from it by a damping that is large."""
    torch.manual_seed(0)
    dense = nn.Linear(12, 5)
    data, masks = images(12, count=90), cut(dense, 0.4)
    model = copy.deepcopy(dense)
    best = reconstruct(model, dense, masks, data, damping=1e-9).layers[0].after
    before = copy.deepcopy(model.state_dict())
    (layer,) = reconstruct(model, dense, masks, data, damping=10.0).layers
    assert layer.after == layer.before == pytest.approx(best, rel=1e-3)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7, 8)),
        (nn.Conv2d(4, 6, (3, 2), dilation=2, padding=2, padding_mode="reflect"), (4, 7, 8)),
        (nn.Conv2d(6, 6, 3, padding="same", groups=6, bias=False), (6, 6, 6)),
        (nn.Conv1d(4, 6, 3, padding=1), (4, 9)),
        (nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1)), (2, 4, 5, 3)),
    ],
    ids=str,
)
def test_a_convolution_is_at_the_minimum_of_its_error(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    """Reference: at the least squares, autograd finds no slope in any kept weight."""
    torch.manual_seed(0)
    model = copy.deepcopy(layer)
    data, masks = images(*shape), cut(layer, 0.5, ["weight"])
    reconstruct(model, layer, masks, data, damping=1e-10, positions=10**6)
    x = torch.cat(data.inputs).double()
    model, reference = model.double(), copy.deepcopy(layer).double()

    def loss() -> Tensor:
        return (model(x) - reference(x)).square().mean()

    found = torch.autograd.grad(loss(), list(model.parameters()))
    assert (found[0][masks["weight"]].abs() < 1e-6).all()
    assert all((slope.abs() < 1e-6).all() for slope in found[1:])
    assert (model.weight[~masks["weight"]] == 0).all()


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 1), st.integers(32, 40), st.booleans())
def test_no_layer_gets_worse_and_no_mask_changes(
    inputs: int, outputs: int, keep: float, count: int, bias: bool
) -> None:
    torch.manual_seed(inputs * outputs)
    dense = nn.Sequential(nn.Linear(inputs, outputs, bias=bias), nn.ReLU(), nn.Linear(outputs, 3))
    data, masks = images(inputs, count=count), cut(dense, keep)
    model = copy.deepcopy(dense)
    for layer in reconstruct(model, dense, masks, data).layers:
        assert layer.after <= layer.before
    for name, mask in masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()
        assert torch.isfinite(model.get_parameter(name)).all()


class Residual(nn.Module):
    """Two layers beside a shortcut that is pruned too, as a residual block is built."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.norm(self.conv(x)) + x


def test_a_layer_beside_a_shortcut_makes_up_for_what_the_shortcut_lacks() -> None:
    torch.manual_seed(0)
    dense = Residual()
    dense(torch.randn(64, 3, 8, 8))
    dense.eval()
    data = images(3, 8, 8, count=128)
    masks = cut(dense, 0.4)
    model = copy.deepcopy(dense)
    reconstruct(model, dense, masks, data, positions=64)

    # the same, but blind to the sum: the last layer fits its own output
    class Blind(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return torch.cat([self.norm(self.conv(x)), x], 1)

    blind, reference = Blind().eval(), Blind().eval()
    blind.load_state_dict(dense.state_dict())
    reference.load_state_dict(dense.state_dict())
    reconstruct(blind, reference, masks, data, positions=64)
    other = copy.deepcopy(dense)
    other.load_state_dict(blind.state_dict())
    x = torch.cat(data.inputs)
    with torch.no_grad():
        seeing, unseeing = (F.mse_loss(net(x), dense(x)).item() for net in (model, other))
    assert seeing < 0.98 * unseeing


def test_the_intercept_goes_into_the_batch_norm_that_follows() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    dense[1].running_mean.normal_()
    dense.eval()
    data, masks = images(3, 6, 6), cut(dense, 0.3)
    model = copy.deepcopy(dense)
    reconstruct(model, dense, masks, data, positions=36)
    x = torch.cat(data.inputs)
    with torch.no_grad():
        gap = (model(x) - dense(x)).mean((0, 2, 3))
    assert gap.abs().max() < 1e-4
    assert torch.equal(model[1].running_var, dense[1].running_var)


def test_work_in_place_behind_a_layer_does_not_change_what_it_should_give() -> None:
    torch.manual_seed(0)
    models = []
    for inplace in (False, True):
        torch.manual_seed(0)
        dense = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(inplace=inplace), nn.Conv2d(6, 4, 3), nn.ReLU(inplace)
        )
        model = copy.deepcopy(dense)
        reconstruct(model, dense, cut(dense, 0.4), images(3, 8, 8), positions=16)
        models.append(model)
    for one, other in zip(*(m.state_dict().values() for m in models), strict=True):
        assert torch.equal(one, other)


def test_a_layer_that_is_used_twice_is_fitted_to_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.linear(x).tanh())

    torch.manual_seed(0)
    dense = Twice()
    data, masks = images(6, count=200), cut(dense, 0.5)
    model = copy.deepcopy(dense)
    result = reconstruct(model, dense, masks, data)
    assert len(result.layers) == 1
    x = torch.cat(data.inputs)
    bare = copy.deepcopy(dense)
    masks.apply(bare)
    assert F.mse_loss(model(x), dense(x)) < 0.8 * F.mse_loss(bare(x), dense(x))


@pytest.mark.parametrize("net", ["convnet-s", "resnet20", "mlp"])
def test_whole_networks_come_nearer_to_dense(net: str) -> None:
    torch.manual_seed(0)
    dense = build(net)
    data = images(3, 32, 32, count=64)
    dense(torch.cat(data.inputs))  # running statistics that are not those of no data
    dense.train()
    masks = cut(dense, 0.3, prunable(dense).names)
    model, bare = copy.deepcopy(dense), copy.deepcopy(dense)
    result = reconstruct(model, dense, masks, data)
    masks.apply(bare)
    assert [layer.name for layer in result.layers] == list(prunable(dense).names)
    assert model.training
    assert not result.skipped
    x = torch.cat(data.inputs)
    with torch.no_grad():
        wanted = dense.eval()(x)
        assert F.mse_loss(model.eval()(x), wanted) < 0.5 * F.mse_loss(bare.eval()(x), wanted)
    again = copy.deepcopy(dense)
    reconstruct(again, dense, masks, data)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_gradual_pruning_is_exact_nested_and_better_than_one_cut() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )
    names = prunable(dense, include_first=True).names
    data = images(24, count=256)
    x = torch.cat(data.inputs)
    before = copy.deepcopy(dense.state_dict())
    keeps = (0.3, 0.15, 0.1)
    budgets = [Budget(keep) for keep in (0.1, 0.3, 0.15)]
    masks, errors = [], {}
    results = prune_gradually(dense, names, budgets, data, images=128)
    for keep, (model, found, _) in zip(keeps, results, strict=True):
        masks.append(found)
        assert found.kept == round(keep * found.total)
        assert all((model.get_parameter(n)[~m] == 0).all() for n, m in found.items())
        once = copy.deepcopy(dense)
        reconstruct(once, dense, cut(dense, keep), data)
        errors[keep] = [F.mse_loss(net(x), dense(x)).item() for net in (model, once)]
    assert masks[2].nested_in(masks[1])
    assert masks[1].nested_in(masks[0])
    assert errors[0.15][0] < errors[0.15][1]
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    alone = next(prune_gradually(dense, names, [Budget(0.15)], data, images=128))
    assert alone[1] == masks[1]


def test_what_cannot_be_solved_is_named_and_left() -> None:
    torch.manual_seed(0)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.up = nn.ConvTranspose1d(4, 4, 3)
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.linear(x).unsqueeze(-1))

    dense = Mixed()
    masks = cut(dense, 0.5, ["linear.weight", "up.weight", "unused.weight"])
    model = copy.deepcopy(dense)
    result = reconstruct(model, dense, masks, images(4))
    assert [layer.name for layer in result.layers] == ["linear.weight"]
    assert "ConvTranspose1d is neither" in result.skipped["up.weight"]
    assert "does not run" in result.skipped["unused.weight"]
    assert torch.equal(model.up.weight, dense.up.weight * masks["up.weight"])


def test_inputs_that_are_all_zero_change_nothing() -> None:
    dense = nn.Linear(4, 4)
    masks = cut(dense, 0.5)
    model = copy.deepcopy(dense)
    reconstruct(model, dense, masks, Calibration((torch.zeros(40, 4),)))
    assert torch.isfinite(model.weight).all()
    torch.testing.assert_close(model.bias, dense.bias)


def test_bad_input_is_refused_and_nothing_is_lost() -> None:
    torch.manual_seed(0)
    dense = build("convnet-s")
    names = prunable(dense).names
    masks, data = cut(dense, 0.5, names), images(3, 32, 32, count=40)
    model = copy.deepcopy(dense)

    def refuse(message: str, error: type[Exception] = UsageError, **wrong: object) -> None:
        given: dict[str, object] = {"dense": dense, "masks": masks, "calibration": data} | wrong
        with pytest.raises(error, match=message):
            reconstruct(model, **given)  # type: ignore[arg-type]
        for key, value in model.state_dict().items():
            assert torch.equal(value, dense.state_dict()[key])
        assert not any(m._forward_hooks for m in model.modules())

    refuse("damping is 0", damping=0)
    refuse("positions is 0", positions=0)
    refuse("model and dense .*'", dense=build("mlp"))
    refuse(r"\[N, 3, 7\]", calibration=images(3, 7))
    refuse("'weight'", masks=cut(nn.Linear(3, 3), 0.5))
    for wrong, message in (
        ({"step": 1}, "step is 1"),
        ({"budgets": []}, "at least one"),
        ({"budgets": [Budget(0.5), Budget(0.2, "layer")]}, "keep ratio"),
        ({"budgets": [Budget(0.01, floor=0.3)]}, "floor"),
        ({"criterion": "best"}, "'best'"),
    ):
        given = {"budgets": [Budget(0.5)], "calibration": data} | wrong
        with pytest.raises(UsageError, match=message):
            prune_gradually(model, names, **given)  # type: ignore[arg-type]
    for key, value in model.state_dict().items():
        assert torch.equal(value, dense.state_dict()[key])
