"""What models of others bring along: zeros, averages, norms of weights, heads of training alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from secateur.errors import UsageError

X, Y = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4
LOSS = nn.functional.cross_entropy


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    sizes = (8, 32, 32, 4)
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def uncut(model: nn.Module, masks: secateur.Masks) -> int:
    """Count what is not zero where masks cut."""
    own = dict(model.named_parameters())
    return sum(int(own[name][~mask].count_nonzero()) for name, mask in masks.items())


# Zeros.


def test_zeros_that_were_there_are_counted() -> None:
    sparse, first = secateur.prune(mlp(), 0.3)
    assert first.nonzero.before == first.weights.before
    assert "zeros before" not in repr(first)
    _, more = secateur.prune(sparse, 0.5)
    assert (more.nonzero.before, more.nonzero.after) == (first.weights.after, first.weights.after)
    assert f"zeros before: {1152 - first.weights.after:,} of 1,152 weights" in repr(more)
    (note,) = more.notes
    assert f"{more.weights.after - first.weights.after:,} of the weights that are kept" in note
    assert "keep=0.15" in note
    _, less = secateur.prune(sparse, 0.15)
    assert less.nonzero.after == less.weights.after
    assert less.notes == ()


def test_zeros_of_a_smaller_model_are_counted() -> None:
    sparse, _ = secateur.prune(mlp(), 0.3)
    small, result = secateur.prune(sparse, 0.5, pattern="channel", example=X[:1])
    own = [small.get_parameter(name) for name in result.masks]
    assert result.nonzero.after == sum(int(weight.count_nonzero()) for weight in own)
    assert "zeros before" in repr(result)


# Averages of weights that began before the cut.


def test_an_average_that_began_before_the_cut_is_held_as_the_model_is(tmp_path: Path) -> None:
    model = mlp()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)
    teacher = copy.deepcopy(model)  # as other libraries keep their average
    _, result = secateur.prune(model, 0.3, in_place=True)
    for _ in range(3):
        average.update_parameters(model)
    assert uncut(average.module, result.masks)  # it forgets what was cut, and never quite
    with pytest.raises(UsageError, match="mask cuts are not zero; apply the masks before"):
        secateur.save(average, tmp_path / "average.safetensors", masks=result.masks)
    for held in (average, teacher):
        result.masks.hold(held)
    assert not uncut(average.module, result.masks) + uncut(teacher, result.masks)
    average.update_parameters(model)
    assert not uncut(average.module, result.masks)
    secateur.save(average, tmp_path / "average.safetensors", masks=result.masks)


def test_an_average_of_a_larger_model_is_named() -> None:
    model = mlp()
    average = AveragedModel(model)
    _, result = secateur.prune(model, 0.5, pattern="channel", example=X[:1])
    with pytest.raises(UsageError, match="these masks belong to another model"):
        result.masks.hold(average)


# Norms of weights.


@pytest.mark.parametrize(
    ("norm", "remedy"), [(weight_norm, "remove_weight_norm"), (spectral_norm, "remove_spectral")]
)
def test_norms_of_hooks_are_refused(norm: Callable[..., Any], remedy: str) -> None:
    model = mlp()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        norm(model[2])
    for in_place in (False, True):
        with pytest.raises(UsageError, match=rf"2 \(Linear\) computes its weight by .*{remedy}"):
            secateur.prune(model, 0.5, in_place=in_place)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrizations_are_named_and_what_takes_them_off(name: str) -> None:
    model = mlp()
    getattr(parametrizations, name)(model[2])
    _, result = secateur.prune(model, 0.5)
    assert set(result.masks) == {"4.weight"}
    (note,) = result.notes
    assert note.startswith("2 stays whole, since a parametrization computes its weight")
    getattr(parametrizations, name)(model[4])
    with pytest.raises(UsageError, match=r"come off with .*remove_parametrizations\(layer"):
        secateur.prune(model, 0.5)
    for layer in (model[2], model[4]):
        parametrize.remove_parametrizations(layer, "weight")
    pruned, result = secateur.prune(model, 0.5)
    assert set(result.masks) == {"2.weight", "4.weight"}
    assert not uncut(pruned, result.masks)


# Layers that data do not run.


class Heads(nn.Module):
    """Has a head that only training runs, and experts of which two are never chosen at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body = nn.Linear(8, 16), nn.Linear(16, 16)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.aside, self.head = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> Any:
        assert next(self.aside.parameters()).dtype == x.dtype  # no use of it
        x = self.body(self.first(x).relu()).relu()
        mixed, chosen = torch.zeros_like(x), (x[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            if (mine := chosen == number).any():
                mixed[mine] = expert(x[mine])
        return (self.head(mixed), self.aside(x)) if self.training else self.head(mixed)


def heads() -> Heads:
    torch.manual_seed(1)
    return Heads()


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "obs"])
def test_layers_that_data_do_not_run_stay_whole_and_are_noted(criterion: str) -> None:
    model = heads()
    # one sample a batch: of the experts, each batch runs one
    batches = [(x[None], y[None]) for x, y in zip(X, Y, strict=True)]
    _, result = secateur.prune(model, 0.3, criterion=criterion, data=batches, loss=LOSS)
    idle = {name for name, why in result.excluded.items() if why == "not run on the data"}
    assert idle == {"experts.2.weight", "aside.weight"}
    assert "experts.2.weight and 1 more did not run on the data" in result.notes[0]
    assert result.masks.kept == round(0.3 * result.masks.total)
    assert model.training
    alone = [f"{n}*" for n, _ in model.named_children() if n not in ("aside", "first")]
    plan = secateur.prunable(model, exclude=alone)
    with pytest.raises(UsageError, match=r"aside.weight: not run on the data"):
        secateur.prune(model, 0.3, criterion=criterion, data=batches, loss=LOSS, plan=plan)


def test_reconstruction_of_experts_that_read_other_samples_after_the_cut() -> None:
    model = heads()
    _, result = secateur.prune(model, 0.3, data=X, recover="reconstruct")
    assert result.recovery == ("reconstruct",)
    assert any("experts.2.weight is not reconstructed" in note for note in result.notes)


# Floors.


def test_a_layer_that_falls_to_its_floor_is_named() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight.mul_(1e-4)
    _, result = secateur.prune(model, 0.1)
    (note,) = result.notes
    assert note.startswith("2.weight fell to its floor: it keeps 3 of 1,024 weights")
    assert "scope='layer'" in note
    _, result = secateur.prune(model, secateur.Budget(0.1, "layer"))
    assert result.notes == ()


@pytest.mark.parametrize(("pattern", "kept"), [("dot4", 4), ("1x4", 4), ("4x1", 4), ("16x4", 64)])
def test_a_layer_that_falls_to_its_floor_of_blocks_is_named(pattern: str, kept: int) -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight.mul_(1e-4)
    _, result = secateur.prune(model, 0.1, pattern=pattern)
    (note,) = result.notes
    assert note.startswith(f"2.weight fell to its floor: it keeps {kept} of 1,024 weights")
    assert f"scope='layer', pattern='{pattern}')" in note
    _, result = secateur.prune(model, secateur.Budget(0.1, "layer", pattern=pattern))
    assert result.notes == ()
