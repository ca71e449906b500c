"""Gradients of a calibration set: what they are, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import Calibration
from secateur.errors import ScoreError, UsageError
from secateur.pruning.gradients import gradients


def data(loss: Callable[..., Any] = F.cross_entropy, sizes: tuple[int, ...] = (20, 20)) -> Any:
    generator = torch.Generator().manual_seed(0)
    return Calibration(
        tuple(torch.randn(size, 6, generator=generator) for size in sizes),
        tuple(torch.randint(0, 3, (size,), generator=generator) for size in sizes),
        loss,
    )


def taken(model: nn.Module, calibration: Calibration, names: tuple[str, ...] = ("weight",)) -> Any:
    return list(gradients(model, names, calibration, batch=8, purpose="criterion 'x'"))


def test_they_are_those_of_each_small_batch() -> None:
    model, calibration = nn.Linear(6, 3), data()
    found = taken(model, calibration)
    parts = [
        part
        for x, y in zip(calibration.inputs, calibration.targets, strict=True)
        for part in zip(x.split(8), y.split(8), strict=True)
    ]
    assert len(found) == len(parts) == 6
    for gradient, (x, y) in zip(found, parts, strict=True):
        expected = torch.autograd.grad(F.cross_entropy(model(x), y), model.weight)[0]
        assert torch.equal(gradient["weight"], expected)
    assert model.weight.grad is None
    assert taken(model, calibration, ()) == []


def test_they_are_taken_in_whatever_mode_the_caller_is() -> None:
    model = nn.Linear(6, 3)
    expected = taken(model, data())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = taken(model, data())  # in inference mode, so is the data
        assert all(
            torch.equal(a["weight"], b["weight"]) for a, b in zip(found, expected, strict=True)
        )


class Several(nn.Linear):
    """Gives more than the loss takes."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


def each(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def nan(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) * float("nan")


@pytest.mark.parametrize(
    ("model", "loss", "error", "message"),
    [
        (
            Several(6, 3),
            F.cross_entropy,
            UsageError,
            "outputs tuple .*targets",
        ),
        (nn.Linear(6, 2), F.cross_entropy, UsageError, r"outputs \[8, 2\].*int64 \[8\]"),
        (nn.Linear(6, 3), each, UsageError, r"loss .*scalar.* \[8\]"),
        (nn.Linear(6, 3), lambda x, y: 1.0, UsageError, "loss .*scalar.* float"),
        (nn.Linear(6, 3), nan, ScoreError, "'x' .*'weight' .*not finite"),
    ],
)
def test_a_loss_that_cannot_be_taken_is_refused(
    model: nn.Module, loss: Callable[..., Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        taken(model, data(loss))
    assert model.training
