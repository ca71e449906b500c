"""Batch-norm recalibration: running statistics as the pruned network sees its inputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from secateur.arguments import BOOL, TENSORS, Wanted, a, checked
from secateur.errors import UsageError
from secateur.inputs import Inputs, first, run
from secateur.modes import evaluating


@checked(
    model=a(nn.Module, "a torch module"),
    inputs=Wanted(
        lambda v: isinstance(v, Iterable) and not isinstance(v, (str, bytes)) and TENSORS.fine(v),
        f"batches of inputs, {TENSORS.what}",
    ),
    autocast=BOOL,
)
def recalibrate(model: nn.Module, inputs: Iterable[Inputs], *, autocast: bool = False) -> int:
    """Reset every batch norm's running statistics and average them over the inputs, in place.

    The average is cumulative (each batch weighs the same), momentum and mode are put back
    afterwards, and nothing else in the model changes. The inputs must be augmented exactly as in
    training: statistics of plain images cost a trained network points of accuracy.

    Args:
        model: any model; one without batch norm (or without running statistics) is left alone.
        inputs: batches as the model takes them, on its device; no labels.
        autocast: run in bf16, as the model was trained.

    Returns:
        How many batch-norm layers were recalibrated.

    Raises:
        UsageError: there are layers to recalibrate and no inputs to do it with.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    seen = 0
    try:
        with evaluating(model), torch.inference_mode():  # dropout stays off
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch's spelling of a cumulative average
                layer.train()
            for batch in inputs:
                with torch.autocast(first(batch).device.type, torch.bfloat16, enabled=autocast):
                    run(model, batch)
                seen += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if not seen:
        raise UsageError(
            "batch-norm recalibration got no inputs; give it some batches of training inputs, "
            "for example data.calibration(4096, ...)"
        )
    return len(layers)
