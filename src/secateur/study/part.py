"""A part of each pass over training data, for training of less than an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch

from secateur.model.inputs import Inputs
from secateur.training import Data


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Data whose passes end early; all else is as it was.

    Every pass is shuffled anew, so that over many of them all examples have their turn.
    """

    data: Data
    fraction: float
    """Of the batches of a pass, in (0, 1]; at least one batch is left."""

    def batches_per_epoch(self, batch_size: int) -> int:
        """Return how many batches `epoch` yields."""
        return max(1, round(self.fraction * self.data.batches_per_epoch(batch_size)))

    def epoch(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Inputs, Any]]:
        """Yield the first batches of one shuffled, augmented pass."""
        return islice(self.data.epoch(batch_size, generator), self.batches_per_epoch(batch_size))

    def calibration(
        self, count: int, batch_size: int, generator: torch.Generator
    ) -> Iterator[Inputs]:
        """As the data's."""
        return self.data.calibration(count, batch_size, generator)

    def evaluation(
        self, split: Literal["validation", "test"], batch_size: int = 250
    ) -> Iterator[tuple[Inputs, Any]]:
        """As the data's."""
        return self.data.evaluation(split, batch_size)
