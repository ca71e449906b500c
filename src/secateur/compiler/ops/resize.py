"""Resize: every output element is a weighted sum of a few input elements along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.convolution import filled, wide
from secateur.compiler.ops.rules import FLOATS, Operands

_CHOICES = {
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "coordinate_transformation_mode": (
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
        "tf_crop_and_resize", "tf_half_pixel_for_nn",
    ),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
}  # fmt: skip


MOST_TAPS = 2**24
"""Weights of one axis: a small file could ask for any number of them."""


@dataclass(frozen=True)
class Sampling:
    """How one axis is resized: output o is the sum over k of weights[o, k] * input[indices[o, k]].

    Attributes:
        axis: of the input.
        indices: [outputs, taps], int64.
        weights: [outputs, taps], float64; one tap of weight 1 for the mode nearest.
        outside: [outputs], whether the output is `extrapolation_value` whatever the other axes
            say (`tf_crop_and_resize` alone).
    """

    axis: int
    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray


def samplings(
    node: Node,
    shape: Sequence[int],
    roi: np.ndarray | None,
    scales: np.ndarray | None,
    sizes: np.ndarray | None,
) -> tuple[Sampling, ...]:
    """Return how a Resize node samples each axis that it changes, in the order of its `axes`.

    Args:
        node: its attributes are read.
        shape: of the input.
        roi, scales, sizes: the node's other inputs; None, or empty, where absent.

    Raises:
        CompileError: an attribute or a combination that is not supported or not meant.
    """
    mode, transformation = _choice(node, "mode"), _choice(node, "coordinate_transformation_mode")
    _choice(node, "nearest_mode")
    crop = transformation == "tf_crop_and_resize"
    if node.get("antialias", 0) and (crop or mode == "nearest"):
        picks = "mode=nearest, which picks and does not sum"
        other = picks if mode == "nearest" else transformation
        raise unsupported(node, f"antialias=1 with {other}")
    axes = rules.axes(node, node.get("axes") or range(len(shape)), len(shape))
    extents = [shape[a] for a in axes]
    ratios, outputs = _ratios(node, extents, scales, sizes)
    shown = _cropped(node, len(axes), roi, sizes) if crop else [(0.0, 1.0)] * len(axes)
    found = []
    for axis, extent, out, ratio, ends in zip(axes, extents, outputs, ratios, shown, strict=True):
        if out == extent and ratio[0] == ratio[1] and ends == (0.0, 1.0):
            continue
        at = _coordinates(transformation, extent, out, ratio, ends)
        indices, weights = _taps(node, mode, at, min(ratio[0] / ratio[1], 1.0))
        if node.get("exclude_outside", 0) and mode != "nearest":
            weights = np.where((indices < 0) | (indices >= extent), 0, weights)
            weights = weights / weights.sum(1, keepdims=True)
        outside = ((at < 0) | (at > extent - 1)) if crop else np.zeros(out, bool)
        found.append(Sampling(axis, indices.clip(0, extent - 1), weights, outside))
    return tuple(found)


def _cropped(
    node: Node, count: int, roi: np.ndarray | None, sizes: np.ndarray | None
) -> list[tuple[float, float]]:
    """Return by axis where the part that is resized starts and ends, the whole being 0 to 1."""
    if roi is None or roi.size != 2 * count or sizes is None or not sizes.size:
        raise unsupported(node, "tf_crop_and_resize without roi and sizes of every axis")
    return [(float(start), float(end)) for start, end in roi.reshape(2, count).T]


def _choice(node: Node, name: str) -> str:
    value = node.get(name, _CHOICES[name][0])
    if value not in _CHOICES[name]:
        raise unsupported(node, f"{name}={value}")
    return str(value)


def _ratios(
    node: Node, extents: Sequence[int], scales: np.ndarray | None, sizes: np.ndarray | None
) -> tuple[list[tuple[float, float]], list[int]]:
    """Return by axis the scale as a numerator and a denominator, and the output's extents.

    A fraction of whole numbers, unlike its quotient, leads to exact coordinates.
    """
    by_scale = scales is not None and scales.size > 0
    by_size = sizes is not None and sizes.size > 0
    given = scales if by_scale else sizes
    if by_scale == by_size or given is None or given.size != len(extents):
        raise unsupported(node, f"it needs scales or sizes of {len(extents)} axes, and not both")
    if not np.all(np.isfinite(given)) or np.any(given <= 0):
        raise unsupported(node, f"a size or scale that is not positive: {given.tolist()}")
    if by_scale:
        ratios = [(float(scale), 1.0) for scale in given]
        outputs = [int(np.floor(e * scale)) for e, (scale, _) in zip(extents, ratios, strict=True)]
    else:
        outputs = [int(size) for size in given]
        ratios = [(float(o), float(e)) for o, e in zip(outputs, extents, strict=True)]
        policy = _choice(node, "keep_aspect_ratio_policy")
        if policy != "stretch":
            pick = min if policy == "not_larger" else max
            up, down = pick(ratios, key=lambda ratio: ratio[0] / ratio[1])
            ratios = [(up, down)] * len(extents)
            outputs = [int(np.floor(e * up / down + 0.5)) for e in extents]
    if min(outputs) < 1 or prod(outputs) > rules.LIMIT or max(outputs) > MOST_TAPS // 4:
        raise unsupported(node, f"an output of extents {outputs}")
    return ratios, outputs


def _coordinates(
    transformation: str,
    extent: int,
    out: int,
    ratio: tuple[float, float],
    ends: tuple[float, float],
) -> np.ndarray:
    """Return where in the input each output position of an axis lies [out], float64."""
    up, down = ratio
    x = np.arange(out, dtype=np.float64)
    # Before it is rounded: ONNX's own tests expect align_corners to divide by this fraction.
    exact = extent * up / down
    if transformation == "tf_crop_and_resize":
        start, end = ends
        if out == 1:
            return np.full(1, 0.5 * (start + end) * (extent - 1))
        return start * (extent - 1) + x * ((end - start) * (extent - 1) / (out - 1))
    if transformation == "align_corners":
        return x * ((extent - 1) / (exact - 1) if exact != 1 else 0)
    if transformation == "asymmetric":
        return x * down / up
    if transformation == "tf_half_pixel_for_nn":  # old operator sets alone, and in float32 there
        at = (x + 0.5).astype(np.float32) / np.float32(up / down)
    elif transformation == "pytorch_half_pixel" and out == 1:
        at = np.zeros(1)
    else:
        whole = transformation == "half_pixel_symmetric"
        at = (x + 0.5) * down / up - 0.5 + (extent / 2 * (1 - out / exact) if whole else 0)
    return np.asarray(at, np.float64)


def _taps(node: Node, mode: str, at: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return indices [out, taps], possibly outside the input, and their weights.

    Args:
        node: its other attributes are read.
        mode: of the node.
        at: [out], as `_coordinates` gives it.
        scale: extent of the output over that of the input, 1 at most.
    """
    if node.get("antialias", 0):
        return _smooth_taps(node, mode, at, scale)
    if mode == "nearest":
        rounding = {
            "floor": np.floor(at),
            "ceil": np.ceil(at),
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
        }
        rounded = rounding[_choice(node, "nearest_mode")].astype(np.int64)
        return rounded[:, None], np.ones((len(at), 1))
    left = np.floor(at)
    part = at - left
    if mode == "linear":
        offsets, weights = [0, 1], [1 - part, part]
    else:
        a = float(node.get("cubic_coeff_a", -0.75))
        offsets = [-1, 0, 1, 2]
        weights = [_far(part + 1, a), _near(part, a), _near(1 - part, a), _far(2 - part, a)]
    return left.astype(np.int64)[:, None] + np.array(offsets), np.stack(weights, 1)


