"""What a layer contracts, whatever it was: weights of outputs by (channels, taps), and strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Place, Types
from secateur.compiler.kernels.windows import window


@dataclass(frozen=True)
class Axis:
    """One axis of positions: how many, and the strides (floats) of input, output, residual."""

    count: int
    input: int
    output: int
    residual: int


@dataclass(frozen=True)
class Contraction:
    """A layer, whatever it was: outputs x (channels, taps) at positions."""

    weight: np.ndarray  # [outputs, channels of a group, taps]
    groups: int
    taps: tuple[int, ...]  # offset of each tap, floats
    channel: int  # stride of input channels, floats
    out_channel: int
    res_channel: int
    axes: tuple[Axis, ...]  # outermost first
    positions: int  # of one sample
    residual: bool  # whether there is one


def describe(node: Node, x: Place, w: np.ndarray, y: Place, r: Place | None) -> Contraction:
    """Return what a layer contracts, with the strides of its places."""
    conv = node.op in ("FusedConv", "QuadConv")
    return (_conv if conv else _linear)(node, x, w, y, r)


def is_vector(c: Contraction) -> bool:
    """Whether it is y = W x for plain vectors."""
    return (
        c.groups == 1
        and c.taps == (0,)
        and c.channel == c.out_channel == 1
        and c.res_channel in (0, 1)
        and all(a.count == 1 for a in c.axes)
    )


def _conv(node: Node, x: Place, w: np.ndarray, y: Place, r: Place | None) -> Contraction:
    win = window(node, w.shape[2:])
    xs, ys = x.layout.strides, y.layout.strides
    rs = r.layout.strides if r else (0,) * len(ys)
    rank = len(win.kernel)
    taps = tuple(
        sum(
            (i * d - p) * s
            for i, d, p, s in zip(at, win.dilations, win.before, xs[2:], strict=True)
        )
        for at in product(*map(range, win.kernel))
    )
    spatial = [
        Axis(y.layout.blocks[2 + k], win.strides[k] * xs[2 + k], ys[2 + k], rs[2 + k])
        for k in range(rank)
    ]
    samples = [Axis(y.layout.blocks[0], xs[0], ys[0], rs[0])]
    axes = merged([*samples, *spatial])
    weight = w.reshape(w.shape[0], w.shape[1], -1)
    return Contraction(
        weight,
        node.get("group", 1),
        taps,
        *(xs[1], ys[1], rs[1]),
        axes,
        prod(y.layout.shape[2:]),
        r is not None,
    )


def merged(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Put the axis with the smallest stride last; drop those of one position."""
    several = [a for a in axes if a.count > 1]
    return tuple(sorted(several, key=lambda a: -a.output)) or (Axis(1, 0, 0, 0),)


def _linear(_node: Node, x: Place, w: np.ndarray, y: Place, r: Place | None) -> Contraction:
    last = len(x.layout.shape) - 1
    xs, ys = x.layout.strides, y.layout.strides
    rs = r.layout.strides if r else (0,) * len(ys)
    axes = [Axis(y.layout.blocks[a], xs[a], ys[a], rs[a]) for a in range(last)]
    weight = w.reshape(*w.shape, 1)
    positions = prod(y.layout.shape[1:last])
    strides = xs[last], ys[last], rs[last]
    return Contraction(weight, 1, (0,), *strides, merged(axes), positions, r is not None)


def macs(node: Node, types: Types) -> int:
    """Return the dense multiply-adds of a layer at its type's shapes."""
    w = types[node.inputs[1]].shape
    out = types[node.outputs[0]].shape
    conv = node.op in ("FusedConv", "QuadConv")
    positions = prod(out) // max(1, out[1] if conv else out[-1])
    return positions * prod(w)
