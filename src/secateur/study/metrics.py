"""How well a network does: a metric, and the usual ones ready made.

There is no perplexity. It is the exponential of a mean over tokens, so it is not itself a mean
over examples, and the mean over seeds of such exponentials is not the exponential of their mean.
Measure the loss: exp is increasing, so the verdict on the loss is the verdict on perplexity. A
margin of m nats says that perplexity is at most exp(m) times the reference's, 2 % more for 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from secateur.arguments import BOOL, FUNCTION, TEXT, checked
from secateur.errors import UsageError, refuse_wrong

POINTS = 0.5
"""The margin of a metric in per cent that declares none, in percentage points."""
IGNORED = -100
"""A target that counts for nothing, as in `torch.nn.functional.cross_entropy`."""


@checked(name=TEXT, unit=TEXT, function=FUNCTION, higher_is_better=BOOL)
@dataclass(frozen=True, slots=True)
class Metric:
    """How well a network does, measured per example.

    Raises:
        UsageError: the margin is not positive and finite.
    """

    name: str
    unit: str
    """As printed behind a number; margins are in this unit."""
    function: Callable[[Tensor, Tensor], Tensor]
    """(outputs float32 [N, ...], targets of any shape) → one value per example, [N]. The study
    takes their mean."""
    higher_is_better: bool = True
    margin: float | None = None
    """How much worse than the reference counts as no worse, in the metric's unit, for studies that
    do not say. A metric in per cent has 0.5 points where this is None; any other has none then."""

    def __post_init__(self) -> None:
        what = f"positive, or None (of metric {self.name!r})"
        refuse_wrong(self, ("margin", lambda v: v is None or 0 < v < math.inf, what))

    @property
    def declared(self) -> float | None:
        """The margin of a study that says none, in the metric's unit; None: it must say one.

        A default for every unit would be arbitrary, and one taken from the reference's figure would
        not be declared before the run, which is what the certificate's error rate rests on.
        """
        return POINTS if self.margin is None and self.unit == "%" else self.margin


def percent_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the percentage of each example's targets that have the largest output.

    Args:
        outputs: [N, ..., classes].
        targets: int64 [N, ...].

    Returns:
        float32 [N]; its mean is the accuracy in per cent.

    Raises:
        UsageError: the shapes do not match.
    """
    _classes_last(outputs, targets)
    return _each((outputs.argmax(-1) == targets).float() * 100)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each example's mean squared error.

    Args:
        outputs: [N, ...].
        targets: of the same shape; or [N] to outputs [N, 1].

    Returns:
        float32 [N].

    Raises:
        UsageError: the shapes do not match.
    """
    return _each(_difference(outputs, targets).square())


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each example's mean absolute error; shapes and errors are those of `squared_error`."""
    return _each(_difference(outputs, targets).abs())


def nats(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return each example's mean negative log-likelihood per token, in nats.

    Args:
        outputs: logits [N, ..., classes]; those of a language model are [N, T, vocabulary].
        targets: int64 [N, ...]; those that are -100 do not count.

    Returns:
        float32 [N]. Every example weighs the same, however many of its tokens count; NaN where
        none does.

    Raises:
        UsageError: the shapes do not match.
    """
    _classes_last(outputs, targets)
    flat = F.cross_entropy(
        outputs.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=IGNORED
    )
    counted = (targets != IGNORED).reshape(len(targets), -1)
    return flat.reshape(counted.shape).sum(1) / counted.sum(1)


ACCURACY = Metric("accuracy", "%", percent_correct)
MEAN_SQUARED_ERROR = Metric("mean squared error", "", squared_error, higher_is_better=False)
"""Its unit and margin are those of your targets: `replace(MEAN_SQUARED_ERROR, unit="K²",
margin=0.05)`, with `dataclasses.replace`."""
MEAN_ABSOLUTE_ERROR = Metric("mean absolute error", "", absolute_error, higher_is_better=False)
CROSS_ENTROPY = Metric("cross-entropy loss", "nats per token", nats, higher_is_better=False)


def _each(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1) if values.dim() > 1 else values


def _difference(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        raise UsageError(
            f"outputs {list(outputs.shape)} and targets {list(targets.shape)} differ in shape, "
            "and an error is taken between equal ones; reshape the targets in your data, or the "
            "outputs in your model"
        )
    return outputs - targets


def _classes_last(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() < 2 or outputs.shape[:-1] != targets.shape:
        raise UsageError(
            f"outputs {list(outputs.shape)} do not go with targets {list(targets.shape)}: they "
            "must be [N, ..., classes] and [N, ...]; outputs with the classes second, "
            "[N, classes, ...], become so by outputs.movedim(1, -1) in a function of your own"
        )
