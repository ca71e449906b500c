"""A metric of a model, over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.inputs import Inputs, first, run, size
from secateur.model.modes import evaluating


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Any]],
    metric: Callable[[Tensor, Tensor], Tensor],
    *,
    autocast: bool = False,
) -> float:
    """Return the mean of a metric over a data set, with the model in evaluation mode.

    Args:
        model: on the batches' device; its training modes are put back afterwards.
        batches: inputs, each a tensor [N, ...] or several by position or name, and targets.
        metric: (outputs float32 [N, ...], targets) → one value per example, [N].
        autocast: run in bf16.

    Raises:
        UsageError: there are no batches; the model does not give a tensor, or the metric not one
            value per example.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    with evaluating(model):
        for inputs, targets in batches:
            with torch.autocast(first(inputs).device.type, torch.bfloat16, enabled=autocast):
                outputs = run(model, inputs)
            if not isinstance(outputs, Tensor):
                raise UsageError(
                    f"a metric is taken of one tensor, but the model gives a "
                    f"{type(outputs).__name__}; wrap it in a module that returns the tensor"
                )
            values = _per_example(metric(outputs.float(), targets), size(inputs))
            total = total.to(values.device) + values.sum(dtype=torch.float64)
            count += len(values)
    if not count:
        raise UsageError("cannot evaluate a model on no data; the split given is empty")
    return total.item() / count


def _per_example(values: object, count: int) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (count,):
        return values
    got = list(values.shape) if isinstance(values, Tensor) else f"a {type(values).__name__}"
    raise UsageError(
        f"a metric gives one value per example, here a tensor [{count}], but this one gives {got}; "
        "average over all but the first dimension, and not over the examples"
    )
