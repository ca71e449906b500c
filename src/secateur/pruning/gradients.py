"""Gradients of a calibration set's loss, with nothing left behind in the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from secateur.errors import ScoreError, UsageError
from secateur.pruning.calibration import Calibration
from secateur.pruning.modes import evaluating
from secateur.pruning.parameters import parameters, unwrapped


def gradients(
    model: nn.Module, names: Sequence[str], calibration: Calibration, *, batch: int, purpose: str
) -> Iterator[dict[str, Tensor]]:
    """Yield name → ∂L/∂w, float32, of one small batch after the other, in evaluation mode.

    `parameter.grad`, running statistics, training modes and random states stay as they were.

    Args:
        model: as trained.
        names: parameters of the model.
        calibration: with targets and a loss.
        batch: samples of a batch, at most.
        purpose: who asks, for error messages: "criterion 'taylor'".

    Raises:
        UsageError: a parameter takes no gradient, or none reaches it; names the first.
        ScoreError: a gradient is not finite; names the parameter.
    """
    model = unwrapped(model)
    weights = parameters(model, names)
    for name, weight in weights.items():
        if not weight.requires_grad:
            raise UsageError(
                f"{purpose} needs gradients, but {name!r} has requires_grad=False; "
                "switch it on, or choose a criterion that needs none"
            )
    if calibration.loss is None:
        raise UsageError(f"{purpose} needs a loss; give Calibration(inputs, targets, loss)")
    with evaluating(model):
        for inputs, targets in zip(calibration.inputs, calibration.targets, strict=True):
            for x, y in zip(_parts(inputs, batch), _parts(targets, batch), strict=True):
                yield _of_batch(model, weights, calibration, x, y, purpose)


def _of_batch(
    model: nn.Module,
    weights: dict[str, Tensor],
    calibration: Calibration,
    inputs: Tensor,
    targets: Tensor,
    purpose: str,
) -> dict[str, Tensor]:
    assert calibration.loss is not None
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    with torch.enable_grad(), torch.random.fork_rng(devices):
        with calibration.precision():
            outputs = model(inputs)
        loss = calibration.loss(outputs.float(), targets)
        if not loss.requires_grad:
            raise UsageError(
                f"{purpose} needs gradients, but the model's outputs carry none; it may run "
                "under no_grad, or be quantised: choose a criterion that needs no gradients"
            )
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    result: dict[str, Tensor] = {}
    for name, gradient in zip(weights, found, strict=True):
        if gradient is None:
            raise UsageError(
                f"{purpose} needs gradients, but none reaches {name!r}: the network does not "
                "use it; leave it out with prunable(model, exclude=[...])"
            )
        if not bool(torch.isfinite(gradient).all()):
            raise ScoreError(
                f"{purpose} found a gradient of {name!r} that is not finite (NaN or infinite); "
                "look for invalid values in weights and data"
            )
        result[name] = gradient.float()
    return result


def _parts(values: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(values, size))
