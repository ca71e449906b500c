"""Dense depthwise convolutions: each channel by a window of its own, inputs loaded once a tile."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Machine, Place, Step, tiles
from secateur.compiler.kernels.elementwise import activation
from secateur.compiler.kernels.windows import window
from secateur.compiler.layout import Layout

WIDEST = 7
"""Columns of a window whose weights fit registers beside the sums."""

ROW = 2.0
"""What it costs to begin and end an output channel, for each vector of a tile; see `tiles`."""


def fits(node: Node, x: Place, weight: np.ndarray) -> bool:
    """Whether a convolution is one of these, its planes in the lanes."""
    return (
        node.op == "FusedConv"
        and x.layout.lanes > 1
        and weight.shape[1] == 1
        and node.get("group", 1) == len(weight) == x.layout.shape[1]
        and weight.ndim in (3, 4)
        and weight.shape[-1] <= WIDEST
    )


def tile(layout: Layout, kernel: tuple[int, ...], machine: Machine) -> tiles.Tile:
    """Return the tile for outputs of a layout."""
    high, wide = (1, *layout.blocks[2:])[-2:]
    most = 16 if machine.registers >= 32 else 6
    taps = int(np.prod(kernel))
    return tiles.choose(high, wide, most, each=0.25 * taps + ROW, fixed=4.0, floor=4.0)


def write(
    body: Body,
    node: Node,
    weight: np.ndarray,
    bias: np.ndarray,
    places: tuple[Place, Place, Place | None],
    step: Step,
) -> tuple[str, str]:
    """Write a layer from `in`, with the residual `res` or null, to `out`.

    Args:
        weight: [channels, 1, ...]. bias: [channels].
        places: input, output, residual.

    Returns:
        C: the channels that this thread does, from and to.
    """
    x, y, r = places
    win = window(node, weight.shape[2:])
    rank, channels = len(win.kernel), len(weight)

    def two(values: tuple[int, ...], one: int) -> tuple[int, int]:
        first, second = (one, *values)[-2:]
        return first, second

    kernel, strides, steps = two(win.kernel, 1), two(win.strides, 1), two(win.dilations, 1)
    none = (0,) * (2 + rank)
    xs, ys, rs = (p.layout.strides if p else none for p in (x, y, r))
    ins, outs, ress = (two(s[2:], 0) for s in (xs, ys, rs))
    blocks = two(y.layout.blocks[2:], 1)
    start = sum(p * s for p, s in zip(win.before, xs[2:], strict=True))
    moves = [f"{{0, {', '.join(map(str, pair))}}}" for pair in (
        tuple(a * b for a, b in zip(strides, ins, strict=True)), outs, ress,
    )]  # fmt: skip
    body.line(
        f"const sec_shape g = {{{{1, {blocks[0]}, {blocks[1]}}}, {', '.join(moves)}, "
        f"{ys[1]}, {rs[1]}, {activation(node)}}};"
    )
    p = step.weights.pointer
    shared = strides[1] if steps[1] == 1 else 0
    body.line(
        f"const sec_depthwise w = {{{channels}, {kernel[0]}, {kernel[1]}, {xs[1]}, "
        f"{steps[0] * ins[0]}, {steps[1] * ins[1]}, {shared}, "
        f"{p(weight.reshape(channels, -1))}, {p(bias)}}};"
    )
    chosen = tile(y.layout, win.kernel, step.machine)
    opened = body.loops(y.layout.blocks[:1], ["n"], shared=False)
    body.line(
        f"sec_depthwise_layer(&w, &g, in - {start} + n * {xs[0]}L, out + n * {ys[0]}L, "
        f"res ? res + n * {rs[0]}L : 0, t, T, {chosen.high}, {chosen.wide});"
    )
    body.close(opened)
    return f"(long)sec_share({channels}, t, T)", f"(long)sec_share({channels}, t + 1, T)"
