"""Levels by a scale and zero point that are known when the network runs; and sums of levels.

`QuantizeBy` and `DequantizeBy` do what `Quantize` and `Dequantize` do, for scalars that are inputs.
"""

from __future__ import annotations

from math import prod

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.convolution import conv_shape, convolve
from secateur.compiler.ops.quantised import LEVELS, level
from secateur.compiler.ops.rules import FLOATS, Operands

INT32 = np.dtype(np.int32)
_LEVELS = rules.dtypes("uint8")


def _infer_grid(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    high, low = (rules.operand(node, operands, k, name, FLOATS) for k, name in enumerate("ab"))
    if high.shape or low.shape:
        raise unsupported(node, f"ends of shapes {high.shape} and {low.shape}")
    return Tensor(high.dtype, ()), Tensor(np.dtype(np.uint8), ())


@np.errstate(all="ignore")
def _grid(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """ONNX's DynamicQuantizeLinear: 0 is a level; where all is 0, ONNX Runtime has steps of 1."""
    high, low = (rules.array(arrays, k) for k in (0, 1))
    zero = high.dtype.type(0)
    low = np.minimum(low, zero)
    scale = (np.maximum(high, zero) - low) / high.dtype.type(255)
    scale = np.asarray(np.where(scale == 0, high.dtype.type(1), scale))
    return scale, level(-low / scale, 0, 0, 255).astype(np.uint8)


def single(node: Node, operands: Operands, index: int, name: str, dtypes: rules.Dtypes) -> Operand:
    """Return an operand that must be a single number."""
    found = rules.operand(node, operands, index, name, dtypes)
    if prod(found.shape) != 1 or len(found.shape) > 1:
        raise unsupported(node, f"a {name} of shape {found.shape}")
    return found


def _infer_quantize(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 3)
    x = rules.operand(node, operands, 0, "x", FLOATS)
    single(node, operands, 1, "scale", FLOATS)
    return (Tensor(single(node, operands, 2, "zero point", LEVELS).dtype, x.shape),)


@np.errstate(all="ignore")
def _quantize(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, scale, zero = (rules.array(arrays, k) for k in range(3))
    info = np.iinfo(zero.dtype)
    return (level(x / scale, int(zero.item()), info.min, info.max).astype(zero.dtype),)


def _infer_dequantize(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 3)
    q = rules.operand(node, operands, 0, "q", LEVELS)
    scale = single(node, operands, 1, "scale", FLOATS)
    single(node, operands, 2, "zero point", LEVELS)
    return (Tensor(scale.dtype, q.shape),)


@np.errstate(all="ignore")
def _dequantize(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    q, scale, zero = (rules.array(arrays, k) for k in range(3))
    away = q.astype(scale.dtype) - zero.astype(scale.dtype)
    return (np.asarray(away * scale, scale.dtype).reshape(q.shape),)


def _infer_terms(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 4, 4)
    single(node, operands, 0, "scale", FLOATS)
    single(node, operands, 1, "zero point", _LEVELS)
    rows = rules.operand(node, operands, 2, "rows", rules.dtypes("int32"))
    steps = rules.operand(node, operands, 3, "steps", FLOATS)
    return Tensor(INT32, rows.shape), Tensor(steps.dtype, steps.shape)


@np.errstate(all="ignore")
def _terms(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    scale, zero, rows, steps = (rules.array(arrays, k) for k in range(4))
    return (-rows * zero.astype(INT32)).reshape(rows.shape), (steps * scale).reshape(steps.shape)


def _away(node: Node, arrays: Arrays, axes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return data and weights less their zero points, which belong to an axis, float64."""
    found = []
    for k, axis in enumerate(axes):
        x = rules.array(arrays, k)
        zero = arrays[k + 2] if len(arrays) > k + 2 else None
        if zero is None:
            zero = np.zeros((), x.dtype)
        if zero.ndim == 1:
            zero = zero.reshape(-1, *(1,) * (x.ndim - 1 - axis % x.ndim))
        found.append(x.astype(np.float64) - zero.astype(np.float64))
    return found[0], found[1]


def _data(node: Node, operands: Operands) -> tuple[Operand, Operand]:
    rules.arity(node, operands, 2, 4)
    found = [rules.operand(node, operands, k, "xw"[k]) for k in (0, 1)]
    for operand in found:
        if operand.dtype not in LEVELS:
            raise unsupported(node, f"data of {operand.dtype}")
    return found[0], found[1]


def _refuse(node: Node, x: Operand, w: Operand) -> None:
    raise unsupported(node, f"inputs of shapes {x.shape} and {w.shape}")


def _infer_matmul(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    a, b = _data(node, operands)
    if min(len(a.shape), len(b.shape)) < 2 or not a.shape[-1] or b.shape[-2] != a.shape[-1]:
        _refuse(node, a, b)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (Tensor(INT32, (*lead, a.shape[-2], b.shape[-1])),)


def _matmul(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    a, b = _away(node, arrays, (-2, -1))  # in float64 these sums are exact
    return ((a @ b).astype(np.int64).astype(INT32),)


def _infer_conv(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x, w = _data(node, operands)
    if len(w.shape) < 3 or len(x.shape) != len(w.shape) or not prod(w.shape):
        _refuse(node, x, w)
    return (Tensor(INT32, conv_shape(node, x.shape, w.shape, None)),)


def _conv(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w = _away(node, arrays, (1, 0))
    return (convolve(node, x, w, None).astype(np.int64).astype(INT32),)


_WINDOW = {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"}

OPERATORS = (
    Operator("DynamicGrid", _infer_grid, _grid),
    Operator("QuantizeBy", _infer_quantize, _quantize),
    Operator("DequantizeBy", _infer_dequantize, _dequantize),
    Operator("QuadTerms", _infer_terms, _terms),
    Operator("MatMulInteger", _infer_matmul, _matmul),
    Operator("ConvInteger", _infer_conv, _conv, frozenset(_WINDOW)),
)
