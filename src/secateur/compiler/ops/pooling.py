"""Pooling over windows, and over whole planes."""

from __future__ import annotations

from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.convolution import Window, wide, window
from secateur.compiler.ops.rules import FLOATS, NUMBERS, Operands


def pool_window(node: Node, spatial: tuple[int, ...]) -> Window:
    """Return the window of a MaxPool or AveragePool node over extents of the spatial axes.

    Raises:
        CompileError: attributes that do not fit, or a window that sees padding only.
    """
    kernel = tuple(node.get("kernel_shape") or ())
    if len(kernel) != len(spatial):
        raise unsupported(node, f"kernel_shape={kernel} for an input of {len(spatial) + 2} axes")
    ceil = bool(node.get("ceil_mode", 0))
    if ceil and node.get("auto_pad") == "VALID":
        raise unsupported(node, "auto_pad=VALID with ceil_mode, which runtimes do not agree on")
    # With SAME the number of outputs is already rounded up.
    form = window(node, spatial, kernel, ceil=ceil and not _same(node))
    if any(0 in counts for counts in tap_counts(form, spatial, padding=False)):
        raise unsupported(node, "a window lies wholly in the padding")
    return form


def _same(node: Node) -> bool:
    return str(node.get("auto_pad", "NOTSET")).startswith("SAME")


def tap_counts(form: Window, spatial: tuple[int, ...], *, padding: bool) -> list[np.ndarray]:
    """Return, for each spatial axis, how many kernel positions of each window count [outputs].

    Args:
        form: the window.
        spatial: extents of the input.
        padding: count positions over the padding too (but never those beyond it, where
            `ceil_mode` lets the last window hang over).
    """
    counts = []
    for i, extent in enumerate(spatial):
        starts = np.arange(form.outputs[i]) * form.strides[i] - form.before[i]
        low, high = (-form.before[i], extent + form.after[i]) if padding else (0, extent)
        # Of the kernel's positions start + k * dilation, how many lie below each end.
        below = [
            (-((starts - end) // form.dilations[i])).clip(0, form.kernel[i]) for end in (low, high)
        ]
        counts.append(below[1] - below[0])
    return counts


def pool_divisors(node: Node, form: Window, spatial: tuple[int, ...]) -> np.ndarray:
    """Return by how much an AveragePool divides the sum of each window [*outputs], int64."""
    counts = tap_counts(form, spatial, padding=bool(node.get("count_include_pad", 0)))
    divisors = np.ones((1,) * len(counts), np.int64)
    for i, count in enumerate(counts):
        divisors = divisors * count.reshape(-1, *(1,) * (len(counts) - 1 - i))
    return divisors


def _infer_max(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    if any(node.outputs[1:]):
        raise unsupported(node, "output Indices, which only `fold` can make")
    rules.arity(node, operands, 1, 1)
    return (_pooled(node, rules.operand(node, operands, 0, "X", NUMBERS)),)


def _infer_average(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    return (_pooled(node, rules.operand(node, operands, 0, "X", FLOATS)),)


def _pooled(node: Node, x: Operand) -> Tensor:
    return Tensor(x.dtype, (*x.shape[:2], *pool_window(node, x.shape[2:]).outputs))


def _max(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    form = pool_window(node, x.shape[2:])
    least: Any = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = form.pad(x, least)
    y = np.full((*x.shape[:2], *form.outputs), least, x.dtype)
    for _, seen in form.taps():
        np.maximum(y, padded[seen], out=y)
    return (y,)


@np.errstate(all="ignore")
def _average(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    form = pool_window(node, x.shape[2:])
    dtype = wide(x.dtype)
    padded = form.pad(x.astype(dtype, copy=False))
    y = np.zeros((*x.shape[:2], *form.outputs), dtype)
    for _, seen in form.taps():
        y += padded[seen]
    y /= pool_divisors(node, form, x.shape[2:]).astype(dtype)
    return (y.astype(x.dtype, copy=False),)


def _infer_global(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "X", FLOATS)
    if len(x.shape) < 3:
        raise unsupported(node, f"an input of shape {x.shape}; it needs a spatial axis")
    return (Tensor(x.dtype, (*x.shape[:2], *(1,) * (len(x.shape) - 2))),)


@np.errstate(all="ignore")
def _global_average(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    y = x.mean(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=wide(x.dtype))
    return (y.astype(x.dtype, copy=False),)


def _global_max(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


_WINDOW = {"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"}

OPERATORS = (
    # storage_order says how Indices count, which a rewrite makes: it says nothing here.
    Operator("MaxPool", _infer_max, _max, frozenset(_WINDOW | {"storage_order"})),
    Operator("AveragePool", _infer_average, _average, frozenset(_WINDOW | {"count_include_pad"})),
    Operator("GlobalAveragePool", _infer_global, _global_average),
    Operator("GlobalMaxPool", _infer_global, _global_max),
)
