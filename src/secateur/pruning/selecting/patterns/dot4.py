"""Four consecutive input channels at one output and one kernel position: what dot products eat."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pruning.selecting.patterns.pattern import Pattern
from secateur.pruning.selecting.ranking import Scores, tensor_of

SIZE = 4


class Dot4(Pattern):
    """Blocks of four consecutive input channels at one output and one kernel position.

    A 32-bit operand of `vpdpbusd`, `sdot` and their kin is such a block. Blocks lie side by side
    from the first input channel; the last one is smaller where four does not divide the inputs.
    """

    __slots__ = ()
    FORM = "'dot4'"
    EXAMPLES = ("dot4",)
    unit = "blocks"
    directed = True
    together = SIZE

    @classmethod
    def parse(cls, text: str) -> Dot4 | None:
        """As `Pattern.parse`."""
        return cls(text) if text == "dot4" else None

    def units(self, shape: torch.Size, axis: int) -> int:
        """As `Pattern.units`."""
        inputs = shape[axis]
        return shape.numel() // max(1, inputs) * -(-inputs // SIZE)

    def scores(self, scores: Scores, axis: int, chunk: int) -> Tensor:
        """As `Pattern.scores`: the mean score of every block.

        Scores are added one after another, so that the same scores give the same means on every
        machine.

        Returns:
            Shaped as the tensor, but with ceil(inputs / 4) along the axis; float64 for float64
            scores, else float32.
        """
        tensor = tensor_of(scores)
        inputs = tensor.shape[axis]
        shape = list(tensor.shape)
        shape[axis] = -(-inputs // SIZE)
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        found = torch.zeros(shape, dtype=dtype, device=tensor.device)
        for at in range(min(SIZE, inputs)):
            part = _every_fourth(tensor, axis, at)
            own = found.narrow(axis, 0, part.shape[axis])
            own += part if tensor is scores else part.abs()
        starts = torch.arange(0, inputs, SIZE, device=tensor.device)
        sizes = (inputs - starts).clamp(max=SIZE)
        return found.movedim(axis, -1).div_(sizes).movedim(-1, axis)

    def mask(self, kept: Tensor, like: Tensor, axis: int, chunk: int) -> Tensor:
        """As `Pattern.mask`."""
        mask = torch.empty_like(like, dtype=torch.bool)
        for at in range(min(SIZE, like.shape[axis])):
            part = _every_fourth(mask, axis, at)
            part.copy_(kept.narrow(axis, 0, part.shape[axis]))
        return mask


def _every_fourth(tensor: Tensor, axis: int, first: int) -> Tensor:
    """Return a view of every fourth place along an axis, from `first` on."""
    places = [slice(None)] * tensor.dim()
    places[axis] = slice(first, None, SIZE)
    return tensor[tuple(places)]
