"""Quantised networks, computed in float32: QuantizeLinear and its kin as the arithmetic they mean.

q = saturate(round(x / scale) + zero_point) and x = (q - zero_point) * scale, ties to even, as ONNX
defines them. Quantised constants become float32 constants that hold the values they stand for, so
the layers between them are layers like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.ops.quantised import LEVELS
from secateur.compiler.rewrites import Builder

_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}
INTEGERS = frozenset(map(np.dtype, ("int8", "uint8", "int16", "uint16")))
"""What a QuantizeLinear gives; a DequantizeLinear takes int32, too."""

F32 = np.dtype(np.float32)

EXACT = 2**24 // 255**2
"""Products of two integers of at most 255 whose sum float32 holds, in any order."""


def _along(node: Node, build: Builder, value: str, data: str, axis: int) -> str:
    """Return a scale or zero point as it meets the data: one, one for each index, or for blocks."""
    shape, whole = build.shape(value), build.shape(data)
    rank, block = len(whole), node.get("block_size", 0)
    if shape in ((), (1,)) and not block:
        return build.reshape(value, ()) if shape else value
    if -rank <= axis < rank:
        axis %= rank
        extent = whole[axis]
        if len(shape) == 1 and shape[0] == extent and not block:
            return build.reshape(value, (extent, *(1,) * (rank - 1 - axis)))
        if block > 0 and shape == (*whole[:axis], -(-extent // block), *whole[axis + 1 :]):
            which = np.arange(extent, dtype=np.int64) // block
            return build.add("Gather", value, build.constant(which), axis=axis)
    blocks = f" in blocks of {block}" if block else ""
    raise unsupported(
        node, f"a scale or zero point of shape {shape} along axis {axis} of {whole}{blocks}"
    )


def _check(node: Node, build: Builder, scale: str, zero: str) -> None:
    operand = build.operand(scale)
    if operand.dtype != F32:
        raise unsupported(node, f"a scale of {operand.dtype}")
    value = operand.value
    if value is not None and not ((value > 0) & (value < np.inf)).all():
        raise unsupported(node, "a scale that is not positive and finite")
    # one number is written () or (1,), as it comes: ONNX Runtime's tools mix them
    shapes = {build.shape(name) for name in (scale, zero) if name}
    if len(shapes) > 1 and shapes != {(), (1,)}:
        raise unsupported(
            node, f"a scale of shape {operand.shape} and a zero point of {build.shape(zero)}"
        )


def one_number(node: Node, build: Builder, scale: str, zero: str) -> None:
    """Refuse a scale or zero point of several numbers, where the operator takes one."""
    for name in filter(None, (scale, zero)):
        if build.shape(name) not in ((), (1,)):
            raise unsupported(
                node, f"a scale or zero point of shape {build.shape(name)} where one number is due"
            )


def _grid(build: Builder, scale: str, zero: str) -> dict[str, float] | None:
    """Return scale and zero point of a whole value, where they are known; None where not."""
    values = [build.operand(name).value if name else np.zeros(1, int) for name in (scale, zero)]
    found = [value.item() for value in values if value is not None and value.size == 1]
    return {"scale": found[0], "zero": found[1]} if len(found) == 2 else None


def _moving(build: Builder, scale: str, zero: str, dtype: np.dtype[np.generic]) -> tuple[str, str]:
    """Return scale and zero point of a whole value, known when the network runs; or ("", "")."""
    if build.shape(scale) not in ((), (1,)) or dtype not in LEVELS:
        return "", ""
    return scale, zero or build.constant(0, dtype)


def as_float(node: Node, build: Builder, given: tuple[str, ...], axis: int) -> str:
    """Return what quantised data, their scale and zero point stand for."""
    data, scale, zero = (*given, "")[:3]
    _check(node, build, scale, zero)
    grid = _grid(build, scale, zero)
    if grid and build.dtype(data) in LEVELS and not node.get("block_size", 0):
        return build.add("Dequantize", data, to=_NUMBERS[F32], **grid)
    moving = _moving(build, scale, zero, build.dtype(data))
    if all(moving) and not node.get("block_size", 0):
        return build.add("DequantizeBy", data, *moving)
    x = build.add("Cast", data, to=_NUMBERS[F32])
    if zero:  # differences of 16 bits are exact in float32
        away = build.add("Cast", _along(node, build, zero, data, axis), to=_NUMBERS[F32])
        x = build.add("Sub", x, away)
    return build.add("Mul", x, _along(node, build, scale, data, axis))


def as_integer(
    node: Node, build: Builder, given: tuple[str, ...], axis: int, dtype: np.dtype[np.generic]
) -> str:
    """Return float data as integers of a type, by a scale and zero point."""
    data, scale, zero = (*given, "")[:3]
    _check(node, build, scale, zero)
    grid = _grid(build, scale, zero)
    if grid and dtype in LEVELS and not node.get("block_size", 0):
        return build.add("Quantize", data, to=_NUMBERS[dtype], **grid)
    moving = _moving(build, scale, zero, dtype)
    if all(moving) and not node.get("block_size", 0):
        return build.add("QuantizeBy", data, *moving)
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
    return (as_integer(node, build, node.inputs, node.get("axis", 1), dtype),)


def _dequantize(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 2, 3)
    rules.operand(node, operands, 0, "x", INTEGERS | {np.dtype(np.int32)})
    return (as_float(node, build, node.inputs, node.get("axis", 1)),)


def _dynamic(node: Node, build: Builder) -> tuple[str, ...]:
    """DynamicQuantizeLinear: uint8 over the range of the data, which takes in 0."""
    rules.arity(node, build.operands(), 1, 1)
    rules.operand(node, build.operands(), 0, "x", frozenset({F32}))
    x = node.inputs[0]
    ends = (build.add(op, x, keepdims=0) for op in ("ReduceMax", "ReduceMin"))
    scale, point = build.several("DynamicGrid", *ends, outputs=2)
    y = build.add("QuantizeBy", x, scale, point)
    return y, scale, point


def _layer(
    node: Node, build: Builder, axis: int, make: Callable[[str, str, str], str]
) -> tuple[str, ...]:
    """A layer on quantised data: (x, scale, zero, w, scale, zero, scale, zero of the output, b).

    Of x and the output scales are one number. `QLinearMatMul` may have one for each row of x, which
    is refused: no runtime has it.
    """
    x, xs, xz, w, ws, wz, ys, yz, b = (*node.inputs, "")[:9]
    one_number(node, build, xs, xz)
    one_number(node, build, ys, yz)
    if build.dtype(yz).itemsize > 1 or build.dtype(yz) not in INTEGERS:
        raise unsupported(node, f"it gives {build.dtype(yz)}")
    first = as_float(node, build, (x, xs, xz), 1)
    second = as_float(node, build, (w, ws, wz), axis)
    bias = ""
    if b:  # int32 in steps of both scales
        scales = build.add("Mul", xs, ws)
        bias = build.add("Mul", build.add("Cast", b, to=_NUMBERS[F32]), scales)
    return (as_integer(node, build, (make(first, second, bias), ys, yz), 1, build.dtype(yz)),)


def _conv(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 8, 9)

    def make(x: str, w: str, b: str) -> str:
        return build.add("Conv", x, w, *filter(None, [b]), **node.attributes)

    return _layer(node, build, 0, make)


def _matmul(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 8, 8)
    rank = len(build.shape(node.inputs[3]))
    return _layer(node, build, rank - 1, lambda x, w, _: build.add("MatMul", x, w))


def _differences(node: Node, build: Builder, data: str, zero: str, axis: int) -> str:
    """Return integers of 8 bits less their zero point, as float32: of at most 255, and exact."""
    if build.dtype(data).itemsize > 1 or build.dtype(data) not in INTEGERS:
        raise unsupported(node, f"data of {build.dtype(data)}")
    x = build.add("Cast", data, to=_NUMBERS[F32])
    if not zero:
        return x
    away = build.add("Cast", _along(node, build, zero, data, axis), to=_NUMBERS[F32])
    return build.add("Sub", x, away)


def _in_parts(build: Builder, extent: int, part: int, make: Callable[[int, int], str]) -> str:
    """Return the sum, int32, of what is made of parts [from, to) of an axis that is summed over."""
    sums = [
        build.add("Cast", make(k, min(k + part, extent)), to=_NUMBERS[np.dtype(np.int32)])
        for k in range(0, extent, part)
    ]
    total = sums[0]
    for other in sums[1:]:
        total = build.add("Add", total, other)
    return total


def _part(build: Builder, value: str, axis: int, start: int, end: int) -> str:
    bounds = (build.constant([n], np.int64) for n in (start, end, axis))
    return build.add("Slice", value, *bounds)


def _matmul_integer(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 2, 4)
    a, b, a_zero, b_zero = (*node.inputs, "", "")[:4]
    ranks = len(build.shape(a)), len(build.shape(b))
    extent = build.shape(a)[-1] if ranks[0] else 0
    if min(ranks) < 2 or not extent or build.shape(b)[-2] != extent:
        raise unsupported(node, f"inputs of shapes {build.shape(a)} and {build.shape(b)}")
    x = _differences(node, build, a, a_zero, ranks[0] - 2)
    w = _differences(node, build, b, b_zero, ranks[1] - 1)

    def make(start: int, end: int) -> str:
        parts = _part(build, x, ranks[0] - 1, start, end), _part(build, w, ranks[1] - 2, start, end)
        return build.add("MatMul", *parts)

    return (_in_parts(build, extent, EXACT, make),)


def _conv_integer(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 2, 4)
    x, w, x_zero, w_zero = (*node.inputs, "", "")[:4]
    weight, groups = build.shape(w), node.get("group", 1)
    if len(weight) < 3 or len(build.shape(x)) != len(weight) or not prod(weight):
        raise unsupported(node, f"inputs of shapes {build.shape(x)} and {weight}")
    channels, taps = weight[1], prod(weight[2:])
    part = EXACT // taps
    if not part or (groups > 1 and part < channels):
        raise unsupported(node, f"{channels} channels of a group with {taps} taps each")
    data = _differences(node, build, x, x_zero, 1)
    kernel = _differences(node, build, w, w_zero, 0)

    def make(start: int, end: int) -> str:
        if groups > 1:
            return build.add("Conv", data, kernel, **node.attributes)
        parts = (_part(build, v, 1, start, end) for v in (data, kernel))
        return build.add("Conv", *parts, **node.attributes)

    return (_in_parts(build, channels, part, make),)


REWRITES = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QuantizeLinear": _quantize,
}

PRODUCTS = {"ConvInteger": _conv_integer, "MatMulInteger": _matmul_integer}
"""Rules for products of integers that no layer is made of: in float32, in parts that are exact."""
