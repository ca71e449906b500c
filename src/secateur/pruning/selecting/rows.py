"""The highest scores of every output's weights: each output keeps as many of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.pruning.selecting.ranking import Absolute, Scores, tensor_of


def highest_of_rows(
    scores: Scores, count: int, axis: int | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the mask of a tensor whose outputs keep equally many weights, the highest of each.

    Where the number of outputs does not divide the count, the first outputs keep one more. Equal
    scores rank by position. Masks of smaller counts are nested in those of larger ones.

    Args:
        scores: of the tensor's weights.
        count: how many it keeps, from 0 to all.
        axis: which dimension counts inputs, as `Prunable.axes`; where it is not known, or there
            is but one dimension, all weights are one output's.
        chunk: about how many scores are ranked together.

    Returns:
        bool, in the shape, memory format and on the device of the scores; and whether all scores
        are finite, a bool scalar.
    """
    tensor = tensor_of(scores)
    mask = torch.zeros_like(tensor, dtype=torch.bool)
    finite = torch.ones((), dtype=torch.bool, device=tensor.device)
    if not tensor.numel():
        return mask, finite
    outputs_first = _by_rows(tensor, axis)
    flat = outputs_first.reshape(-1, _length(outputs_first, axis))
    rows = len(flat)
    each, more = divmod(count, rows)
    marked = torch.zeros(flat.shape, dtype=torch.bool, device=tensor.device)
    step = max(1, chunk // flat.shape[1])
    for start in range(0, rows, step):
        part = flat[start : start + step]
        finite &= torch.isfinite(part).all()
        part = part.abs() if isinstance(scores, Absolute) else part
        order = part.argsort(dim=1, descending=True, stable=True)
        marked[start : start + step].scatter_(1, order[:, :each], True)
        if (left := min(len(part), more - start)) > 0:
            marked[start : start + left].scatter_(1, order[:left, each : each + 1], True)
    _by_rows(mask, axis).copy_(marked.view(outputs_first.shape))
    return mask, finite


def _by_rows(tensor: Tensor, axis: int | None) -> Tensor:
    """Return a view with the dimensions that count outputs first; called again, it is undone."""
    if axis == 0 and tensor.dim() > 1:
        return tensor.transpose(0, 1)
    return tensor.transpose(-1, -2) if axis == -2 else tensor


def _length(outputs_first: Tensor, axis: int | None) -> int:
    """Return how many weights an output has."""
    if axis is None or outputs_first.dim() < 2:
        return max(1, outputs_first.numel())
    return outputs_first.shape[-1] if axis < 0 else max(1, outputs_first[0].numel())
