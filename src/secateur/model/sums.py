"""Running sums of bools and short integers: int64 in torch, but not to its exporter."""

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


REPLACED: dict[object, Callable[..., Any]] = dict.fromkeys((torch.cumsum, Tensor.cumsum), _counted)
