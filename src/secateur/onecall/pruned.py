"""A model after the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.model.parameters import parameters
from secateur.pruning.calibration import Calibration
from secateur.pruning.files.model_file import packed_bytes
from secateur.pruning.recovery.batchnorm import recalibrate
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.masks import Masks


@dataclass(frozen=True)
class Pruned:
    """A pruned model, and what is left of it."""

    model: nn.Module
    budget: Budget
    masks: Masks
    """Of the pruned model: to hold, and to save with it. All True where it has become smaller."""
    cut: Masks
    """What was cut, by the names and shapes before."""
    parameters: int
    """How many are not cut."""
    macs: int | None
    """Multiply-adds of one pass over the example, zeros skipped; None without an example."""
    recovery: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of its file."""
        return file_bytes(self.model, self.masks, self.budget)


def recalibrated(model: nn.Module, recover: str, data: Calibration | None) -> tuple[str, ...]:
    """Recalibrate batch norms, if that is wanted and there are data; return what was done."""
    if recover == "none" or data is None:
        return ()
    layers = recalibrate(model, data.inputs, autocast=data.autocast)
    return ("batchnorm",) if layers else ()


def file_bytes(model: nn.Module, masks: Masks | None = None, budget: Budget | None = None) -> int:
    """Return the size of the file that `save` writes, without what is no tensor (extra state)."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return packed_bytes(state, masks=masks, budget=budget)


def nonzero(model: nn.Module, names: Sequence[str]) -> int:
    """Return how many weights of some parameters are not zero."""
    return sum(int(torch.count_nonzero(w)) for w in parameters(model, names).values())
