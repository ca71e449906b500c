"""The only place where a figure is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from secateur.errors import UsageError


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    metric: Callable[[Tensor, Tensor], Tensor],
    *,
    autocast: bool = False,
) -> float:
    """Return the mean of a metric over a data set, with the model in evaluation mode.

    Args:
        model: on the batches' device; its training modes are put back afterwards.
        batches: inputs and targets.
        metric: (outputs float32 [N, ...], targets) → one value per example, [N].
        autocast: run in bf16.

    Raises:
        UsageError: there are no batches.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for inputs, targets in batches:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast):
            outputs = model(inputs)
        values = metric(outputs.float(), targets)
        total = total.to(values.device) + values.sum(dtype=torch.float64)
        count += len(values)
    for module, mode in modes.items():
        module.training = mode
    if not count:
        raise UsageError("cannot evaluate a model on no data; the split given is empty")
    return total.item() / count
