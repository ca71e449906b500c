"""Axes counted from the last: exporters take them for others, or write them as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _repeated(
    func: Any,
    input: Tensor,
    repeats: Any = None,
    dim: int | None = None,
    *,
    output_size: int | None = None,
) -> Tensor:
    if dim is None or not isinstance(repeats, int):
        more = {} if output_size is None else {"output_size": output_size}
        given = (input,) if repeats is None else (input, repeats, dim)
        found: Tensor = func(*given, **more)
        return found
    dim %= input.dim()
    several = [-1] * (input.dim() + 1)
    several[dim + 1] = repeats
    return input.unsqueeze(dim + 1).expand(several).flatten(dim, dim + 1)


def _cut(func: Any, input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    windows: Tensor = func(input, dimension % max(input.dim(), 1), size, step)
    return windows


def _permuted(func: Any, input: Tensor, *dims: Any, **named: Any) -> Tensor:
    (order,) = named.values() or (dims[0] if dims and isinstance(dims[0], (tuple, list)) else dims,)
    found: Tensor = func(input, tuple(int(dim) % input.dim() for dim in order))
    return found


REPLACED: dict[object, Callable[..., Any]] = {
    **dict.fromkeys((torch.permute, Tensor.permute), _permuted),
    **dict.fromkeys((torch.repeat_interleave, Tensor.repeat_interleave), _repeated),
    Tensor.unfold: _cut,
}
