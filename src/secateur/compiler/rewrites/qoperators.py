"""Operators of ONNX Runtime's QOperator format: a float operator between integers, in one node.

Each becomes what ONNX's own QDQ form of it becomes: floats, the operator, and integers again. They
are of the domain com.microsoft, and documented in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.rewrites import Builder
from secateur.compiler.rewrites.quantised import INTEGERS, as_float, as_integer

DOMAIN = "com.microsoft"


def _float(node: Node, build: Builder, given: Sequence[str], axis: int = 1) -> str:
    """Return what integers of 8 bits, their scale and zero point stand for."""
    data, scale, zero = given
    if not data or not scale:
        raise unsupported(node, "data or their scale are absent")
    dtype = build.dtype(data)
    if dtype.itemsize > 1 or dtype not in INTEGERS:
        raise unsupported(node, f"data of {dtype}")
    return as_float(node, build, (data, scale, zero), axis)


def _done(node: Node, build: Builder, value: str, grid: Sequence[str]) -> tuple[str, ...]:
    """Return a float value as integers; uint8 where there is no zero point."""
    scale, zero = (*grid, "")[:2]
    if not scale:
        raise unsupported(node, "the scale of its output is absent")
    dtype = build.dtype(zero) if zero else np.dtype(np.uint8)
    if dtype.itemsize > 1 or dtype not in INTEGERS:
        raise unsupported(node, f"it gives {dtype}")
    return (as_integer(node, build, (value, scale, zero), 1, dtype),)


def _given(node: Node, build: Builder, most: int) -> list[str]:
    """Return the inputs of a node, those that are absent as "": zero points may be."""
    rules.arity(node, build.operands(), 1, most)
    return [*node.inputs, *[""] * (most - len(node.inputs))]


def _of_two(op: str) -> Callable[[Node, Builder], tuple[str, ...]]:
    def rule(node: Node, build: Builder) -> tuple[str, ...]:
        given = _given(node, build, 8)
        made = build.add(op, _float(node, build, given[:3]), _float(node, build, given[3:6]))
        return _done(node, build, made, given[6:])

    return rule


def _of_one(op: str, *names: str) -> Callable[[Node, Builder], tuple[str, ...]]:
    """Return the rule of an operator of one input, that has the attributes `names`."""

    def rule(node: Node, build: Builder) -> tuple[str, ...]:
        given = _given(node, build, 5)
        if node.get("channels_last", 0):
            raise unsupported(node, "channels_last=1")
        attributes = {name: node.attributes[name] for name in names if name in node.attributes}
        made = build.add(op, _float(node, build, given[:3]), **attributes)
        return _done(node, build, made, given[3:])

    return rule


def _softmax(node: Node, build: Builder) -> tuple[str, ...]:
    given = _given(node, build, 5)
    x, axis, old = _float(node, build, given[:3]), node.get("axis", -1), node.get("opset", 13) < 13
    shape = build.shape(x)
    if not old:
        return _done(node, build, build.add("Softmax", x, axis=axis), given[3:])
    if not -len(shape) <= axis < len(shape):
        raise unsupported(node, f"axis={axis} of {len(shape)}")
    axis %= len(shape)  # before operator set 13 it went over all axes from this one on
    rest = int(np.prod(shape[axis:], dtype=np.int64))
    made = build.add("Softmax", build.reshape(x, (*shape[:axis], rest)), axis=axis)
    return _done(node, build, build.reshape(made, shape), given[3:])


def _concat(node: Node, build: Builder) -> tuple[str, ...]:
    count = len(node.inputs) - 2
    rules.arity(node, build.operands(), 1, max(1, len(node.inputs)))
    if count % 3 or not count:
        raise unsupported(node, f"{count} inputs, not three for each part")
    parts = [_float(node, build, node.inputs[k : k + 3]) for k in range(2, count + 2, 3)]
    made = build.add("Concat", *parts, axis=node.get("axis", 0))
    return _done(node, build, made, node.inputs[:2])


def _gemm(node: Node, build: Builder) -> tuple[str, ...]:
    """QGemm: the sums have int32 in steps of both scales added; without a last scale, in float."""
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = _given(node, build, 9)
    turned, alpha = node.get("transB", 0), float(node.get("alpha", 1.0))
    first = _float(node, build, (a, a_scale, a_zero))
    second = _float(node, build, (b, b_scale, b_zero), 0 if turned else 1)
    flags = {"transA": node.get("transA", 0), "transB": turned}
    if c:
        scales = build.add("Mul", a_scale, b_scale)
        number = build.constant(alpha, np.float32)
        bias = build.add("Mul", build.add("Cast", c, to=1), build.add("Mul", scales, number))
        made = build.add("Gemm", first, second, bias, alpha=alpha, **flags)
    else:
        made = build.add("Gemm", first, second, alpha=alpha, **flags)
    return _done(node, build, made, (y_scale, y_zero)) if y_scale else (made,)


_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

REWRITES = {
    "QGemm": _gemm,
    "QLinearAdd": _of_two("Add"),
    "QLinearAveragePool": _of_one("AveragePool", *_POOL),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _of_one("GlobalAveragePool"),
    "QLinearLeakyRelu": _of_one("LeakyRelu", "alpha"),
    "QLinearMul": _of_two("Mul"),
    "QLinearSigmoid": _of_one("Sigmoid"),
    "QLinearSoftmax": _softmax,
}
