"""Dense depthwise convolutions: each channel by a window of its own, inputs loaded once a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Planes:
    """Where a window of one or two axes slides; the last two axes, and elements between places.

    Attributes:
        kernel, strides, steps: of the window; steps are its dilations.
        inputs: elements between neighbours of the input.
        shape: C that defines `g`, a sec_shape.
        sample: C, the arguments in, out, res of sample `n`.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    steps: tuple[int, int]
    inputs: tuple[int, int]
    shape: str
    sample: str


def planes(node: Node, kernel: Sequence[int], places: tuple[Place, Place, Place | None]) -> Planes:
    """Return that of a depthwise layer, from `in`, with the residual `res` or null, to `out`."""
    x, y, r = places
    win = window(node, kernel)

    def two(values: tuple[int, ...], one: int) -> tuple[int, int]:
        first, second = (one, *values)[-2:]
        return first, second

    none = (0,) * len(x.layout.shape)
    xs, ys, rs = (p.layout.strides if p else none for p in (x, y, r))
    ins, outs, ress = (two(s[2:], 0) for s in (xs, ys, rs))
    strides, blocks = two(win.strides, 1), two(y.layout.blocks[2:], 1)
    start = sum(p * s for p, s in zip(win.before, xs[2:], strict=True))
    moves = ", ".join(
        f"{{0, {a}, {b}}}" for a, b in ((strides[0] * ins[0], strides[1] * ins[1]), outs, ress)
    )
    return Planes(
        two(win.kernel, 1),
        strides,
        two(win.dilations, 1),
        ins,
        f"const sec_shape g = {{{{1, {blocks[0]}, {blocks[1]}}}, {moves}, "
        f"{ys[1]}, {rs[1]}, {activation(node)}}};",
        f"in - {start} + n * {xs[0]}L, out + n * {ys[0]}L, res ? res + n * {rs[0]}L : 0",
    )


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
    x, y, _ = places
    channels, plane = len(weight), planes(node, weight.shape[2:], places)
    kernel, ins = plane.kernel, plane.inputs
    body.line(plane.shape)
    p = step.weights.pointer
    shared = plane.strides[1] if plane.steps[1] == 1 else 0
    body.line(
        f"const sec_depthwise w = {{{channels}, {kernel[0]}, {kernel[1]}, {x.layout.strides[1]}, "
        f"{plane.steps[0] * ins[0]}, {plane.steps[1] * ins[1]}, {shared}, "
        f"{p(weight.reshape(channels, -1))}, {p(bias)}}};"
    )
    chosen = tile(y.layout, kernel, step.machine)
    opened = body.loops(y.layout.blocks[:1], ["n"], shared=False)
    name = f"sec_depthwise_layer_{chosen.rests(*(1, *y.layout.blocks[2:])[-2:])}"
    body.line(f"{name}(&w, &g, {plane.sample}, t, T, {chosen.high}, {chosen.wide});")
    body.close(opened)
    return f"(long)sec_share({channels}, t, T)", f"(long)sec_share({channels}, t + 1, T)"
