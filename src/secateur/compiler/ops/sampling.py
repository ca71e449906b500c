"""Values between the pixels of an image, at places that are computed: GridSample."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import FLOATS, Operands

TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
"""Pixels along an axis that a value is made of, by mode."""

PADDINGS = ("zeros", "border", "reflection")

FAR = 2.0**30
"""Places beyond this count as this far away: integers hold them."""

SHARPNESS = -0.75
"""The parameter of cubic convolution (Keys 1981), as ONNX fixes it."""


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "X", FLOATS)
    grid = rules.operand(node, operands, 1, "grid", FLOATS)
    mode, padding = node.get("mode", "linear"), node.get("padding_mode", "zeros")
    if mode not in TAPS or padding not in PADDINGS or node.get("align_corners", 0) not in (0, 1):
        raise unsupported(
            node,
            f"mode={mode}, padding_mode={padding}, align_corners={node.get('align_corners', 0)}",
        )
    rank = len(x.shape) - 2
    if rank < 1 or len(grid.shape) != rank + 2 or grid.shape[-1] != rank:
        raise unsupported(node, f"a grid of shape {grid.shape} for an input of {x.shape}")
    if grid.shape[0] != x.shape[0]:
        raise unsupported(node, f"{grid.shape[0]} grids for {x.shape[0]} images")
    if not min(x.shape[2:]):
        raise unsupported(node, f"an image of shape {x.shape}, which has no pixels")
    return (Tensor(x.dtype, (*x.shape[:2], *grid.shape[1:-1])),)


def _weights(away: np.ndarray, taps: int) -> list[Any]:
    """Return the weight of each pixel, for a place that is `away` behind the second, or first."""
    if taps == 1:
        return [1.0]
    if taps == 2:
        return [1 - away, away]
    a = SHARPNESS

    def outer(t: np.ndarray) -> np.ndarray:
        return np.asarray(((a * t - 5 * a) * t + 8 * a) * t - 4 * a)

    def inner(t: np.ndarray) -> np.ndarray:
        return np.asarray(((a + 2) * t - (a + 3)) * t * t + 1)

    return [outer(away + 1), inner(away), inner(1 - away), outer(2 - away)]


def _reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, grid = rules.array(arrays, 0), rules.array(arrays, 1)
    taps, padding = TAPS[node.get("mode", "linear")], node.get("padding_mode", "zeros")
    align, rank = bool(node.get("align_corners", 0)), x.ndim - 2
    axes = []
    with np.errstate(all="ignore"):
        for axis, extent in enumerate(x.shape[2:]):
            place = grid[..., rank - 1 - axis].astype(np.promote_types(grid.dtype, np.float32))
            place = (place + 1) / 2 * (extent - 1) if align else ((place + 1) * extent - 1) / 2
            base = np.rint(place) if taps == 1 else np.floor(place)
            first = np.where(np.abs(base) < FAR, base, -FAR).astype(np.int64) - (taps == 4)
            weights = _weights(place - base, taps)
            axes.append(
                [(*_pixel(first + k, extent, padding, align), weights[k]) for k in range(taps)]
            )
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        y = np.zeros((x.shape[0], *grid.shape[1:-1], x.shape[1]), wide.dtype)
        sample = np.arange(len(x)).reshape(-1, *(1,) * rank)
        for chosen in product(*axes):
            seen = wide[(sample, slice(None), *(at for at, _, _ in chosen))]
            there, weight = np.ones((), bool), np.ones((), wide.dtype)
            for _, inside, its in chosen:
                there, weight = there & inside, weight * its
            y += np.where(there[..., None], seen, 0) * np.asarray(weight)[..., None]
    return (np.moveaxis(y, -1, 1).astype(x.dtype),)


def _pixel(place: np.ndarray, extent: int, padding: str, align: bool) -> tuple[Any, Any]:
    """Return which pixel a place of a plane without end is, and whether there is one."""
    inside = (place >= 0) & (place < extent)
    if padding == "reflection":
        turn = max(2 * (extent - 1), 1) if align else 2 * extent
        place = place % turn
        place = np.where(place < extent, place, turn - (not align) - place)
    return place.clip(0, extent - 1), inside if padding == "zeros" else np.ones((), bool)


OPERATORS = (
    Operator(
        "GridSample", _infer, _reference, frozenset({"align_corners", "mode", "padding_mode"})
    ),
)
