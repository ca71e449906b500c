"""Blocks of rows and columns of a weight's matrix, one score each.

The matrix of a weight is [outputs, inputs * kernel positions]: outputs are the first dimension, or
the second one where the first counts inputs (transposed convolutions, transformers' Conv1D); all
other dimensions follow in their order, row-major. Where the axis is negative, the last two
dimensions are a matrix, and the weight is a stack of them (experts). Blocks lie side by side from
the first row and column of each matrix; those at its end are smaller where the blocks do not
divide it.
"""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from secateur.pruning.selecting.patterns.pattern import Pattern, impossible
from secateur.pruning.selecting.ranking import Scores, tensor_of

_NAME = re.compile(r"(\d{1,9})x(\d{1,9})", re.ASCII)


class Blocks(Pattern):
    """Whole blocks of the matrix [outputs, inputs * kernel positions] are kept or cut."""

    __slots__ = ()
    FORM = "blocks of rows x columns such as '1x4'"
    EXAMPLES = ("1x4", "3x2", "16x1")
    unit = "blocks"
    directed = True

    @classmethod
    def parse(cls, text: str) -> Blocks | None:
        """As `Pattern.parse`."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        if not (int(found[1]) and int(found[2])):
            raise impossible(cls.FORM, text, "blocks without weights")
        return cls(text)

    @property
    def rows(self) -> int:
        """Rows of a block; they may be more than the matrix has."""
        return int(self.partition("x")[0])

    @property
    def columns(self) -> int:
        """Columns of a block; they may be more than the matrix has."""
        return int(self.partition("x")[2])

    def _within(self, high: int, wide: int) -> tuple[int, int]:
        """Return rows and columns of a block in a matrix of a size."""
        return min(self.rows, max(1, high)), min(self.columns, max(1, wide))

    def units(self, shape: torch.Size, axis: int) -> int:
        """As `Pattern.units`."""
        stack = shape[:-2].numel() if axis < 0 else 1
        high = shape[{-1: -2, -2: -1, 0: 1}.get(axis, 0)]
        wide = shape.numel() // max(1, stack * high)
        rows, columns = self._within(high, wide)
        return stack * -(-high // rows) * -(-wide // columns)

    def scores(self, scores: Scores, axis: int, chunk: int) -> Tensor:
        """As `Pattern.scores`: the mean score of every block.

        Scores are added down the rows first, then along the columns, one after another, so that
        the same scores give the same means on every machine.

        Returns:
            [block rows, block columns], those of one matrix after another; float64 for float64
            scores, else float32.
        """
        tensor = tensor_of(scores)
        matrices = _matrices(tensor, axis)
        count, high, wide = _extent(matrices)
        rows, columns = self._within(high, wide)
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        shape = (count, -(-high // rows), -(-wide // columns))
        found = torch.empty(shape, dtype=dtype, device=tensor.device)
        step = max(1, chunk // (rows * max(1, wide)))
        for matrix, own in zip(matrices, found, strict=True):
            for top in range(0, shape[1], step):
                part = matrix[top * rows : (top + step) * rows].flatten(1).to(dtype)
                if tensor is not scores:
                    part = part.abs()
                own[top : top + step] = _added(_added(part, rows).T, columns).T
        heights, widths = (
            _extents(high, rows, tensor.device),
            _extents(wide, columns, tensor.device),
        )
        return (found / (heights[:, None] * widths)).flatten(0, 1)

    def mask(self, kept: Tensor, like: Tensor, axis: int, chunk: int) -> Tensor:
        """As `Pattern.mask`."""
        mask = torch.empty_like(like, dtype=torch.bool)
        matrices = _matrices(mask, axis)
        count, high, wide = _extent(matrices)
        rows, columns = self._within(high, wide)
        step = max(1, chunk // (rows * max(1, wide)))
        if not kept.numel():
            return mask
        for matrix, own in zip(matrices, kept.reshape(count, -1, kept.shape[1]), strict=True):
            for top in range(0, own.shape[0], step):
                part = matrix[top * rows : (top + step) * rows]
                whole = own[top : top + step].repeat_interleave(rows, 0)[: len(part)]
                part.copy_(whole.repeat_interleave(columns, 1)[:, :wide].reshape(part.shape))
        return mask


def _matrices(tensor: Tensor, axis: int) -> list[Tensor]:
    """Return views whose first dimension counts outputs; the others make their columns."""
    if axis >= 0:
        return [tensor if axis else tensor.transpose(0, 1)]
    turned = tensor if axis == -1 else tensor.transpose(-2, -1)
    if tensor.dim() == 2:
        return [turned]
    return [turned[at] for at in itertools.product(*map(range, tensor.shape[:-2]))]


def _extent(matrices: list[Tensor]) -> tuple[int, int, int]:
    """Return how many matrices there are, and the rows and columns of each."""
    if not matrices:
        return 0, 0, 0
    high = matrices[0].shape[0]
    return len(matrices), high, matrices[0].numel() // max(1, high)


def _added(part: Tensor, size: int) -> Tensor:
    """Return the sums of every `size` rows, the last ones maybe of fewer."""
    total = part[::size].clone()
    for at in range(1, size):
        piece = part[at::size]
        total[: len(piece)] += piece
    return total


def _extents(length: int, size: int, device: torch.device) -> Tensor:
    """Return how many rows, or columns, every block has."""
    starts = torch.arange(0, length, size, device=device)
    return (length - starts).clamp(max=size)
