"""Loaders of batches, such as torch's DataLoader, as the data that training asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch

from secateur.arguments import Wanted, checked
from secateur.errors import UsageError
from secateur.model.inputs import Inputs, each, head, named, size


def _device(given: Any) -> torch.device:
    try:
        return torch.device(given)
    except RuntimeError as error:
        raise ValueError from error


class LoaderData:
    """Batches of (inputs, targets) that others make: what `train`, `finetune` and `descend` take.

    The loader decides about batch size, shuffling and augmentation; a recipe's batch size is not
    looked at. A loader that shuffles with torch's global generator is reproducible, since
    training seeds that.
    """

    @checked(device=Wanted(lambda v: bool(_device(v)), "a torch device, such as cpu or cuda:0"))
    def __init__(
        self,
        training: Iterable[Any],
        *,
        validation: Iterable[Any] | None = None,
        test: Iterable[Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Take loaders; each is iterated anew for every pass.

        Args:
            training: has a length; yields pairs of inputs [N, ...] and targets, where inputs may
                also be a tuple of arguments, or a dict of them by the names of forward's, which
                may be nested; or such dicts alone, with None for targets, for a loss that the
                model gives with its outputs.
            validation, test: as training, for `evaluation`.
            device: where the model lies; batches are moved there.

        Raises:
            UsageError: the training loader has no length, or is empty, or can be read only once.
        """
        length = getattr(training, "__len__", None)
        if length is None or isinstance(training, Iterator):
            raise UsageError(
                f"the training data are a {type(training).__name__}, which has no length or can "
                "be read only once; give a DataLoader, or a list of batches"
            )
        if not length():
            raise UsageError("the training data hold no batch")
        self._training, self._length = training, int(length())
        self._held_out = {"validation": validation, "test": test}
        self._device = torch.device(device)

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return the loader's length, whatever the batch size."""
        return self._length

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Inputs, Any]]:
        """Yield one pass of the training loader, on the device."""
        return self._pairs(self._training)

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Inputs]:
        """Yield training inputs until there are `count`; the loader's batches, the last one cut."""
        for inputs, _ in self._pairs(self._training):
            yield head(inputs, count)
            count -= size(inputs)
            if count <= 0:
                return

    def evaluation(
        self, split: Literal["validation", "test"], batch_size: int = 250
    ) -> Iterator[tuple[Inputs, Any]]:
        """Yield one pass of a held-out loader.

        Raises:
            UsageError: it was not given.
        """
        loader = self._held_out[split]
        if loader is None:
            raise UsageError(f"there are no {split} data; give LoaderData({split}=...) a loader")
        return self._pairs(loader)

    def _pairs(self, loader: Iterable[Any]) -> Iterator[tuple[Inputs, Any]]:
        for number, batch in enumerate(loader):
            pair = (batch, None) if isinstance(batch, Mapping) else batch
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise UsageError(
                    f"batch {number} is of type {type(batch).__name__}; give pairs of inputs and "
                    "targets, or dicts of tensors by the names of forward's arguments"
                )
            yield self._there(pair[0]), self._there(pair[1])

    def _there(self, value: Any) -> Any:
        if named(value) is None:  # of a kind of its own: it lies where its loader put it
            return value
        return each(value, lambda tensor: tensor.to(self._device))
