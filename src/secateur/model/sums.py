"""Running sums of bools and short integers, int64 in torch alone; differences of neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _counted(func: Any, *args: Any, **kwargs: Any) -> Any:
    x = kwargs.pop("input", None) if not args else args[0]
    counts = isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex())
    if counts and kwargs.get("dtype") is None:
        x = x.long()
    return func(x, *args[1:], **kwargs)


def _differences(
    _: Any,
    input: Tensor,
    n: int = 1,
    dim: int = -1,
    prepend: Tensor | None = None,
    append: Tensor | None = None,
) -> Tensor:
    """Subtract what is from what follows; exporters know no such operator."""
    parts = [part for part in (prepend, input, append) if part is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        lines = x.transpose(dim, -1)
        before, after = lines[..., :-1], lines[..., 1:]
        x = (after ^ before if x.dtype == torch.bool else after - before).transpose(dim, -1)
    return x


REPLACED: dict[object, Callable[..., Any]] = {
    **dict.fromkeys((torch.cumsum, Tensor.cumsum), _counted),
    **dict.fromkeys((torch.diff, Tensor.diff), _differences),
}
