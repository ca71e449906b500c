"""Transposed convolutions: `ConvTranspose`.

Outputs at positions of equal remainder by the stride see the same kernel positions, at fixed places
of the input: each such phase is a convolution of stride 1, written by `contraction`, whose outputs
lie a stride apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.kernels import (
    Body,
    Halo,
    Kernel,
    Machine,
    Place,
    Step,
    Types,
    lane,
    tiles,
    windows,
)
from secateur.compiler.kernels.contracted import Axis, Contraction, merged
from secateur.compiler.kernels.contraction import write
from secateur.compiler.layout import PLAIN, Cut
from secateur.compiler.ops import convolution

PHASES = 16
"""Most phases that are each written as code of their own."""

DENSE = 0.5
"""Share of non-zeros from which on zeros are not skipped."""


@dataclass(frozen=True)
class Line:
    """One spatial axis.

    Attributes:
        stride: phases of the axis.
        cut: outputs that are left out at its beginning.
        taps: by phase, (kernel position, input position - output position / stride) of each tap.
    """

    stride: int
    cut: int
    taps: tuple[tuple[tuple[int, int], ...], ...]

    def count(self, phase: int, outputs: int) -> int:
        """Outputs of a phase among so many."""
        return max(0, -(-(outputs - phase) // self.stride))


def lines(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> list[Line]:
    """Return the spatial axes of a ConvTranspose over inputs of some extents."""
    strides, dilations, _ = convolution.steps(node, kernel)
    cut, _ = convolution.transposed(node, spatial, kernel)
    return [
        Line(
            s,
            c,
            tuple(
                tuple(
                    (k, (phase + c - k * d) // s) for k in range(n) if (phase + c - k * d) % s == 0
                )
                for phase in range(s)
            ),
        )
        for n, s, d, c in zip(kernel, strides, dilations, cut, strict=True)
    ]


def cuts(
    node: Node, types: Types, given: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Keep samples in the lanes, or cut the plane: a block of inputs makes a block of outputs."""
    if any(name and types[name].value is None for name in node.inputs[1:]):
        raise unsupported(node, "its weights are not constant")
    x, y = types[node.inputs[0]], types[node.outputs[0]]
    rest = [PLAIN] * (len(node.inputs) - 1)
    cut = given[0]
    if (cut.axes and cut.within({0})) or batch or x.dtype != np.float32:
        cut = cut if cut.within({0}) else PLAIN
        return [cut, *rest], [cut]
    rank = len(x.shape) - 2
    strides, _, _ = convolution.steps(node, types[node.inputs[1]].shape[2:])
    wide = {a: (g, b * strides[a - 2]) for a, (g, b) in cut.as_dict().items() if a >= 2}
    if (
        cut.axes
        and len(wide) == len(cut.axes)
        and all(g * b >= y.shape[a] for a, (g, b) in wide.items())
    ):
        return [cut, *rest], [Cut.of(wide)]
    none = (0,) * rank
    window = windows.Window((1,) * rank, strides, (1,) * rank, none, none)
    out, cut = windows.grid((y.shape[2:], x.shape[2:]), window, machine, rank)
    return [cut, *rest], [out]


