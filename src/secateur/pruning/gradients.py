"""Gradients of a calibration set's loss, with nothing left behind in the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.errors import ScoreError, UsageError
from secateur.model.inputs import Inputs, each, parts, run
from secateur.model.modes import evaluating
from secateur.model.parameters import parameters, unwrapped
from secateur.pruning.calibration import Calibration
from secateur.training import in_float32


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
    if not calibration.labelled:
        raise UsageError(f"{purpose} needs a loss; give targets and a loss")
    with evaluating(model):
        for number, inputs in enumerate(calibration.inputs):
            pieces = parts(inputs, batch)
            wanted: list[Tensor | None] = [None] * len(pieces)
            if calibration.targets:
                wanted = [*torch.split(calibration.targets[number], batch)]
            for x, y in zip(pieces, wanted, strict=True):
                yield _of_batch(model, weights, calibration, x, y, purpose)


def _of_batch(
    model: nn.Module,
    weights: dict[str, Tensor],
    calibration: Calibration,
    inputs: Inputs,
    targets: Tensor | None,
    purpose: str,
) -> dict[str, Tensor]:
    # also where the caller is in inference mode, or the data came out of it
    with torch.inference_mode(False), torch.enable_grad():
        inputs = each(inputs, _normal)
        with calibration.precision():
            outputs = run(model, inputs)
        if targets is None:
            loss = _own_loss(outputs, purpose)
        else:
            loss = _loss(calibration, outputs, _normal(targets), purpose)
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
                f"use it; leave it out with exclude=[{name!r}] of prunable"
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
    one = isinstance(outputs, Tensor)
    try:
        loss = calibration.loss(in_float32(outputs), targets)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        what = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        hint = "" if one else "; take the tensor out of the model's outputs in the loss"
        raise UsageError(
            f"{purpose} needs a loss, but the one that was given does not take outputs "
            f"{what} and targets {targets.dtype} {list(targets.shape)}: {error}{hint}"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(
            f"{purpose} needs a loss that is a scalar tensor, but the one that was given gives "
            f"{what}; let it return the mean over the batch"
        )
    return loss


def _own_loss(outputs: object, purpose: str) -> Tensor:
    """Return the loss that a model gives of labels among its arguments."""
    loss = getattr(outputs, "loss", None)
    if loss is None and isinstance(outputs, Mapping):
        loss = outputs.get("loss")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UsageError(
            f"{purpose} needs a loss, but the model gives none with its outputs, "
            f"a {type(outputs).__name__}; put its labels into the batches, or give targets and "
            "loss="
        )
    return loss.float()


def _normal(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
