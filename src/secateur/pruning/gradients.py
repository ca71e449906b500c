"""Gradients of a calibration set's loss, which leave the model as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from secateur.errors import ScoreError, UsageError
from secateur.model.inputs import Inputs, each, parts, run
from secateur.model.modes import evaluating
from secateur.model.parameters import parameters, unwrapped
from secateur.model.passes import refusing
from secateur.pruning.calibration import Calibration
from secateur.training import in_float32


def gradients(
    model: nn.Module, names: Sequence[str], calibration: Calibration, *, batch: int, purpose: str
) -> Iterator[dict[str, Tensor]]:
    """Yield name → ∂L/∂w, float32, for one small batch after the other, in evaluation mode.

    `parameter.grad`, running statistics and training modes stay as they were.

    Args:
        model: as trained.
        names: parameters of the model.
        calibration: with targets and a loss.
        batch: how many samples a batch has at most.
        purpose: who needs them, for error messages, such as "criterion 'taylor'".

    Raises:
        UsageError: a parameter takes no gradient, or none ever reaches it; names the first. Or the
            loss does not take the model's outputs, or is not a scalar.
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
    reached: set[str] = set()
    with evaluating(model):
        for number, inputs in enumerate(calibration.inputs):
            pieces = parts(inputs, batch)
            wanted: list[Tensor | None] = [None] * len(pieces)
            if calibration.targets:
                wanted = [*torch.split(calibration.targets[number], batch)]
            for x, y in zip(pieces, wanted, strict=True):
                found = _of_batch(model, weights, calibration, x, y, purpose)
                reached |= found.keys()
                # an expert that no sample of this batch was sent to has no part in its loss
                yield {
                    name: found[name] if name in found else torch.zeros_like(w, dtype=torch.float32)
                    for name, w in weights.items()
                }
    for name in weights:
        if name not in reached:
            raise UsageError(
                f"{purpose} needs gradients, but none reaches {name!r}: the network does not "
                f"use it; leave it out with exclude=[{name!r}] of prunable"
            )


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
        loss = _loss(calibration, outputs, targets, purpose)
        if not loss.requires_grad:
            raise UsageError(
                f"{purpose} needs gradients, but the model's outputs carry none; it may run "
                "under no_grad, or be quantised: choose a criterion that needs no gradients"
            )
        found: Sequence[Tensor | None] = torch.autograd.grad(
            loss, list(weights.values()), allow_unused=True
        )
    result: dict[str, Tensor] = {}
    for name, gradient in zip(weights, found, strict=True):
        if gradient is None:
            continue
        if not bool(torch.isfinite(gradient).all()):
            raise ScoreError(
                f"{purpose} found a gradient of {name!r} that is not finite (NaN or infinite); "
                "look for invalid values in weights and data"
            )
        result[name] = gradient.float()
    return result


def _loss(
    calibration: Calibration, outputs: object, targets: Tensor | None, purpose: str
) -> Tensor:
    """Return the calibration's loss; without targets, the model's own of its labels."""
    if calibration.loss is None or targets is None:
        loss = getattr(outputs, "loss", None)
        if loss is None and isinstance(outputs, Mapping):
            loss = outputs.get("loss")
        loss = in_float32(loss)
        wrong = (
            f", but the model gives none with its outputs, a {type(outputs).__name__}; put its "
            "labels into the batches, or give targets and loss="
        )
    else:
        what, hint = (
            type(outputs).__name__,
            "; take the tensor out of the model's outputs in the loss",
        )
        if isinstance(outputs, Tensor):
            what, hint = str(list(outputs.shape)), ""
        given = f"outputs {what} and targets {targets.dtype} {list(targets.shape)}"
        with refusing(f"{purpose} needs a loss, but the one given does not take {given}", hint):
            loss = calibration.loss(in_float32(outputs), _normal(targets))
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        wrong = (
            f" that is a scalar tensor, but the one given gives {got}; let it return the mean "
            "over the batch"
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise UsageError(f"{purpose} needs a loss{wrong}")
    return loss


def _normal(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
