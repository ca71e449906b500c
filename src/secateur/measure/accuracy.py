"""A metric of a model over a data set: its mean, each example's score, and what classes say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.model.inputs import Inputs, first, run, size
from secateur.model.modes import evaluating

CALIBRATION_BINS = 15
"""Of equal width, as Guo et al. (2017) have them."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one pass over a data set says."""

    mean: float
    """Of all scores, in the metric's unit."""
    scores: NDArray[np.float32]
    """float32 [N]: the score of each example, in the order of the data."""
    by_class: tuple[float | None, ...] | None = None
    """The mean score of the examples of each class; None for a class without any. None as a whole
    where the model does not classify: its outputs are not float [N, classes], or the targets are
    not int64 [N] from 0 to classes - 1."""
    calibration_error: float | None = None
    """Expected calibration error of the softmax of the outputs, in per cent; None as `by_class`,
    and where outputs are not finite."""


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Any]],
    metric: Callable[[Tensor, Tensor], Tensor],
    *,
    autocast: bool = False,
) -> float:
    """Return the mean of a metric over a data set: that of `evaluate_examples`, which see."""
    return evaluate_examples(model, batches, metric, autocast=autocast).mean


@torch.inference_mode()
def evaluate_examples(
    model: nn.Module,
    batches: Iterable[tuple[Inputs, Any]],
    metric: Callable[[Tensor, Tensor], Tensor],
    *,
    autocast: bool = False,
) -> Evaluation:
    """Return the mean of a metric over a data set and what is behind it, in one pass.

    The model runs in evaluation mode. Memory grows by four bytes an example.

    The expected calibration error sorts the examples by the probability p of the class that is
    predicted into 15 bins ((b - 1)/15, b/15], and is

        100 sum_b |sum of p in b - number of correct predictions in b| / N.

    Source: Guo, Pleiss, Sun & Weinberger (2017), On calibration of modern neural networks,
    arXiv:1706.04599, section 2.

    Args:
        model: on the batches' device; its training modes are put back afterwards.
        batches: inputs, each a tensor [N, ...] or several by position or name, and targets.
        metric: (outputs float32 [N, ...], targets) → one value per example, [N].
        autocast: run in bf16.

    Raises:
        UsageError: there are no batches; the model does not give a tensor, or the metric not one
            value per example.
    """
    total, scores = torch.zeros((), dtype=torch.float64), []
    classes: _Classes | None = _Classes()
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
            scores.append(values.to("cpu", torch.float32).numpy())
            if classes and not classes.add(outputs, targets, values):
                classes = None
    count = sum(map(len, scores))
    if not count:
        raise UsageError("cannot evaluate a model on no data; the split given is empty")
    mean, each = total.item() / count, np.concatenate(scores)
    if classes is None:
        return Evaluation(mean, each)
    return Evaluation(mean, each, classes.means(), classes.calibration_error(count))


@dataclass(slots=True)
class _Classes:
    """Sums by class and by bin of confidence, in float64 on the CPU."""

    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    sums: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    gaps: Tensor = field(default_factory=lambda: torch.zeros(CALIBRATION_BINS, dtype=torch.float64))
    """Of each bin, the confidence less the number of correct predictions."""

    def add(self, outputs: Tensor, targets: object, values: Tensor) -> bool:
        """Add a batch, and return whether it is one of classification."""
        shape = outputs.shape
        if not (
            isinstance(targets, Tensor)
            and targets.dtype == torch.int64
            and outputs.is_floating_point()
            and outputs.dim() == 2
            and targets.shape == shape[:1]
            and len(self.counts) in (0, shape[1])
        ):
            return False
        if not len(targets):
            return True
        if not 0 <= int(targets.min()) <= int(targets.max()) < shape[1]:
            return False  # such as -100, a target that counts for nothing
        if not len(self.counts):
            self.counts = torch.zeros(shape[1], dtype=torch.float64)
            self.sums = torch.zeros(shape[1], dtype=torch.float64)
        targets, scores = targets.cpu(), values.to("cpu", torch.float64)
        self.counts += torch.bincount(targets, minlength=shape[1])
        self.sums += torch.zeros_like(self.sums).index_add_(0, targets, scores)
        confidence, predicted = outputs.to("cpu", torch.float64).softmax(1).max(1)
        bins = (confidence * CALIBRATION_BINS).ceil().nan_to_num(1).long() - 1
        gap = confidence - (predicted == targets).double()
        self.gaps.index_add_(0, bins.clamp(0, CALIBRATION_BINS - 1), gap)
        return True

    def means(self) -> tuple[float | None, ...]:
        pairs = zip(self.sums.tolist(), self.counts.tolist(), strict=True)
        return tuple(total / count if count else None for total, count in pairs)

    def calibration_error(self, count: int) -> float | None:
        error = 100.0 * self.gaps.abs().sum().item() / count
        return error if math.isfinite(error) else None


def _per_example(values: object, count: int) -> Tensor:
    if isinstance(values, Tensor) and values.shape == (count,):
        return values
    got = list(values.shape) if isinstance(values, Tensor) else f"a {type(values).__name__}"
    raise UsageError(
        f"a metric gives one value per example, here a tensor [{count}], but this one gives {got}; "
        "average over all but the first dimension, and not over the examples"
    )
