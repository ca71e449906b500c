"""Resizes of planes that smooth what they shrink, in operators that exporters know."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from secateur.model.tracing import untraced

_ARGUMENTS = inspect.signature(functional.interpolate)


def _resized(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Resize by two products where it smooths; ONNX does so from operator set 18 on only.

    What lies along an axis is mapped linearly, and torch tells the matrix of that: it is how the
    identity is resized.
    """
    given = _ARGUMENTS.bind(*args, **kwargs).arguments
    if not given.get("antialias"):
        return func(*args, **kwargs)
    x = given.pop("input")
    size, scale = given.pop("size", None), given.pop("scale_factor", None)
    for axis, k in ((-2, 0), (-1, 1)):
        wanted: dict[str, Any] = {}
        if size is not None:
            wanted["size"] = int(size[k] if isinstance(size, (tuple, list)) else size)
        if scale is not None:
            factor = scale[k] if isinstance(scale, (tuple, list)) else scale
            wanted["scale_factor"] = float(factor)
        matrix = _matrix(int(x.shape[axis]), wanted, given).to(x)
        x = (x.transpose(axis, -1) @ matrix).transpose(axis, -1)
    return x


def _matrix(extent: int, wanted: dict[str, Any], given: dict[str, Any]) -> Tensor:
    """Return the matrix [extent, resized] by which an axis is resized, float32."""
    rows = {"size": extent, "scale_factor": 1.0}  # these stay as they are
    both: dict[str, Any] = {key: (rows[key], value) for key, value in wanted.items()}
    with untraced():
        return functional.interpolate(torch.eye(extent)[None, None], **both, **given)[0, 0]


REPLACED: dict[object, Callable[..., Any]] = {functional.interpolate: _resized}
