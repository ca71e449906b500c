"""Depthwise convolutions on quads; see `c/quad_depthwise.h`."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Machine, Place, Step
from secateur.compiler.kernels.elementwise import activation
from secateur.compiler.kernels.windows import window


def fits(node: Node, weight: np.ndarray) -> bool:
    """Whether a `QuadConv` is one of these."""
    return bool(node.get("group", 1) == len(weight) > 1 and weight.shape[1] == 1)


def _words(weight: np.ndarray) -> np.ndarray:
    """Return weights, int8 [channels, 1, high, wide], as `sec_quad_windows` has them, int32."""
    channels, _, high, wide = weight.shape
    fours = -(-wide // 4)
    padded = np.zeros((channels, high, 4 * fours), np.int8)
    padded[:, :, :wide] = weight[:, 0]
    quads = padded.reshape(channels // 4, 4, high, fours, 4).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(quads).view("<i4")[..., 0].astype(np.int32)


def _rows(high: int, machine: Machine) -> int:
    """Return how many outputs, one below the other, are done at once: four sums for each."""
    most = 4 if machine.registers >= 32 else 2
    return min(high, most)


def write(
    body: Body,
    node: Node,
    weight: np.ndarray,
    bias: np.ndarray,
    places: tuple[Place, Place, Place | None],
    step: Step,
) -> tuple[str, str]:
    """Write a layer from `in`, with the residual `res` or null, to `out`; `levels` is in scope.

    Args:
        weight: int8 [channels, 1, ...], one or two spatial axes. bias: int32 [channels].
        places: input, output, residual.

    Returns:
        C: the quads that this thread does, from and to.
    """
    x, y, r = places
    win = window(node, weight.shape[2:])
    quads = len(weight) // 4

    def two(values: tuple[int, ...], one: int) -> tuple[int, int]:
        first, second = (one, *values)[-2:]
        return first, second

    kernel, strides, steps = two(win.kernel, 1), two(win.strides, 1), two(win.dilations, 1)
    none = (0,) * len(x.layout.shape)
    xs, ys, rs = (p.layout.strides if p else none for p in (x, y, r))
    ins, outs, ress = (two(s[2:], 0) for s in (xs, ys, rs))
    blocks = two(y.layout.blocks[2:], 1)
    start = sum(p * s for p, s in zip(win.before, xs[2:], strict=True))
    moves = ", ".join(
        f"{{0, {a}, {b}}}" for a, b in ((strides[0] * ins[0], strides[1] * ins[1]), outs, ress)
    )
    body.line(
        f"const sec_shape g = {{{{1, {blocks[0]}, {blocks[1]}}}, {moves}, "
        f"{ys[1]}, {rs[1]}, {activation(node)}}};"
    )
    p = step.weights.pointer
    packed = _words(weight.reshape(len(weight), 1, *kernel))
    body.line(
        f"const sec_quad_windows w = {{{quads}, {kernel[0]}, {kernel[1]}, {xs[1]}, {ins[0]}, "
        f"{steps[1] * ins[1]}, {strides[0]}, {steps[0]}, {p(packed)}, {p(bias)}, levels}};"
    )
    opened = body.loops(y.layout.blocks[:1], ["n"], shared=False)
    at = f"in - {start} + n * {xs[0]}L, out + n * {ys[0]}L, res ? res + n * {rs[0]}L : 0, t, T"
    if y.layout.lanes > 1:
        rows = _rows(blocks[0], step.machine)
        body.line(f"sec_quad_windows_layer(&w, &g, {at}, {rows});")
    else:
        body.line(f"sec_quad_windows_plain(&w, &g, {at}, {len(weight)});")
    body.close(opened)
    return f"(long)sec_share({quads}, t, T)", f"(long)sec_share({quads}, t + 1, T)"
