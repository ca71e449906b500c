"""Operators of ONNX Runtime's QOperator format: a float operator between integers, in one node.

Each becomes what ONNX's own QDQ form of it becomes: floats, the operator, and integers again. They
are of the domain com.microsoft, and documented in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.ops.pooling import pool_window, tap_counts
from secateur.compiler.rewrites import Builder
from secateur.compiler.rewrites.quantised import INTEGERS, as_float, as_integer, one_number

DOMAIN = "com.microsoft"


def _float(node: Node, build: Builder, given: Sequence[str]) -> str:
    """Return what integers of 8 bits with one scale and zero point stand for."""
    data, scale, zero = given
    _check_data(node, build, data, scale)
    one_number(node, build, scale, zero)
    return as_float(node, build, (data, scale, zero), 1)


def _check_data(node: Node, build: Builder, data: str, scale: str) -> None:
    if not data or not scale:
        raise unsupported(node, "data or their scale are absent")
    dtype = build.dtype(data)
    if dtype.itemsize > 1 or dtype not in INTEGERS:
        raise unsupported(node, f"data of {dtype}")


def _done(node: Node, build: Builder, value: str, grid: Sequence[str], like: str) -> tuple[str]:
    """Return a float value as integers; without a zero point those that the data `like` are."""
    scale, zero = (*grid, "")[:2]
    if not scale:
        raise unsupported(node, "the scale of its output is absent")
    one_number(node, build, scale, zero)
    dtype = build.dtype(zero or like)
    if dtype.itemsize > 1 or dtype not in INTEGERS:
        raise unsupported(node, f"it gives {dtype}")
    return (as_integer(node, build, (value, scale, zero), 1, dtype),)


def _given(node: Node, build: Builder, most: int, *known: str) -> list[str]:
    """Return the inputs of a node, those that are absent as "": zero points may be.

    Args:
        most: inputs.
        known: attributes; ONNX does not know the operator, and so checks none.
    """
    rules.arity(node, build.operands(), 1, most)
    if unknown := sorted(set(node.attributes) - set(known)):
        raise unsupported(node, f"attribute {unknown[0]!r} is not known")
    return [*node.inputs, *[""] * (most - len(node.inputs))]


def _of_two(op: str) -> Callable[[Node, Builder], tuple[str, ...]]:
    def rule(node: Node, build: Builder) -> tuple[str, ...]:
        given = _given(node, build, 8)
        made = build.add(op, _float(node, build, given[:3]), _float(node, build, given[3:6]))
        return _done(node, build, made, given[6:], given[0])

    return rule


def _of_one(op: str, *names: str) -> Callable[[Node, Builder], tuple[str, ...]]:
    """Return the rule of an operator of one input, that has the attributes `names`."""

    def rule(node: Node, build: Builder) -> tuple[str, ...]:
        given = _given(node, build, 5, *names, *(["channels_last"] if "Pool" in op else []))
        if node.get("channels_last", 0):
            raise unsupported(node, "channels_last=1")
        attributes = {name: node.attributes[name] for name in names if name in node.attributes}
        made = build.add(op, _float(node, build, given[:3]), **attributes)
        return _done(node, build, made, given[3:], given[0])

    return rule


def _softmax(node: Node, build: Builder) -> tuple[str, ...]:
    given = _given(node, build, 5, "axis", "opset")
    x, axis, old = _float(node, build, given[:3]), node.get("axis", -1), node.get("opset", 13) < 13
    shape = build.shape(x)
    if not old:
        made = build.add("Softmax", x, axis=axis)
        return _done(node, build, made, given[3:], given[0])
    if not -len(shape) <= axis < len(shape):
        raise unsupported(node, f"axis={axis} of {len(shape)}")
    axis %= len(shape)  # before operator set 13 it went over all axes from this one on
    rest = int(np.prod(shape[axis:], dtype=np.int64))
    made = build.add("Softmax", build.reshape(x, (*shape[:axis], rest)), axis=axis)
    return _done(node, build, build.reshape(made, shape), given[3:], given[0])


def _concat(node: Node, build: Builder) -> tuple[str, ...]:
    count = len(node.inputs) - 2
    given = _given(node, build, max(1, len(node.inputs)), "axis")
    if count % 3 or not count:
        raise unsupported(node, f"{count} inputs, not three for each part")
    parts = [_float(node, build, given[k : k + 3]) for k in range(2, count + 2, 3)]
    made = build.add("Concat", *parts, axis=node.get("axis", 0))
    return _done(node, build, made, given[:2], given[2])


def _gemm(node: Node, build: Builder) -> tuple[str, ...]:
    """QGemm: the sums have int32 in steps of both scales added; without a last scale, in float."""
    given = _given(node, build, 9, "alpha", "transA", "transB")
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = given
    if y_scale and not y_zero:  # ONNX Runtime gives floats, in steps of that scale
        raise unsupported(node, "its output has a scale and no zero point")
    turned, alpha = node.get("transB", 0), float(node.get("alpha", 1.0))
    first = _float(node, build, (a, a_scale, a_zero))
    _check_data(node, build, b, b_scale)
    second = as_float(node, build, (b, b_scale, b_zero), 0 if turned else 1)
    flags = {"transA": node.get("transA", 0), "transB": turned}
    if c:
        scales = build.add("Mul", a_scale, b_scale)
        number = build.constant(alpha, np.float32)
        bias = build.add("Mul", build.add("Cast", c, to=1), build.add("Mul", scales, number))
        made = build.add("Gemm", first, second, bias, alpha=alpha, **flags)
    else:
        made = build.add("Gemm", first, second, alpha=alpha, **flags)
    return _done(node, build, made, (y_scale, y_zero), a) if y_scale else (made,)


def _average(node: Node, build: Builder) -> tuple[str, ...]:
    """Windows may hang over where none of their positions beyond the padding counts."""
    form = pool_window(node, build.shape(node.inputs[0])[2:])
    counts = tap_counts(form, build.shape(node.inputs[0])[2:], padding=True)
    over = any((n < k).any() for n, k in zip(counts, form.kernel, strict=True))
    if over and node.get("count_include_pad", 0):
        raise unsupported(
            node, "ceil_mode with count_include_pad, which ONNX Runtime counts unlike ONNX"
        )
    return _of_one("AveragePool", *_POOL)(node, build)


_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

REWRITES = {
    "QGemm": _gemm,
    "QLinearAdd": _of_two("Add"),
    "QLinearAveragePool": _average,
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _of_one("GlobalAveragePool"),
    "QLinearLeakyRelu": _of_one("LeakyRelu", "alpha"),
    "QLinearMul": _of_two("Mul"),
    "QLinearSigmoid": _of_one("Sigmoid"),
    "QLinearSoftmax": _softmax,
}
