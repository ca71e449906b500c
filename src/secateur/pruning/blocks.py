"""Blocks of a weight's matrix: one score each, and the mask of those that are kept.

The matrix of a weight is [outputs, inputs * kernel positions]: outputs are the first dimension, or
the second one where the first counts inputs (transposed convolutions, transformers' Conv1D); all
other dimensions follow in their order, row-major. Blocks lie side by side from its first row and
column; those at its end are smaller where the blocks do not divide it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pruning.patterns import Blocks
from secateur.pruning.ranking import Scores, tensor_of


def means(scores: Scores, pattern: Blocks, axis: int, chunk: int) -> Tensor:
    """Return the mean score of every block.

    Scores are added down the rows first, then along the columns, one after another, so that
    the same scores give the same means on every machine.

    Args:
        scores: of at least two dimensions.
        pattern: rows and columns of a block; they may be more than the matrix has.
        axis: the dimension that counts inputs.
        chunk: about how many scores are copied together.

    Returns:
        [block rows, block columns], float64 for float64 scores, else float32; on their device.
        NaN or infinite where a score is, or where the sum of a block is too large for its dtype.
    """
    tensor = tensor_of(scores)
    matrix, rows, columns = _matrix(tensor, axis), *_size(tensor, pattern, axis)
    high, wide = matrix.shape[0], matrix.numel() // max(1, matrix.shape[0])
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    shape = (-(-high // rows), -(-wide // columns))
    found = torch.empty(shape, dtype=dtype, device=tensor.device)
    step = max(1, chunk // (rows * max(1, wide)))
    for top in range(0, shape[0], step):
        part = matrix[top * rows : (top + step) * rows].flatten(1).to(dtype)
        if tensor is not scores:
            part = part.abs()
        found[top : top + step] = _added(_added(part, rows).T, columns).T
    heights, widths = _extents(high, rows, tensor.device), _extents(wide, columns, tensor.device)
    return found / (heights[:, None] * widths)


def mask_of(kept: Tensor, like: Tensor, pattern: Blocks, axis: int, chunk: int) -> Tensor:
    """Return the mask of a weight whose blocks are kept or cut.

    Args:
        kept: bool [block rows, block columns], in the shape of `means`.
        like: the weight or its scores.
        pattern: as in `means`.
        axis: as in `means`.
        chunk: about how many weights are copied together.

    Returns:
        Bool, in the shape, memory format and on the device of `like`.
    """
    mask = torch.empty_like(like, dtype=torch.bool)
    matrix, rows, columns = _matrix(mask, axis), *_size(like, pattern, axis)
    wide = matrix.numel() // max(1, matrix.shape[0])
    step = max(1, chunk // (rows * max(1, wide)))
    for top in range(0, kept.shape[0], step):
        part = matrix[top * rows : (top + step) * rows]
        whole = kept[top : top + step].repeat_interleave(rows, 0)[: len(part)]
        part.copy_(whole.repeat_interleave(columns, 1)[:, :wide].reshape(part.shape))
    return mask


def _matrix(tensor: Tensor, axis: int) -> Tensor:
    """Return a view whose first dimension counts outputs; the others make its columns."""
    return tensor if axis else tensor.transpose(0, 1)


def _size(tensor: Tensor, pattern: Blocks, axis: int) -> tuple[int, int]:
    """Return rows and columns of a block, no more than the matrix has."""
    high = _matrix(tensor, axis).shape[0]
    wide = tensor.numel() // max(1, high)
    return min(pattern.rows, max(1, high)), min(pattern.columns, max(1, wide))


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
