"""A small set of training inputs that criteria and recovery look at.

What a network does on real data tells more of a weight than its size does. The set is small
enough to be kept in memory, and lies on the network's device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import BOOL, FUNCTION, Wanted, checked, shown
from secateur.errors import UsageError
from secateur.model.inputs import Inputs, by_name, described, finite, first, head, named, run, size
from secateur.model.modes import evaluating

LEAST = 32
"""Fewer samples than these say nothing of a layer's inputs."""

Loss = Callable[[Any, Tensor], Tensor]

SEVERAL = Wanted(
    lambda v: isinstance(v, (tuple, list)) and not any(type(t).__module__ == "numpy" for t in v),
    "a tuple of batches, each made of torch tensors",
)


@checked(
    inputs=SEVERAL,
    targets=SEVERAL,
    loss=FUNCTION,
    autocast=BOOL,
)
@dataclass(frozen=True, eq=False)
class Calibration:
    """Batches of inputs; for criteria that take gradients also their targets and a loss.

    Raises:
        UsageError: there are fewer than LEAST samples, inputs are not finite, batches differ in
            arguments, shape, dtype or device, or targets do not fit the inputs; says which batch.
    """

    inputs: tuple[Inputs, ...]
    """Batches as the model takes them, augmented as in training: each a tensor [N, ...], a tuple
    of positional arguments, or a mapping of arguments by name. Arguments may be nested tuples,
    lists, mappings and dataclasses of tensors, with None, numbers and texts beside them; tensors
    without dimensions are no samples. Only in mappings may sizes other than N differ from batch
    to batch, as padded texts do."""
    targets: tuple[Tensor, ...] = ()
    """For each batch of inputs its targets, [N, ...]; none where no gradients are taken, or where
    the model takes its labels among its named arguments."""
    loss: Loss | None = None
    """(outputs as float32, targets) → scalar, the mean over a batch; outputs that are no tensor
    come as they are. Without one, the `loss` that
    the model gives with its outputs."""
    autocast: bool = False
    """Run the model in bf16, as it was trained."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("the calibration set is empty; give it batches of training inputs")
        for number, batch in enumerate(self.inputs):
            self._check_batch(f"batch {number} of the calibration set", batch)
        if self.count < LEAST:
            raise UsageError(
                f"the calibration set has {self.count} samples, but at least {LEAST} are needed; "
                "a few hundred to a few thousand are usual"
            )
        for number, given in enumerate(self.targets):
            if not isinstance(given, Tensor) or not given.dim():
                raise UsageError(
                    f"batch {number} of targets is {shown(given)}, but must be a tensor [N, ...]"
                )
        if self.targets and [len(t) for t in self.targets] != [size(x) for x in self.inputs]:
            raise UsageError(
                f"the calibration set has {len(self.inputs)} batches of inputs and "
                f"{len(self.targets)} of targets, or batches of different sizes; "
                "give every input its target"
            )

    def _check_batch(self, where: str, batch: Inputs) -> None:
        tensors, like = named(batch), named(self.inputs[0])
        if tensors is None or like is None or not any(t.dim() for t in tensors.values()):
            raise UsageError(
                f"{where} is no tensor [N, ...] of inputs, and no tuple or mapping of such tensors"
            )
        lengths = {name: len(tensor) for name, tensor in tensors.items() if tensor.dim()}
        if len(set(lengths.values())) > 1:
            raise UsageError(f"{where} has arguments of different numbers of samples: {lengths}")
        padded = by_name(batch)  # to a length of its own, as texts are
        kinds, alike = (
            {n: (t.dtype, t.dim() if padded else t.shape[1:]) for n, t in of.items()}
            for of in (tensors, like)
        )
        if kinds != alike:
            raise UsageError(
                f"{where} is {described(batch)}, but the first is {described(self.inputs[0])}; "
                "all but the first size must agree"
            )
        for name, tensor in tensors.items():
            if tensor.device != like[name].device:
                raise UsageError(
                    f"{where} lies on {tensor.device}, the first on {like[name].device}; "
                    "put all on the model's device"
                )
        if not finite(batch):
            raise UsageError(f"{where} holds values that are not finite (NaN or infinite)")

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(size(batch) for batch in self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the inputs lie."""
        return first(self.inputs[0]).device

    @property
    def labelled(self) -> bool:
        """Whether a loss can be taken: of targets, or by the model of named arguments."""
        if self.loss is None:
            return not self.targets and by_name(self.inputs[0])
        return bool(self.targets)

    @property
    def example(self) -> Inputs:
        """One sample, as a batch."""
        return head(self.inputs[0], 1)

    def first(self, count: int) -> Calibration:
        """Return the first samples, as many as there are; the batches' sizes stay."""
        inputs, targets, left = [], [], count
        for number, batch in enumerate(self.inputs):
            if left > 0:
                inputs.append(head(batch, left))
                if self.targets:
                    targets.append(self.targets[number][:left])
                left -= size(batch)
        return replace(self, inputs=tuple(inputs), targets=tuple(targets))

    def check(self, model: nn.Module) -> None:
        """Try one sample on a model.

        Raises:
            UsageError: the model lies on another device, or does not take such inputs.
        """
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        if self.device != device:
            raise UsageError(
                f"the calibration set lies on {self.device}, the model on {device}; "
                "put both on one device"
            )
        try:
            # not inference_mode: what a model keeps of its first pass could never be trained with
            with evaluating(model), torch.no_grad(), self.precision():
                run(model, self.example)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise UsageError(
                "the model does not take the calibration set's inputs, "
                f"{described(self.inputs[0], samples=False)}: {error}"
            ) from error

    def precision(self) -> torch.autocast:
        """Return the context to run the model in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)
