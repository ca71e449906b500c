"""A small set of training inputs that criteria and recovery look at.

What a network does on real data tells more of a weight than its size does. The set is small
enough to be kept in memory, and lies on the network's device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from secateur.errors import UsageError
from secateur.modes import evaluating

LEAST = 32
"""Fewer samples than these say nothing of a layer's inputs."""

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Batches of inputs; for criteria that take gradients also their targets and a loss.

    Raises:
        UsageError: there are fewer than LEAST samples, inputs are not finite, batches differ in
            shape, dtype or device, or targets do not fit the inputs; says which batch.
    """

    inputs: tuple[Tensor, ...]
    """Batches, each [N, ...] as the model takes them, augmented as in training."""
    targets: tuple[Tensor, ...] = ()
    """For each batch of inputs its targets, [N, ...]; none where no gradients are taken."""
    loss: Loss | None = None
    """(outputs as float32, targets) → scalar, the mean over a batch."""
    autocast: bool = False
    """Run the model in bf16, as it was trained."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("the calibration set is empty; give it batches of training inputs")
        first = self.inputs[0]
        for number, batch in enumerate(self.inputs):
            where = f"batch {number} of the calibration set"
            if not isinstance(batch, Tensor) or batch.dim() < 1:
                raise UsageError(f"{where} is no tensor [N, ...] of inputs")
            if batch.shape[1:] != first.shape[1:] or batch.dtype != first.dtype:
                raise UsageError(
                    f"{where} is {batch.dtype} {list(batch.shape)}, but the first is "
                    f"{first.dtype} {list(first.shape)}; all but the first size must agree"
                )
            if batch.device != first.device:
                raise UsageError(
                    f"{where} lies on {batch.device}, the first on {first.device}; "
                    "put all on the model's device"
                )
            if batch.is_floating_point() and not bool(torch.isfinite(batch).all()):
                raise UsageError(f"{where} holds values that are not finite (NaN or infinite)")
        if self.count < LEAST:
            raise UsageError(
                f"the calibration set has {self.count} samples, but at least {LEAST} are needed; "
                "a few hundred to a few thousand are usual"
            )
        if self.targets and [len(t) for t in self.targets] != [len(x) for x in self.inputs]:
            raise UsageError(
                f"the calibration set has {len(self.inputs)} batches of inputs and "
                f"{len(self.targets)} of targets, or batches of different sizes; "
                "give every input its target"
            )

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(len(batch) for batch in self.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.inputs[0].shape[1:])

    def first(self, count: int) -> Calibration:
        """Return the first samples, as many as there are; the batches' sizes stay."""
        inputs, targets, left = [], [], count
        for number, batch in enumerate(self.inputs):
            if left > 0:
                inputs.append(batch[:left])
                if self.targets:
                    targets.append(self.targets[number][:left])
                left -= len(batch)
        return replace(self, inputs=tuple(inputs), targets=tuple(targets))

    def check(self, model: nn.Module) -> None:
        """Try one sample on a model.

        Raises:
            UsageError: the model lies on another device, or does not take inputs of this shape.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        if self.inputs[0].device != device:
            raise UsageError(
                f"the calibration set lies on {self.inputs[0].device}, the model on {device}; "
                "put both on one device"
            )
        try:
            # not inference_mode: what a model keeps of its first pass could never be trained with
            with evaluating(model), torch.no_grad(), self.precision():
                model(self.inputs[0][:1])
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise UsageError(
                f"the model does not take the calibration set's inputs, {self.inputs[0].dtype} "
                f"[N, {', '.join(map(str, self.shape))}]: {error}"
            ) from error

    def precision(self) -> torch.autocast:
        """Return the context to run the model in."""
        device = self.inputs[0].device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.autocast)
