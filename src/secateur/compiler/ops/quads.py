"""Secateur's own operators on quads: levels of four channels side by side in one uint32.

Channel 4 i + k is byte k of quad i (the lowest byte is k = 0); channels that only fill the last
quad hold anything. Every level is uint8. Sums are exact, in int32; a sum becomes a number, or a
level, by one multiplication in float32 and one rounding to nearest, ties to even. So what these
give is defined to the last bit, and every kernel must give it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, pooling, rules
from secateur.compiler.ops.convolution import conv_shape, convolve, filled
from secateur.compiler.ops.dynamic import single
from secateur.compiler.ops.fused import activate
from secateur.compiler.ops.quantised import level
from secateur.compiler.ops.rules import Operands

F32, QUAD = np.dtype(np.float32), np.dtype(np.uint32)
_FLOAT, _QUADS, _BYTES = (rules.dtypes(n) for n in ("float32", "uint32", "int8"))


def count(channels: int) -> int:
    """Return how many quads hold so many channels."""
    return -(-channels // 4)


def pack(levels: np.ndarray, axis: int) -> np.ndarray:
    """Return levels, uint8, as quads along an axis; the last one is filled up with zeros."""
    last = np.moveaxis(levels, axis, -1)
    room = count(last.shape[-1]) * 4 - last.shape[-1]
    last = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, room)])
    return np.moveaxis(np.ascontiguousarray(last).view("<u4"), -1, axis).astype(QUAD)


def unpack(quads: np.ndarray, axis: int) -> np.ndarray:
    """Return quads as levels, uint8, four times as many along an axis."""
    last = np.ascontiguousarray(np.moveaxis(quads, axis, -1))
    return np.moveaxis(last.astype("<u4").view(np.uint8), -1, axis)


def _swapped(shape: tuple[int, ...], axis: int, extent: int) -> tuple[int, ...]:
    return (*shape[:axis], extent, *shape[axis + 1 :])


def _infer_to(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 3)
    x = rules.operand(node, operands, 0, "x", _FLOAT)
    if len(operands) > 1:
        single(node, operands, 1, "scale", _FLOAT)
        single(node, operands, 2, "zero point", rules.dtypes("uint8"))
    axis = rules.axis(node, node.get("axis"), len(x.shape))
    return (Tensor(QUAD, _swapped(x.shape, axis, count(x.shape[axis]))),)


@np.errstate(all="ignore")
def _to(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, zero = rules.array(arrays, 0), node.get("zero", 0)
    scale = np.asarray(node.get("scale", 1), F32)
    if len(arrays) > 1:  # known when the network runs
        scale, zero = rules.array(arrays, 1), int(rules.array(arrays, 2).item())
    levels = level(x / scale, zero, 0, 255)
    return (pack(levels.astype(np.uint8), node.get("axis")),)


def _infer_from(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    q = rules.operand(node, operands, 0, "q", _QUADS)
    axis, channels = node.get("axis"), node.get("channels")
    if count(channels) != q.shape[axis]:
        raise unsupported(node, f"{channels} channels in quads of shape {q.shape}")
    return (Tensor(F32, _swapped(q.shape, axis, channels)),)


def _from(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    axis = node.get("axis")
    levels = unpack(rules.array(arrays, 0), axis).take(range(node.get("channels")), axis)
    return ((levels.astype(F32) - F32.type(node.get("zero"))) * F32.type(node.get("scale")),)


def _layer(node: Node, operands: Operands, shape: tuple[int, ...], axis: int) -> tuple[Tensor, ...]:
    """Return the type of a layer's output, whose shape in channels is given."""
    outputs = shape[axis]
    for index, name, allowed in ((2, "b", rules.dtypes("int32")), (3, "factor", _FLOAT)):
        if rules.operand(node, operands, index, name, allowed).shape != (outputs,):
            raise unsupported(node, f"its {name} does not have {outputs} numbers")
    quads = bool(node.get("quads"))
    y = Tensor(QUAD, _swapped(shape, axis, count(outputs))) if quads else Tensor(F32, shape)
    r = rules.optional(node, operands, 4, "r", _QUADS if quads else _FLOAT)
    if r is not None and r.shape != y.shape:
        raise unsupported(node, f"a residual of shape {r.shape} for an output of {y.shape}")
    more = rules.optional(node, operands, 5, "more", _FLOAT)
    if more is not None and (quads or more.shape != (outputs,)):
        raise unsupported(node, f"{more.shape} numbers to add to an output of {y}")
    return (y,)


