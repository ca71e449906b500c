"""Average pooling to a size that does not divide the plane's, in operators that exporters know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_POOLS: dict[object, int] = {
    torch.adaptive_avg_pool1d: 1,
    functional.adaptive_avg_pool2d: 2,
    functional.adaptive_avg_pool3d: 3,
}
"""Functions, and over how many of the last axes they pool."""


def _pooled(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Pool by products where windows differ.

    Output i of n, over an axis of s, is the mean of what lies from floor(i s / n) to
    ceil((i + 1) s / n), so that windows overlap, and differ in size, unless n divides s. ONNX has
    no such operator.
    """
    axes = _POOLS[func]
    x, asked = _input_and_size(*args, **kwargs)
    sizes = [int(size) for size in x.shape[-axes:]]
    asked = asked if isinstance(asked, (tuple, list)) else [asked] * axes
    wanted = [size if n is None else int(n) for size, n in zip(sizes, asked, strict=True)]
    if all(size % n == 0 for size, n in zip(sizes, wanted, strict=True)):
        return func(*args, **kwargs)
    for axis, (size, n) in enumerate(zip(sizes, wanted, strict=True), -axes):
        x = (x.transpose(axis, -1) @ _means(size, n).to(x)).transpose(axis, -1)
    return x


def _input_and_size(input: Tensor, output_size: Any) -> tuple[Tensor, Any]:
    """Return the arguments that all of these functions take, by these names or in this order."""
    return input, output_size


def _means(size: int, n: int) -> Tensor:
    """Return the matrix [size, n] by which an axis becomes n means."""
    matrix = torch.zeros(size, n)
    for i in range(n):
        first, end = i * size // n, -(-(i + 1) * size // n)
        matrix[first:end, i] = 1 / (end - first)
    return matrix


REPLACED: dict[object, Callable[..., Any]] = dict.fromkeys(_POOLS, _pooled)
