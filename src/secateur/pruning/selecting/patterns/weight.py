"""Every weight by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pruning.selecting.patterns.pattern import Pattern
from secateur.pruning.selecting.ranking import Scores


class Weight(Pattern):
    """Every weight is kept or cut by itself."""

    __slots__ = ()
    FORM = "'weight'"
    EXAMPLES = ("weight",)

    @classmethod
    def parse(cls, text: str) -> Weight | None:
        """As `Pattern.parse`."""
        return cls(text) if text == "weight" else None

    def units(self, shape: torch.Size, axis: int) -> int:
        """As `Pattern.units`."""
        return shape.numel()

    def scores(self, scores: Scores, axis: int, chunk: int) -> Scores:
        """As `Pattern.scores`: the scores themselves."""
        return scores

    def mask(self, kept: Tensor, like: Tensor, axis: int, chunk: int) -> Tensor:
        """As `Pattern.mask`."""
        return kept
