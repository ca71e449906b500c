"""What a calibration set refuses, and says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import Calibration
from secateur.errors import UsageError


def batch(count: int = 40, *shape: int) -> torch.Tensor:
    return torch.zeros(count, *(shape or (3,)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "is empty"),
        ((batch(31),), "has 31 samples, but at least 32"),
        ((batch(20), batch(20, 4)), r"batch 1 .* is float32 \[20, 4\], but the first"),
        ((batch(20), batch(20).double()), "batch 1 .* is float64"),
        ((batch(40), batch(40).to("meta")), "batch 1 .* lies on meta, the first on cpu"),
        ((batch(20), batch(20) / 0), "batch 1 .* not finite"),
        (([1, 2, 3],), "batch 0 .* is no tensor"),
        ((torch.tensor(1.0),), "batch 0 .* is no tensor"),
    ],
)
def test_unusable_inputs_are_named(inputs: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration(inputs)


def test_targets_must_fit_the_inputs() -> None:
    for targets in ((batch(39),), (batch(20), batch(20))):
        with pytest.raises(UsageError, match="give every input its target"):
            Calibration((batch(40),), targets)


def test_the_first_samples_keep_their_targets() -> None:
    inputs = tuple(torch.arange(120.0).view(3, 40))
    data = Calibration(inputs, tuple(-x for x in inputs)).first(70)
    assert data.count == 70
    assert torch.equal(torch.cat(data.inputs), torch.arange(70.0))
    assert torch.equal(torch.cat(data.targets), -torch.arange(70.0))
    assert data.first(1000).count == 70
    with pytest.raises(UsageError, match="10 samples"):
        data.first(10)


def test_it_takes_the_first_samples_of_any_form() -> None:
    inputs, targets = torch.randn(70, 3), torch.arange(70)
    pairs = list(zip(inputs.split(20), targets.split(20), strict=True))
    loss = nn.functional.cross_entropy
    for data in (inputs, {"x": inputs}, inputs.split(20), [(x,) for x in inputs.split(20)], pairs):
        taken = Calibration.of(data, loss, samples=50, autocast=True)
        assert taken.count == 50
        assert (taken.loss, taken.autocast) == (loss, True)
        given = [x["x"] if isinstance(x, dict) else x for x in taken.inputs]
        assert torch.equal(torch.cat(given), inputs[:50])
        labels = torch.cat(taken.targets) if data is pairs else targets[:50]
        assert torch.equal(labels, targets[:50])
        assert bool(taken.targets) == (data is pairs)
        assert Calibration.of(taken) is taken
    assert Calibration.of(inputs).count == 70
    endless = iter(lambda: inputs, None)
    assert Calibration.of(endless, samples=100).count == 100


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([("text", batch())], r"\(str, Tensor\)"),
        ([(batch(), batch(), batch())], r"\(Tensor, Tensor, Tensor\)"),
        ([(batch(), [1] * 40)], r"\(Tensor, list\)"),
        ([torch.tensor(1.0)], r"\(Tensor\)"),
        ([(batch(), torch.tensor(1))], "batch 0 of targets"),
        ([], "is empty"),
    ],
)
def test_a_batch_that_is_none_is_named(batches: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Calibration.of(batches)


def test_it_is_tried_on_the_model_and_leaves_it_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    data = Calibration((batch(),))
    data.check(model)
    assert model.training
    assert int(model[0].num_batches_tracked) == 0
    assert data.example.shape == (1, 3)
    with pytest.raises(UsageError, match=r"does not take .* float32 \[N, 3\]"):
        data.check(nn.Linear(4, 2))
    asserting = nn.MultiheadAttention(4, 2)
    asserting.forward = lambda x: nn.MultiheadAttention.forward(asserting, x, x, x)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"does not take .* embedding dimension"):
        data.check(asserting)
    with pytest.raises(UsageError, match="set lies on cpu, the model on meta"):
        data.check(nn.Linear(3, 2, device="meta"))


def test_what_a_model_keeps_of_its_first_pass_can_be_trained_with() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.scale = nn.Linear(3, 2), None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.scale is None:
                self.scale = torch.ones(2)
            return self.linear(x) * self.scale

    model = Remembers()
    Calibration((batch(),)).check(model)
    model(batch()).sum().backward()
    assert model.linear.weight.grad is not None