def _smooth_taps(
    node: Node, mode: str, at: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and weights of a filter that is stretched where the axis shrinks."""
    support = (1 if mode == "linear" else 2) / scale
    taps = ceil(2 * support)
    if taps * len(at) > MOST_TAPS:
        raise unsupported(node, f"{taps} taps for each of {len(at)} outputs")
    indices = (np.floor(at - support) + 1)[:, None] + np.arange(taps)
    d = np.abs(indices - at[:, None]) * scale
    if mode == "linear":
        weights = (1 - d).clip(0)
    else:
        a = float(node.get("cubic_coeff_a", -0.75))
        weights = np.where(d <= 1, _near(d, a), np.where(d < 2, _far(d, a), 0))
    return indices.astype(np.int64), weights / weights.sum(1, keepdims=True)


def _near(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution at a distance d of at most 1."""
    return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)


def _far(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution at a distance d between 1 and 2."""
    return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 4)
    x = rules.operand(node, operands, 0, "X")
    if _choice(node, "mode") != "nearest" and x.dtype not in FLOATS:
        raise unsupported(node, f"mode={node.get('mode')} of {x.dtype}")
    roi, scales, sizes = (
        None if operand is None or 0 in operand.shape else rules.constant(node, operand, name)
        for operand, name in zip(filled(operands, 4)[1:], ("roi", "scales", "sizes"), strict=True)
    )
    shape = list(x.shape)
    for sampling in samplings(node, x.shape, roi, scales, sizes):
        shape[sampling.axis] = len(sampling.indices)
    return (Tensor(x.dtype, tuple(shape)),)


@np.errstate(all="ignore")
def _reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, roi, scales, sizes = filled(arrays, 4)
    found = samplings(node, x.shape, roi, scales, sizes)
    if _choice(node, "mode") == "nearest":
        y = x
        for s in found:
            y = y.take(s.indices[:, 0], s.axis)
    else:
        y = x.astype(wide(x.dtype), copy=False)
        for s in found:
            y = _weighted(y, s)
    for s in found:
        if s.outside.any():
            value = np.asarray(node.get("extrapolation_value", 0.0)).astype(y.dtype)
            y = np.where(_along(s.outside, s.axis, y.ndim), value, y)
    return (np.ascontiguousarray(y, x.dtype),)


def _weighted(x: np.ndarray, s: Sampling) -> np.ndarray:
    parts: Any = 0
    for k in range(s.indices.shape[1]):
        weights = _along(s.weights[:, k].astype(x.dtype), s.axis, x.ndim)
        parts = parts + x.take(s.indices[:, k], s.axis) * weights
    return np.asarray(parts)


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape(-1, *(1,) * (rank - 1 - axis))


OPERATORS = (
    Operator(
        "Resize",
        _infer,
        _reference,
        frozenset({
            "antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a",
            "exclude_outside", "extrapolation_value", "keep_aspect_ratio_policy", "mode",
            "nearest_mode",
        }),
    ),
)  # fmt: skip
