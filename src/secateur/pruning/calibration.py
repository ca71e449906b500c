"""A small set of training inputs that criteria and recovery look at.

What a network does on real data tells more of a weight than its size does. The set is small
enough to be kept in memory, and lies on the network's device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from secateur.arguments import BOOL, FUNCTION, TENSORS, Wanted, checked, shown, whole
from secateur.errors import UsageError
from secateur.model.inputs import (
    Inputs,
    by_name,
    described,
    each,
    finite,
    first,
    head,
    leaves,
    named,
    only_texts,
    parts,
    run,
    size,
)
from secateur.model.modes import evaluating
from secateur.model.parameters import device_of
from secateur.model.passes import refusing

LEAST = 32
"""Fewer samples than these say little of a layer's inputs."""

Loss = Callable[[Any, Tensor], Tensor]

SEVERAL = Wanted(
    lambda v: isinstance(v, (tuple, list)) and not any(type(t).__module__ == "numpy" for t in v),
    "a tuple of batches, each made of torch tensors",
)


def _usual(data: object) -> bool:
    """Return whether data have a usual form; a pair of tensors has none: it may be one batch."""
    if isinstance(data, (Tensor, Mapping)):
        return named(data) is not None
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(d, Tensor) for d in data)
    batches = isinstance(data, Iterable) and not isinstance(data, (str, bytes)) and not pair
    return batches or isinstance(data, Calibration)


FORMS = Wanted(
    lambda v: TENSORS.fine(v) and _usual(v),
    "torch tensors: inputs [N, ...], a dict of them by name, or batches of inputs or of (inputs, "
    "targets), such as a DataLoader or [(inputs, targets)]",
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
        UsageError: inputs are not finite, batches differ in shape, dtype or device, or targets do
            not fit the inputs; says which batch.

    Warns:
        UserWarning: there are fewer than LEAST samples.
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

    @classmethod
    @checked(
        data=FORMS,
        loss=FUNCTION,
        samples=whole(1, "a whole number, at least 1"),
        autocast=BOOL,
    )
    def of(
        cls,
        data: Data,
        loss: Loss | None = None,
        *,
        samples: int = 4096,
        autocast: bool = False,
        device: torch.device | str | None = None,
    ) -> Calibration:
        """Take the first samples of data in any of the usual forms.

        Args:
            data: inputs [N, ...], a dict of them by the names of forward's arguments, or batches
                of inputs or of (inputs, targets), such as a DataLoader; augmented as in training.
                No more batches are read than are taken. A `Calibration` is returned as it is.
            loss: as in `Calibration`.
            samples: how many are taken at most.
            autocast: as in `Calibration`.
            device: where the model lies; by default the data stay where they are.

        Raises:
            UsageError: a batch is neither inputs nor a pair of inputs and targets; or as
                `Calibration`.
        """
        if isinstance(data, Calibration):
            return data
        inputs: list[Inputs] = []
        targets: list[Tensor] = []
        left = samples
        moved = partial(Tensor.to, device=device)
        for own, others in _batches(data):
            inputs.append(each(head(own, left), moved))
            targets += [moved(head(other, left)) for other in others]
            left -= size(inputs[-1])
            if left <= 0:
                break
        return cls(tuple(inputs), tuple(targets), loss, autocast)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("the calibration set is empty; give it batches of training inputs")
        for number, batch in enumerate(self.inputs):
            self._check_batch(f"batch {number} of the calibration set", batch)
        if self.count < LEAST:
            some = "sample, and fewer" if self.count == 1 else "samples, and fewer"
            warnings.warn(
                f"the calibration set has {self.count} {some} than {LEAST} say little of what a "
                "layer reads; give it a few hundred to a few thousand",
                stacklevel=3,
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
        # an argument that is None in one batch may be a tensor in another
        nothing = {n for of in (batch, self.inputs[0]) for n, leaf in leaves(of) if leaf is None}
        kinds, alike = (
            {
                n: (t.dtype, t.dim() if padded else t.shape[1:])
                for n, t in of.items()
                if n not in nothing
            }
            for of in (tensors, like)
        )
        if kinds != alike:
            raise UsageError(
                f"{where} is {described(batch)}, but the first is {described(self.inputs[0])}; "
                "all but the first size must agree"
            )
        for name, tensor in tensors.items():
            first_device = like[name].device if name in like else self.device
            if tensor.device != first_device:
                raise UsageError(
                    f"{where} lies on {tensor.device}, the first on {first_device}; "
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
        batches = [(own, *self.targets[at : at + 1]) for at, own in enumerate(self.inputs)]
        return self.of(batches, self.loss, samples=count, autocast=self.autocast)

    def check(self, model: nn.Module) -> None:
        """Try one sample on a model.

        Raises:
            UsageError: the model lies on another device, or does not take such inputs.
        """
        device = device_of(model)
        if self.device != device:
            raise UsageError(
                f"the calibration set lies on {self.device}, the model on {device}; "
                "put both on one device"
            )
        inputs = described(self.inputs[0], samples=False)
        refusal = refusing(f"the model does not take the calibration set's inputs, {inputs}")
        # not inference_mode: what a model keeps of its first pass could never be trained with
        with refusal, evaluating(model), torch.no_grad(), self.precision():
            run(model, self.example)

    def precision(self) -> torch.autocast:
        """Return the context to run the model in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)


Data = Calibration | Tensor | Mapping[str, Any] | Iterable[Any]


def first_sample(data: Data | None, device: torch.device) -> Inputs | None:
    """Return one sample of the inputs, on a device; None where there is none to be had.

    What can be read only once (an iterator) is left alone.
    """
    if isinstance(data, Calibration):
        return data.example
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        return None
    batch = data if isinstance(data, (Tensor, Mapping)) else next(iter(data), None)
    inputs, _ = _divided(batch)
    tensors = named(inputs)
    if tensors is None or not any(tensor.dim() for tensor in tensors.values()):
        return None
    return each(head(inputs, 1), lambda tensor: tensor.to(device))


def _batches(data: Data) -> Iterator[tuple[Inputs, tuple[Tensor, ...]]]:
    """Yield the inputs of every batch, and its targets where it has them.

    Raises:
        UsageError: a batch is neither inputs nor a pair; says what it is.
    """
    single = isinstance(data, (Tensor, Mapping))  # and not batches of it
    for batch in parts(data, 256) if single else data:  # type: ignore[arg-type, union-attr]
        inputs, targets = _divided(batch)
        tensors = named(inputs) or {}
        samples = any(tensor.dim() for tensor in tensors.values())
        if not samples or len(targets) > 1 or not all(isinstance(y, Tensor) for y in targets):
            kinds = [type(part).__name__ for part in (inputs, *targets)]
            raise UsageError(
                f"a batch of the data is ({', '.join(kinds)}); give batches that are inputs, or a "
                "pair of inputs and targets, where inputs are a tensor [N, ...], a dict of "
                "arguments by the names of forward's, or in a pair a tuple of arguments, and "
                "targets a tensor"
            )
        yield inputs, targets


def _divided(batch: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the inputs of a batch, which is them or begins with them, and what follows.

    Texts and None that follow, such as the names of the samples' files, are left out.
    """
    if isinstance(batch, (tuple, list)) and batch:
        return batch[0], tuple(part for part in batch[1:] if not only_texts(part))
    return batch, ()
