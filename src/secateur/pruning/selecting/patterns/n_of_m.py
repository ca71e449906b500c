"""Exactly n of every m consecutive weights along the inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.pruning.selecting.patterns.pattern import Pattern, impossible
from secateur.pruning.selecting.ranking import Scores, ordered_tensor, tensor_of

_NAME = re.compile(r"(\d{1,9}):(\d{1,9})", re.ASCII)


class NofM(Pattern):
    """Exactly n of every m consecutive weights along the inputs are kept.

    Groups run along one dimension, from its start, for every place in the others by itself. Where
    m does not divide the dimension, the last group keeps min(n, its size).
    """

    __slots__ = ()
    FORM = "'n:m' with 1 <= n <= m such as '2:4'"
    EXAMPLES = ("2:4", "3:7")
    directed = True

    @classmethod
    def parse(cls, text: str) -> NofM | None:
        """As `Pattern.parse`."""
        found = _NAME.fullmatch(text)
        if found is None:
            return None
        n, m = int(found[1]), int(found[2])
        if not 1 <= n <= m:
            raise impossible(cls.FORM, text, f"and {n} of every {m} cannot be kept")
        return cls(text)

    @property
    def n(self) -> int:
        """How many of a group are kept."""
        return int(self.partition(":")[0])

    @property
    def m(self) -> int:
        """How many weights a group has; it may be more than the dimension has."""
        return int(self.partition(":")[2])

    @property
    def ratio(self) -> float:
        """As `Pattern.ratio`: n / m."""
        return self.n / self.m

    def mark(self, mask: Tensor, scores: Scores, axis: int, chunk: int) -> Tensor:
        """As `Pattern.mark`: the n highest scores of every group; the first positions win ties."""
        tensor = tensor_of(scores)
        lines, kept = tensor.movedim(axis, -1), mask.movedim(axis, -1)
        width = tensor.shape[axis]
        m = min(self.m, max(width, 1))
        n = min(self.n, m)
        finite = torch.ones((), dtype=torch.bool, device=tensor.device)
        for rows, columns in _parts(lines, m, chunk):
            part = lines[rows, ..., columns]
            finite &= torch.isfinite(part).all()
            if n == m:
                kept[rows, ..., columns] = True
                continue
            keys = ordered_tensor(part if tensor is scores else part.abs())
            size = keys.shape[-1]
            padded = F.pad(keys, (0, -size % m), value=torch.iinfo(keys.dtype).min)
            groups = padded.reshape(*keys.shape[:-1], -1, m)
            order = groups.sort(dim=-1, descending=True, stable=True).indices
            chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :n], True)
            kept[rows, ..., columns] = chosen.flatten(-2)[..., :size]
        return finite

    def due(self, shape: torch.Size, axis: int) -> int:
        """As `Pattern.due`."""
        axis %= len(shape)
        whole, left = divmod(shape[axis], self.m)
        lines = shape[:axis].numel() * shape[axis + 1 :].numel()
        return lines * (whole * self.n + min(self.n, left))


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
