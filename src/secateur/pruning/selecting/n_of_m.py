"""Exactly n of every m consecutive weights along the inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.pruning.selecting.patterns import NofM
from secateur.pruning.selecting.ranking import Scores, ordered_tensor, tensor_of


def mark(mask: Tensor, scores: Scores, pattern: NofM, axis: int, chunk: int) -> Tensor:
    """Write the mask of the n highest scores of every group; the first positions win ties.

    Groups run along one dimension, from its start, for every place in the others by itself. Where
    m does not divide the dimension, the last group is filled up with weights that are zero and
    not counted: it keeps min(n, its size).

    Args:
        mask: bool, in the scores' shape and on their device; all of it is written.
        scores: of at least as many dimensions as `axis` needs.
        pattern: n and m; m may be more than the dimension has.
        axis: the dimension that counts inputs; from the last one if negative.
        chunk: about how many scores are looked at together, at some 30 bytes each.

    Returns:
        Whether all scores are finite, a bool scalar on their device; where they are not, the mask
        means nothing.
    """
    tensor = tensor_of(scores)
    lines, kept = tensor.movedim(axis, -1), mask.movedim(axis, -1)
    width = tensor.shape[axis]
    m = min(pattern.m, max(width, 1))
    n = min(pattern.n, m)
    finite = torch.ones((), dtype=torch.bool, device=tensor.device)
    for rows, columns in _parts(lines, m, chunk):
        part = lines[rows, ..., columns]
        finite &= torch.isfinite(part).all()
        if n == m:
            kept[rows, ..., columns] = True
            continue
        keys = ordered_tensor(part if tensor is scores else part.abs())
        size = keys.shape[-1]
        padded = torch.nn.functional.pad(keys, (0, -size % m), value=torch.iinfo(keys.dtype).min)
        groups = padded.reshape(*keys.shape[:-1], -1, m)
        order = groups.sort(dim=-1, descending=True, stable=True).indices
        chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :n], True)
        kept[rows, ..., columns] = chosen.flatten(-2)[..., :size]
    return finite


def count_of(shape: torch.Size, pattern: NofM, axis: int) -> int:
    """Return how many weights `mark` keeps of a tensor."""
    axis %= len(shape)
    width = shape[axis]
    whole, left = divmod(width, pattern.m)
    lines = shape[:axis].numel() * shape[axis + 1 :].numel()
    return lines * (whole * pattern.n + min(pattern.n, left))


def _parts(lines: Tensor, m: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of pieces of about `chunk` scores that cut no group in two."""
    if not lines.numel():
        return
    height, width = lines.shape[0], lines.shape[-1]
    row = lines.numel() // height
    down = max(1, chunk // row)
    across = width if row <= chunk else max(1, chunk // (row // width * m)) * m
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, top + down), slice(left, left + across)
