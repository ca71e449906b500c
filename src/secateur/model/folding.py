"""Windows that are added up to the image that they were cut from, in operators exporters know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _folded(
    _: Any,
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Tensor:
    """Put each number of a window at its place, as a transposed convolution with ones does.

    ONNX has `Col2Im` from operator set 18 on only.
    """
    given = (output_size, kernel_size, dilation, padding, stride)
    size, kernel, apart, pad, step = (_pair(value) for value in given)
    reach = [apart[k] * (kernel[k] - 1) + 1 for k in (0, 1)]
    windows = [(size[k] + 2 * pad[k] - reach[k]) // step[k] + 1 for k in (0, 1)]
    more = [size[k] + 2 * pad[k] - reach[k] - (windows[k] - 1) * step[k] for k in (0, 1)]
    taps = kernel[0] * kernel[1]
    places = torch.eye(taps, dtype=input.dtype, device=input.device).reshape(taps, 1, *kernel)
    planes = functional.conv_transpose2d(
        input.reshape(-1, taps, *windows), places, None, step, pad, more, dilation=apart
    )
    channels = int(input.shape[-2]) // taps
    return planes.reshape(*([-1] if input.dim() == 3 else []), channels, *size)


def _pair(value: Any) -> tuple[int, int]:
    rows, columns = value if isinstance(value, (tuple, list)) else (value, value)
    return int(rows), int(columns)


REPLACED: dict[object, Callable[..., Any]] = {functional.fold: _folded}
