"""Elements that are repeated: of an axis counted from the last, exporters reshape another one."""

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


REPLACED: dict[object, Callable[..., Any]] = dict.fromkeys(
    (torch.repeat_interleave, Tensor.repeat_interleave), _repeated
)