def halo(node: Node, types: Types, given: Sequence[Cut], outs: Sequence[Cut]) -> list[Halo | None]:
    """The inputs beyond the blocks that outputs of the blocks see; zeros beyond the plane."""
    x, y = types[node.inputs[0]], types[node.outputs[0]]
    if x.dtype != np.float32:
        return [None]
    before, after, inexact = [0, 0], [0, 0], False
    for a, line in enumerate(lines(node, x.shape[2:], types[node.inputs[1]].shape[2:]), 2):
        lanes, block = given[0].as_dict().get(a, (1, x.shape[a]))
        _, outputs = outs[0].as_dict().get(a, (1, y.shape[a]))
        seen = [
            (off, line.count(phase, outputs) - 1 + off)
            for phase, taps in enumerate(line.taps)
            for _, off in taps
            if line.count(phase, outputs)
        ]
        before.append(max(0, -min((low for low, _ in seen), default=0)))
        after.append(max(0, max((high for _, high in seen), default=0) - block + 1))
        inexact = inexact or lanes * block != x.shape[a]
    needed = any(before) or any(after) or inexact
    return [Halo(tuple(before), tuple(after)) if needed else None]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write one contraction for each phase, or plain loops where there would be too many."""
    x, w, b = (*inputs, None)[:3]
    assert x is not None
    assert w is not None
    assert w.constant is not None
    y = outputs[0]
    axes = lines(node, x.layout.shape[2:], w.constant.shape[2:])
    if x.dtype != np.float32 or prod(a.stride for a in axes) > PHASES:
        return _elements(node, x, w, b, y, axes)
    group = node.get("group", 1)
    bias = np.zeros(y.layout.shape[1], np.float32) if b is None else b.constant
    assert bias is not None
    stored = step.weights.pointer(bias)
    sparse = bool(np.count_nonzero(w.constant) < DENSE * w.constant.size)
    body = Body()
    for phases in product(*(range(a.stride) for a in axes)):
        c = _phase(w.constant, group, x, y, axes, phases)
        if c is None:
            continue
        body.open("")
        start = sum(p * s for p, s in zip(phases, y.layout.strides[2:], strict=True))
        body.line(f"const float *in = {x.ref};")
        body.line(f"float *out = {y.ref} + {start};")
        body.line("const float *res = 0;")
        skips = sparse and c.weight.size > 0
        sums = tiles.sums(len(c.taps), step.machine) if skips else 0
        write(body, node, c, stored, y.layout.lanes, step, sums=sums)
        body.close()
    return body.text()


def _phase(
    w: np.ndarray, group: int, x: Place, y: Place, axes: Sequence[Line], phases: Sequence[int]
) -> Contraction | None:
    """Return the convolution of one phase, or None where no output is of that phase."""
    xs, ys = x.layout.strides, y.layout.strides
    counts = [
        line.count(phase, n)
        for line, phase, n in zip(axes, phases, y.layout.blocks[2:], strict=True)
    ]
    if 0 in counts:
        return None
    taps = list(product(*(line.taps[phase] for line, phase in zip(axes, phases, strict=True))))
    width, outs = len(w) // group, w.shape[1]
    # without taps the bias is left: no channels of one tap
    seen = [w.reshape(len(w), outs, -1)[:, :, _flat(tap, w.shape[2:])] for tap in taps]
    seen = seen or [np.zeros((0, outs), np.float32)]
    weight = np.stack(seen, 2).reshape(group, width if taps else 0, outs, len(seen))
    spatial = [
        Axis(n, xs[k], ys[k] * line.stride, 0)
        for k, (n, line) in enumerate(zip(counts, axes, strict=True), 2)
    ]
    samples = Axis(y.layout.blocks[0], xs[0], ys[0], 0)
    return Contraction(
        weight.transpose(0, 2, 1, 3).reshape(group * outs, -1, len(seen)),
        group,
        tuple(sum(off * s for (_, off), s in zip(tap, xs[2:], strict=True)) for tap in taps)
        or (0,),
        xs[1],
        ys[1],
        0,
        merged([samples, *spatial]),
        prod(y.layout.shape[2:]),
        residual=False,
    )


def _flat(tap: Sequence[tuple[int, int]], kernel: Sequence[int]) -> int:
    """Return which position of the kernel a tap is, counted through."""
    return sum(k * prod(kernel[a + 1 :]) for a, (k, _) in enumerate(tap))


def _elements(
    node: Node, x: Place, w: Place, b: Place | None, y: Place, axes: Sequence[Line]
) -> str:
    """Element by element, of any type, from the weights as they are."""
    assert w.constant is not None
    rank, group = len(axes), node.get("group", 1)
    kernel, width, outs = w.constant.shape[2:], len(w.constant) // group, w.constant.shape[1]
    _, dilations, _ = convolution.steps(node, kernel)
    lanes = y.layout.lanes
    bounded = x.dtype != np.float32  # there is a halo, otherwise
    body = Body()
    names = ["n", "o", *(f"o{k}" for k in range(rank))]
    opened = body.loops(y.layout.blocks, names)
    body.line(f"{y.c} sum[{lanes}];")
    bias = f"{b.ref}[o]" if b else "0"
    body.line(f"for (int l = 0; l < {lanes}; l++) sum[l] = {bias};")
    for k, line in enumerate(axes):
        body.open(f"for (int k{k} = 0; k{k} < {kernel[k]}; k{k}++)")
        body.line(f"const long p{k} = {names[2 + k]} + {line.cut} - k{k} * {dilations[k]}L;")
        body.line(f"const long i{k} = p{k} / {line.stride};")
        body.line(f"if (i{k} * {line.stride} != p{k}) continue;")
        if bounded:
            body.line(f"if (i{k} < 0 || i{k} >= {x.layout.shape[2 + k]}) continue;")
    body.line(f"const long first = o / {outs} * {width};")
    body.open(f"for (long c = first; c < first + {width}; c++)")
    at = [f"c * {outs * prod(kernel)} + o % {outs} * {prod(kernel)}"]
    at += [f"k{k} * {prod(kernel[k + 1 :])}" for k in range(rank)]
    body.line(f"const {w.c} m = {w.ref}[{' + '.join(at)}];")
    index = ["n", "c", *(f"i{k}" for k in range(rank))]  # into the halo too
    source = " + ".join(f"{i} * {s}L" for i, s in zip(index, x.layout.strides, strict=True))
    body.line(f"const {x.c} *from = {x.ref} + {source};")
    body.line(f"for (int l = 0; l < {lanes}; l++) sum[l] += m * from[l];")
    body.close(1 + rank)
    body.line(f"for (int l = 0; l < {lanes}; l++) {y.ref}[{y.at(names)}{lane(y)}] = sum[l];")
    body.close(opened)
    return body.text()


KERNELS = (Kernel(ops=("ConvTranspose",), emit=emit, cuts=cuts, halo=halo),)
