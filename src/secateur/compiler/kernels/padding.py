"""Values with more around them, or less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.nest import Axis, Pointer, at, each, only, shared, spread
from secateur.compiler.kernels.selection import keep_order
from secateur.compiler.ops.indexing import pads


@dataclass(frozen=True)
class _Edge:
    """An axis that is padded or cropped.

    Attributes:
        before: positions that are added. crop: those that are removed first.
        extent: positions of the input that are left.
    """

    before: int
    crop: int
    extent: int

    def source(self, mode: str, position: str) -> str:
        """Return C: which position of the input is at one of the output; the crop not counted."""
        p, n = f"({position} - {self.before})", self.extent
        if mode == "edge":
            return f"({p} < 0 ? 0 : {p} >= {n} ? {n - 1} : {p})"
        if mode == "reflect":
            return f"({p} < 0 ? -{p} : {p} >= {n} ? {2 * (n - 1)} - {p} : {p})"
        if mode == "wrap":
            return f"(({p} % {n} + {n}) % {n})"
        return p


def carry(node: Node, types: Types) -> list[Carry | None]:
    """Any axis that stays as it is."""
    arrays = [types[name].value if name else None for name in node.inputs]
    edges = _edges(node, types[node.inputs[0]].shape, arrays)
    whole = {a: a for a, edge in enumerate(edges) if edge is None}
    return [whole, *(None for _ in arrays[1:])]


def _edges(
    node: Node, shape: tuple[int, ...], arrays: Sequence[np.ndarray | None]
) -> list[_Edge | None]:
    given, _, axes = (*arrays[1:], None, None)[:3]
    assert given is not None
    widths = pads(
        node,
        shape,
        [int(v) for v in given.reshape(-1)],
        None if axes is None else tuple(int(v) for v in axes.reshape(-1)),
    )
    return [
        _Edge(max(before, 0), max(-before, 0), extent + min(before, 0) + min(after, 0))
        if before or after
        else None
        for extent, (before, after) in zip(shape, widths, strict=True)
    ]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step) -> str:
    """Go over rows of the output; each is copied from its source, or filled."""
    x, y, body = inputs[0], outputs[0], Body()
    assert x is not None
    edges = _edges(node, x.layout.shape, [p.constant if p else None for p in inputs])
    mode = node.get("mode", "constant")
    value = (*inputs, None, None)[2]
    known = None if value is None else value.constant
    fill = "0" if known is None else literal(known.reshape(-1)[0], y.dtype)
    axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(len(edges))})])
    # an axis of one element moves the pointer as well: its neighbours are copies of it, or fills
    axes = [
        Axis(a.extent, (a.steps[0], stride))
        for a, stride in zip(axes, x.layout.strides, strict=True)
    ]
    order = y.layout.order
    last = max((k for k, a in enumerate(order) if edges[a] is not None), default=-1)
    row = last == len(order) - 1 and not lanes  # the innermost axis of all changes
    outer, inner = order[: last + 1 - row], order[last + 1 - row :]
    loops = [*(axes[a] for a in inner), *lanes]
    crop = sum(e.crop * s for e, s in zip(edges, x.layout.strides, strict=True) if e)
    body.line(f"const {x.c} *x = {x.ref} + {crop}L;")
    body.line(f"{y.c} *y = {y.ref};")
    steps = {a: axes[a] for a in outer}
    work = prod(a.extent for a in loops)
    opened = shared(body, [a.extent for a in steps.values()], [f"k{a}" for a in outer], work)
    to, source = Pointer(y.c, "to"), Pointer(x.c, "from")
    gaps = _point(body, to, source, steps, edges, mode)
    if row:
        _row(body, loops[0], edges[inner[0]], mode, fill)
    else:
        _block(body, loops, to, source, fill if gaps else None)
    body.close(opened)
    return body.text()


def _point(
    body: Body,
    to: Pointer,
    source: Pointer,
    steps: Mapping[int, Axis],
    edges: Sequence[_Edge | None],
    mode: str,
) -> bool:
    """Write where output and input are at a position of the outer axes, which are named `k{axis}`.

    Returns:
        Whether there are positions without a source, where that pointer is 0.
    """
    changed = {a: edge for a in steps if (edge := edges[a]) is not None}
    for a, edge in changed.items():
        body.line(f"const long f{a} = {edge.source(mode, f'k{a}')};")
    gaps = changed if mode == "constant" else {}
    there = " && ".join(f"f{a} >= 0 && f{a} < {e.extent}" for a, e in gaps.items()) or "1"
    axes, names = list(steps.values()), [f"k{a}" for a in steps]
    sources = [f"f{a}" if a in changed else f"k{a}" for a in steps]
    body.line(f"{to.c} *to = y + {at(names, axes, 0)};")
    offset = at(sources, axes, 1)
    body.line(f"const {source.c} *from = {there} ? x + {offset} : 0; (void)from;")
    return bool(gaps)


def _block(body: Body, loops: list[Axis], to: Pointer, source: Pointer, fill: str | None) -> None:
    """Copy what lies within the axes that change, or fill it where there is no source."""
    if fill is not None:
        body.open("if (!from)")
        each(body, only(loops, 0), to, [], fill, alone=True)
        body.close()
        body.open("else")
    each(body, loops, to, [source], "x0", alone=True)
    if fill is not None:
        body.close()


def _row(body: Body, axis: Axis, edge: _Edge | None, mode: str, fill: str) -> None:
    """Write one row of the innermost axis: what comes before, the input, what comes after."""
    assert edge is not None
    write, read = axis.steps
    end = edge.before + edge.extent
    if mode == "constant":
        before = after = fill
        body.line(f"const long first = from ? {edge.before} : {axis.extent};")
        body.line(f"const long end = from ? {end} : {axis.extent};")
    else:
        before = after = f"from[{edge.source(mode, 'j')}*{read}L]"
        body.line(f"const long first = {edge.before}, end = {end};")
    body.line(f"for (long j = 0; j < first; j++) to[j*{write}L] = {before};")
    body.line(f"for (long j = first; j < end; j++) to[j*{write}L] = from[(j - first)*{read}L];")
    body.line(f"for (long j = end; j < {axis.extent}; j++) to[j*{write}L] = {after};")


KERNELS = (Kernel(("Pad",), emit, carry=carry, order=keep_order),)
