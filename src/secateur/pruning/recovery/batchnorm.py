"""Batch-norm recalibration: running statistics as the pruned network sees its inputs."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from secateur.arguments import BOOL, TENSORS, Wanted, a, checked
from secateur.errors import UsageError
from secateur.model.inputs import Inputs, described, first, named, run, tensors_in
from secateur.model.modes import evaluating
from secateur.model.passes import refusing

_FORM = "batches as the model takes them, on its device"


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
        UsageError: there are layers to recalibrate and no inputs to do it with, or the model does
            not take them. The statistics are then as they were.
    """
    layers = with_statistics(model)
    if not layers:
        return 0
    before = [{name: b.clone() for name, b in layer.named_buffers()} for layer in layers]
    momenta = [layer.momentum for layer in layers]
    seen = 0
    try:
        with evaluating(model), torch.inference_mode():  # dropout stays off
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch's spelling of a cumulative average
                layer.train()
            for batch in inputs:
                _run(model, batch, f"batch {seen} of inputs", autocast)
                seen += 1
        if not seen:
            raise UsageError(
                "batch-norm recalibration got no inputs; give it some batches of training inputs, "
                "for example data.calibration(4096, ...)"
            )
    except BaseException:
        with torch.no_grad():
            for layer, buffers in zip(layers, before, strict=True):
                for name, buffer in buffers.items():
                    layer.get_buffer(name).copy_(buffer)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    return len(layers)


def with_statistics(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the batch norms of a model whose running statistics can be taken again."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.track_running_stats]


def _run(model: nn.Module, batch: Inputs, where: str, autocast: bool) -> None:
    if next(tensors_in(batch), None) is None:
        raise UsageError(f"{where} is of type {type(batch).__name__} without tensors; give {_FORM}")
    pair = isinstance(batch, (tuple, list)) and len(batch) == 2
    hint = "; of pairs with targets give the inputs, (x for x, _ in pairs)" if pair else ""
    what = described(batch) if named(batch) else f"a {type(batch).__name__}"
    with (
        refusing(f"the model does not take {where}, {what}", f"; give {_FORM}{hint}"),
        torch.autocast(first(batch).device.type, torch.bfloat16, enabled=autocast),
    ):
        run(model, batch)
