"""Values with more around them, or less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.nest import Axis, Pointer, at, each, shared, spread
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
    value = inputs[2] if len(inputs) > 2 else None
    fill = "0"
    if value is not None and value.constant is not None:
        fill = literal(value.constant.reshape(-1)[0], y.dtype)
    axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(len(edges))})])
    # an axis of one element moves the pointer as well: its neighbours are copies of it, or fills
    axes = [
        Axis(a.extent, (a.steps[0], stride))
        for a, stride in zip(axes, x.layout.strides, strict=True)
    ]
    order = y.layout.order
    last = max((k for k, a in enumerate(order) if edges[a] is not None), default=-1)
    row = None  # a padded axis that is the innermost of all
    if last == len(order) - 1 and not lanes:
        row, last = order[last], last - 1
    outer, inner = order[: last + 1], [a for a in order[last + 1 :] if a != row]
    loops = [*(axes[a] for a in inner), *lanes]
    crop = sum(e.crop * s for e, s in zip(edges, x.layout.strides, strict=True) if e)
    body.line(f"const {x.c} *x = {x.ref} + {crop}L;")
    body.line(f"{y.c} *y = {y.ref};")
    names = [f"k{a}" for a in outer]
    work = prod(a.extent for a in loops) * (axes[row].extent if row is not None else 1)
    opened = shared(body, [axes[a].extent for a in outer], names, work)
    sources, checks = [], []
    for name, a in zip(names, outer, strict=True):
        edge = edges[a]
        if edge is None:
            sources.append(name)
            continue
        sources.append(f"f{a}")
        body.line(f"const long f{a} = {edge.source(mode, name)};")
        if mode == "constant":
            checks.append(f"f{a} >= 0 && f{a} < {edge.extent}")
    steps = [axes[a] for a in outer]
    body.line(f"{y.c} *to = y + {at(names, steps, 0)};")
    there = " && ".join(checks) or "1"
    body.line(f"const {x.c} *from = {there} ? x + {at(sources, steps, 1)} : 0; (void)from;")
    to, source = Pointer(y.c, "to"), Pointer(x.c, "from")
    if row is not None:
        _row(body, axes[row], edges[row], mode, fill)
    elif checks:
        body.open("if (!from)")
        each(body, [Axis(a.extent, a.steps[:1]) for a in loops], to, [], fill, alone=True)
        body.close()
        body.open("else")
        each(body, loops, to, [source], "x0", alone=True)
        body.close()
    else:
        each(body, loops, to, [source], "x0", alone=True)
    body.close(opened)
    return body.text()


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