def _infer_conv(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 4, 6)
    x = rules.operand(node, operands, 0, "x", _QUADS)
    w = rules.operand(node, operands, 1, "w", _BYTES)
    channels = w.shape[1] * node.get("group", 1)
    if count(channels) != x.shape[1]:
        raise unsupported(node, f"{channels} channels of quads of shape {x.shape}")
    shape = conv_shape(node, _swapped(x.shape, 1, channels), w.shape, None)
    return _layer(node, operands, shape, 1)


def _conv(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w, b, factor, r, more = filled(arrays, 6)
    channels = w.shape[1] * node.get("group", 1)
    zero = np.float64(node.get("zero"))
    # beside the plane lie levels of 0; in float64 all these integers are exact
    away = unpack(x, 1)[:, :channels].astype(np.float64) - zero
    sums = convolve(node, away, w.astype(np.float64), None)
    sums += zero * _total(w).reshape(-1, *(1,) * (x.ndim - 2))
    return (_finished(node, sums, (b, factor, r, more), 1),)


def _total(w: np.ndarray) -> np.ndarray:
    return np.asarray(w.reshape(len(w), -1).astype(np.float64).sum(1))


def _infer_linear(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 4, 6)
    x = rules.operand(node, operands, 0, "x", _QUADS)
    w = rules.operand(node, operands, 1, "w", _BYTES)
    if len(w.shape) != 2 or count(w.shape[1]) != x.shape[-1]:
        raise unsupported(node, f"quads of shape {x.shape} and a weight of {w.shape}")
    return _layer(node, operands, (*x.shape[:-1], w.shape[0]), len(x.shape) - 1)


def _linear(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, w, b, factor, r, more = filled(arrays, 6)
    levels = unpack(x, -1)[..., : w.shape[1]].astype(np.float64)
    return (_finished(node, levels @ w.astype(np.float64).T, (b, factor, r, more), x.ndim - 1),)


def _finished(
    node: Node,
    sums: np.ndarray,
    rest: tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None],
    axis: int,
) -> np.ndarray:
    """Return what becomes of exact sums of levels and weights.

    Args:
        node: says which.
        sums: float64 of integers, channels along an axis.
        rest: bias, int32; factor, float32; residual; what is added to numbers, float32.
        axis: of the channels.
    """
    b, factor, r, more = rest
    along = (-1, *(1,) * (sums.ndim - 1 - axis))
    y = (sums + b.reshape(along)).astype(F32) * factor.reshape(along)
    if more is not None:
        y = y + more.reshape(along)
    if not node.get("quads"):
        return np.asarray(activate(node, y if r is None else y + r), F32)
    if r is not None:
        its = unpack(r, axis).take(range(y.shape[axis]), axis).astype(F32)
        y += (its - F32.type(node.get("res_zero"))) * F32.type(node.get("res_factor"))
    levels = level(y, node.get("out_zero"), node.get("low"), node.get("high"))
    return pack(levels.astype(np.uint8), axis)


def _infer_add(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    a, b = (rules.operand(node, operands, k, "ab"[k], _QUADS) for k in (0, 1))
    if a.shape != b.shape:
        raise unsupported(node, f"quads of shapes {a.shape} and {b.shape}")
    return (Tensor(QUAD, a.shape),)


def _add(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    total = np.zeros((), F32)
    for k in (0, 1):
        away = unpack(rules.array(arrays, k), -1).astype(F32) - F32.type(node.get("zeros")[k])
        total = total + away * F32.type(node.get("factors")[k])
    levels = level(total, node.get("out_zero"), node.get("low"), node.get("high"))
    return (pack(levels.astype(np.uint8), -1),)


def _infer_pool(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "x", _QUADS)
    outputs = pooling.pool_window(node, x.shape[2:]).outputs
    return (Tensor(QUAD, (*x.shape[:2], *outputs)),)


def _pool(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    levels = unpack(rules.array(arrays, 0), 1)
    plain = replace(node, op="MaxPool")
    (pooled,) = next(o for o in pooling.OPERATORS if o.name == "MaxPool").reference(
        plain, (levels,)
    )[:1]
    return (pack(pooled, 1),)


def mean_terms(node: Node, spatial: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return what a `QuadAveragePool` adds to each window's sum of levels, and its factor.

    Padding counts as the number 0 where it counts at all, and so adds nothing.

    Args:
        node: the operator. spatial: extents of the plane.

    Returns:
        int32 and float32, both [*outputs].
    """
    form = pooling.pool_window(node, spatial)
    taps = np.ones((1,) * len(spatial), np.int64)
    for k, count in enumerate(pooling.tap_counts(form, spatial, padding=False)):
        taps = taps * count.reshape(-1, *(1,) * (len(spatial) - 1 - k))
    divisors = pooling.pool_divisors(node, form, spatial).astype(np.float64)
    factors = np.float64(node.get("scale")) / np.float64(node.get("step")) / divisors
    return (-node.get("zero") * taps).astype(np.int32), factors.astype(F32)


def _infer_mean(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "x", _QUADS)
    outputs, channels = pooling.pool_window(node, x.shape[2:]).outputs, node.get("channels")
    if count(channels) != x.shape[1]:
        raise unsupported(node, f"{channels} channels in quads of shape {x.shape}")
    if node.get("quads"):
        return (Tensor(QUAD, (*x.shape[:2], *outputs)),)
    return (Tensor(F32, (x.shape[0], channels, *outputs)),)


def _mean(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    levels = unpack(rules.array(arrays, 0), 1)[:, : node.get("channels")].astype(np.int64)
    form = pooling.pool_window(node, levels.shape[2:])
    offsets, factors = mean_terms(node, levels.shape[2:])
    padded = form.pad(levels)
    sums = np.zeros((*levels.shape[:2], *form.outputs), np.int64)
    for _, seen in form.taps():
        sums += padded[seen]
    y = (sums + offsets).astype(F32) * factors
    if not node.get("quads"):
        return (y,)
    steps = level(y, node.get("out_zero"), node.get("low"), node.get("high"))
    return (pack(steps.astype(np.uint8), 1),)


def _infer_table(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "x", _QUADS)
    table = rules.operand(node, operands, 1, "table", rules.dtypes("uint8"))
    if table.shape != (256,):
        raise unsupported(node, f"a table of shape {table.shape}")
    return (Tensor(QUAD, x.shape),)


def _table(_node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    return (pack(rules.array(arrays, 1)[unpack(rules.array(arrays, 0), -1)], -1),)


_WINDOW = {"dilations", "group", "pads", "strides"}
_POOL = {"ceil_mode", "dilations", "kernel_shape", "pads", "strides"}
_LAYER = {
    *("quads", "out_zero", "low", "high", "res_zero", "res_factor"),
    *("activation", "alpha", "beta"),
}

OPERATORS = (
    Operator("ToQuads", _infer_to, _to, frozenset({"axis", "scale", "zero"})),
    Operator("FromQuads", _infer_from, _from, frozenset({"axis", "channels", "scale", "zero"})),
    Operator("QuadConv", _infer_conv, _conv, frozenset({*_WINDOW, *_LAYER, "zero"})),
    Operator("QuadLinear", _infer_linear, _linear, frozenset(_LAYER)),
    Operator(
        "QuadAdd", _infer_add, _add, frozenset({"zeros", "factors", "out_zero", "low", "high"})
    ),
    Operator("QuadMaxPool", _infer_pool, _pool, frozenset({*_POOL, "storage_order"})),
    Operator(
        "QuadAveragePool",
        _infer_mean,
        _mean,
        frozenset(
            {
                *(*_POOL, "count_include_pad", "channels", "quads"),
                *("scale", "zero", "step", "out_zero", "low", "high"),
            }
        ),
    ),
    Operator("QuadTable", _infer_table, _table),
)
