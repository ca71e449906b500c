"""Reductions over axes, positions of extremes, and running sums."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import BOOL, FLOATS, NUMBERS, WIDE, Dtypes, Infer, Operands

Axes = tuple[int, ...]


def reduced_axes(node: Node, values: tuple[int, ...] | None, rank: int) -> Axes:
    """Return the axes that a Reduce operator reduces, counted from the front.

    Args:
        node: gives `noop_with_empty_axes`.
        values: the axes input; None where it is absent.
        rank: number of axes of the data.
    """
    if not values and not node.get("noop_with_empty_axes", 0):
        return tuple(range(rank))
    return rules.axes(node, values or (), rank)


def without(shape: tuple[int, ...], axes: Axes, keep: bool) -> tuple[int, ...]:
    """Return a shape after a reduction: the axes have extent 1 or are left out."""
    ones = (1 if place in axes else extent for place, extent in enumerate(shape))
    return tuple(extent for place, extent in enumerate(ones) if keep or place not in axes)


def _infer_reduce(allowed: Dtypes) -> Infer:
    def infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
        rules.arity(node, operands, 1, 2)
        data = rules.operand(node, operands, 0, "data", allowed)
        given = rules.optional(node, operands, 1, "axes", rules.INDICES)
        values = None if given is None else rules.integers(node, given, "axes")
        axes = reduced_axes(node, values, len(data.shape))
        return (Tensor(data.dtype, without(data.shape, axes, bool(node.get("keepdims", 1)))),)

    return infer


def _reduce(name: str, function: Callable[[np.ndarray, Axes], Any], allowed: Dtypes) -> Operator:
    """Make a reduction of a function (x, axes) that keeps the reduced axes."""

    def reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
        x, given = (*arrays, None)[:2]
        assert x is not None
        axes = reduced_axes(node, None if given is None else tuple(given.tolist()), x.ndim)
        # Summed in double precision: the order of a kernel's sum is then no part of the truth.
        wide = x.astype(np.float64) if x.dtype.kind == "f" else x
        with np.errstate(all="ignore"):
            y = np.asarray(function(wide, axes)).astype(x.dtype)
        return (y.reshape(without(x.shape, axes, bool(node.get("keepdims", 1)))),)

    return Operator(
        name, _infer_reduce(allowed), reference, frozenset({"keepdims", "noop_with_empty_axes"})
    )


def _sum(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.asarray(np.sum(x, axis=axes, keepdims=True, dtype=x.dtype))


def _mean(x: np.ndarray, axes: Axes) -> Any:
    return _sum(x, axes) / np.float64(prod(x.shape[axis] for axis in axes))


def _log_sum_exp(x: np.ndarray, axes: Axes) -> Any:
    largest = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(largest), largest, 0)
    return np.log(_sum(np.exp(x - shift), axes)) + shift


def _lowest(dtype: np.dtype[Any]) -> Any:
    """Return the least value of a dtype: the maximum of nothing."""
    if dtype.kind == "f":
        return -np.inf
    return False if dtype.kind == "b" else np.iinfo(dtype).min


def _highest(dtype: np.dtype[Any]) -> Any:
    """Return the greatest value of a dtype: the minimum of nothing."""
    if dtype.kind == "f":
        return np.inf
    return True if dtype.kind == "b" else np.iinfo(dtype).max


def _max(x: np.ndarray, axes: Axes) -> Any:
    return np.max(x, axis=axes, keepdims=True, initial=_lowest(x.dtype))


def _min(x: np.ndarray, axes: Axes) -> Any:
    return np.min(x, axis=axes, keepdims=True, initial=_highest(x.dtype))


def _infer_position(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    data = rules.operand(node, operands, 0, "data", NUMBERS)
    axis = rules.axis(node, node.get("axis", 0), len(data.shape))
    if not data.shape[axis]:
        raise unsupported(node, "the axis that it searches is empty")
    shape = without(data.shape, (axis,), bool(node.get("keepdims", 1)))
    return (Tensor(np.dtype(np.int64), shape),)


def _position(name: str, function: Callable[..., Any]) -> Operator:
    def reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
        x = rules.array(arrays, 0)
        axis, keep = node.get("axis", 0) % x.ndim, bool(node.get("keepdims", 1))
        if node.get("select_last_index", 0):
            last = x.shape[axis] - 1
            return (np.asarray(last - function(np.flip(x, axis), axis=axis, keepdims=keep)),)
        return (np.asarray(function(x, axis=axis, keepdims=keep)),)

    return Operator(
        name, _infer_position, reference, frozenset({"axis", "keepdims", "select_last_index"})
    )


def _infer_running(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "x", WIDE)
    axis = rules.operand(node, operands, 1, "axis", rules.INDICES)
    rules.axis(node, int(rules.scalar(node, axis, "axis")), len(x.shape))
    return (Tensor(x.dtype, x.shape),)


def _running(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, axis = rules.array(arrays, 0), int(rules.array(arrays, 1).item())
    wide = np.moveaxis(x.astype(np.float64) if x.dtype.kind == "f" else x, axis, 0)
    back = -1 if node.get("reverse", 0) else 1
    wide = wide[::back]
    if node.get("exclusive", 0):
        wide = np.concatenate([np.zeros_like(wide[:1]), wide[:-1]])
    sums = np.cumsum(wide, axis=0, dtype=wide.dtype)[::back]
    return (np.moveaxis(sums, 0, axis).astype(x.dtype),)


_REDUCTIONS: dict[str, tuple[Callable[[np.ndarray, Axes], Any], Dtypes]] = {
    "ReduceL1": (lambda x, axes: _sum(np.abs(x), axes), WIDE),
    "ReduceL2": (lambda x, axes: np.sqrt(_sum(x * x, axes)), WIDE),
    "ReduceLogSum": (lambda x, axes: np.log(_sum(x, axes)), FLOATS),
    "ReduceLogSumExp": (_log_sum_exp, FLOATS),
    "ReduceMax": (_max, WIDE | BOOL | rules.dtypes("int8", "uint8")),
    "ReduceMean": (_mean, WIDE),
    "ReduceMin": (_min, WIDE | BOOL | rules.dtypes("int8", "uint8")),
    "ReduceProd": (
        lambda x, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype),
        WIDE,
    ),
    "ReduceSum": (_sum, WIDE),
    "ReduceSumSquare": (lambda x, axes: _sum(x * x, axes), WIDE),
}

OPERATORS = (
    *(_reduce(name, *meaning) for name, meaning in _REDUCTIONS.items()),
    _position("ArgMax", np.argmax),
    _position("ArgMin", np.argmin),
    Operator("CumSum", _infer_running, _running, frozenset({"exclusive", "reverse"})),
)
