"""Gradients of a calibration set's loss, with nothing left behind in the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from secateur.errors import ScoreError, UsageError
from secateur.modes import evaluating
from secateur.pruning.calibration import Calibration
from secateur.pruning.parameters import parameters, unwrapped


def gradients(
    model: nn.Module, names: Sequence[str], calibration: Calibration, *, batch: int, purpose: str
) -> Iterator[dict[str, Tensor]]:
    """Yield name → ∂L/∂w, float32, of one small batch after the other, in evaluation mode.

    `parameter.grad`, running statistics and training modes stay as they were.

    Args:
        model: as trained.
        names: parameters of the model.
        calibration: with targets and a loss.
        batch: samples of a batch, at most.
        purpose: who asks, for error messages: "criterion 'taylor'".

    Raises:
        UsageError: a parameter takes no gradient, or none reaches it; names the first. Or the
            loss cannot be taken of the model's outputs, or is no scalar.
        ScoreError: a gradient is not finite; names the parameter.
    """
    model = unwrapped(model)
    weights = parameters(model, names)
    if not weights:
        return
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
    # also where the caller is in inference mode, or the data came out of it
    with torch.inference_mode(False), torch.enable_grad():
        inputs, targets = (x.clone() if x.is_inference() else x for x in (inputs, targets))
        with calibration.precision():
            outputs = model(inputs)
        loss = _loss(calibration, outputs, targets, purpose)
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


def _loss(calibration: Calibration, outputs: object, targets: Tensor, purpose: str) -> Tensor:
    assert calibration.loss is not None
    if not isinstance(outputs, Tensor):
        raise UsageError(
            f"{purpose} needs outputs that are one tensor, but the model gives a "
            f"{type(outputs).__name__}; wrap it in a module that returns what the loss takes"
        )
    try:
        loss = calibration.loss(outputs.float(), targets)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"{purpose} needs a loss, but the calibration set's does not take outputs "
            f"{list(outputs.shape)} and targets {targets.dtype} {list(targets.shape)}: {error}"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(
            f"{purpose} needs a loss that is a scalar tensor, but the calibration set's gives "
            f"{what}; let it return the mean over the batch"
        )
    return loss


def _parts(values: Tensor, size: int) -> list[Tensor]:
    return list(torch.split(values, size))
