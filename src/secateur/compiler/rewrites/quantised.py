"""Quantised networks, computed in float32: QuantizeLinear and its kin as the arithmetic they mean.

q = saturate(round(x / scale) + zero_point) and x = (q - zero_point) * scale, ties to even, as ONNX
defines them. Quantised constants become float32 constants that hold the values they stand for, so
the layers between them are layers like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.rewrites import Builder

_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}
INTEGERS = frozenset(map(np.dtype, ("int8", "uint8", "int16", "uint16")))
"""What a QuantizeLinear gives; a DequantizeLinear takes int32, too."""

F32 = np.dtype(np.float32)


def _along(node: Node, build: Builder, value: str, data: str, axis: int) -> str:
    """Return a scale or zero point that lies along its axis of the data."""
    shape, whole = build.shape(value), build.shape(data)
    if shape in ((), (1,)):
        return build.reshape(value, ()) if shape else value
    rank = len(whole)
    if len(shape) != 1 or not -rank <= axis < rank or whole[axis] != shape[0]:
        raise unsupported(
            node, f"a scale or zero point of shape {shape} along axis {axis} of {whole}; blocks of "
            "a tensor with a scale each are not supported"
        )  # fmt: skip
    return build.reshape(value, (shape[0], *(1,) * (rank - 1 - axis % rank)))


def _check(node: Node, build: Builder, scale: str, zero: str) -> None:
    if node.get("block_size", 0):
        raise unsupported(node, "block_size, a scale for each block of a tensor")
    operand = build.operand(scale)
    if operand.dtype != F32:
        raise unsupported(node, f"a scale of {operand.dtype}")
    if operand.value is not None and not (operand.value > 0).all():
        raise unsupported(node, "a scale that is not positive")
    if zero and build.shape(zero) != build.shape(scale):
        raise unsupported(
            node, f"a scale of shape {operand.shape} and a zero point of {build.shape(zero)}"
        )


def _float(node: Node, build: Builder, given: tuple[str, ...], axis: int) -> str:
    """Return what quantised data, their scale and zero point stand for."""
    data, scale, zero = (*given, "")[:3]
    _check(node, build, scale, zero)
    x = build.add("Cast", data, to=_NUMBERS[F32])
    if zero:  # differences of 16 bits are exact in float32
        away = build.add("Cast", _along(node, build, zero, data, axis), to=_NUMBERS[F32])
        x = build.add("Sub", x, away)
    return build.add("Mul", x, _along(node, build, scale, data, axis))


def _integer(
    node: Node, build: Builder, given: tuple[str, ...], axis: int, dtype: np.dtype[np.generic]
) -> str:
    """Return float data as integers of a type, by a scale and zero point."""
    data, scale, zero = (*given, "")[:3]
    _check(node, build, scale, zero)
    steps = build.add("Div", data, _along(node, build, scale, data, axis))
    y = build.add("Round", steps)
    if zero:
        moved = build.add("Cast", _along(node, build, zero, data, axis), to=_NUMBERS[F32])
        y = build.add("Add", y, moved)
    info = np.iinfo(dtype.name)
    low, high = (build.constant(end, F32) for end in (info.min, info.max))
    return build.add("Cast", build.add("Clip", y, low, high), to=_NUMBERS[dtype])


def _quantize(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 2, 3)
    rules.operand(node, operands, 0, "x", frozenset({F32}))
    zero = (*node.inputs, "")[2]
    number = node.get("output_dtype", 0)
    dtype = ELEMENT_TYPES.get(number) if number else np.dtype(np.uint8)
    dtype = build.dtype(zero) if zero else dtype
    if dtype not in INTEGERS or (number and ELEMENT_TYPES.get(number) != dtype):
        raise unsupported(node, f"it gives {dtype or f'element type {number}'}")
    return (_integer(node, build, node.inputs, node.get("axis", 1), dtype),)


def _dequantize(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 2, 3)
    rules.operand(node, operands, 0, "x", INTEGERS | {np.dtype(np.int32)})
    return (_float(node, build, node.inputs, node.get("axis", 1)),)


def _dynamic(node: Node, build: Builder) -> tuple[str, ...]:
    """DynamicQuantizeLinear: uint8 over the range of the data, which takes in 0."""
    rules.arity(node, build.operands(), 1, 1)
    x = node.inputs[0]
    zero, steps = build.constant(0, F32), build.constant(255, F32)
    high = build.add("Max", build.add("ReduceMax", x, keepdims=0), zero)
    low = build.add("Min", build.add("ReduceMin", x, keepdims=0), zero)
    scale = build.add("Div", build.add("Sub", high, low), steps)
    flat = build.add("Equal", scale, zero)  # all data are 0: ONNX Runtime takes steps of 1
    scale = build.add("Where", flat, build.constant(1, F32), scale)
    start = build.add("Round", build.add("Div", build.add("Neg", low), scale))
    point = build.add(
        "Cast", build.add("Clip", start, zero, steps), to=_NUMBERS[np.dtype(np.uint8)]
    )
    y = _integer(node, build, (x, scale, point), 0, np.dtype(np.uint8))
    return y, scale, point


def _layer(
    node: Node, build: Builder, axis: int, make: Callable[[str, str, str], str]
) -> tuple[str, ...]:
    """A layer on quantised data: (x, scale, zero, w, scale, zero, scale, zero of the output, b)."""
    x, xs, xz, w, ws, wz, ys, yz, b = (*node.inputs, "")[:9]
    if build.dtype(yz).itemsize > 1 or build.dtype(yz) not in INTEGERS:
        raise unsupported(node, f"it gives {build.dtype(yz)}")
    first = _float(node, build, (x, xs, xz), 1)
    second = _float(node, build, (w, ws, wz), axis)
    bias = ""
    if b:  # int32 in steps of both scales
        scales = build.add("Mul", xs, ws)
        bias = build.add("Mul", build.add("Cast", b, to=_NUMBERS[F32]), scales)
    return (_integer(node, build, (make(first, second, bias), ys, yz), 1, build.dtype(yz)),)


def _conv(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 8, 9)

    def make(x: str, w: str, b: str) -> str:
        return build.add("Conv", x, w, *filter(None, [b]), **node.attributes)

    return _layer(node, build, 0, make)


def _matmul(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 8, 8)
    rank = len(build.shape(node.inputs[3]))
    return _layer(node, build, rank - 1, lambda x, w, _: build.add("MatMul", x, w))


def _refused(node: Node, _build: Builder, *, instead: str) -> tuple[str, ...]:
    raise unsupported(
        node, f"sums of integers are not exact in float32; quantise the model with {instead}"
    )


REWRITES = {
    "ConvInteger": partial(_refused, instead="QuantizeLinear and DequantizeLinear (QDQ)"),
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "MatMulInteger": partial(_refused, instead="QuantizeLinear and DequantizeLinear (QDQ)"),
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QuantizeLinear": _quantize,
}
