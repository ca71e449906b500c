"""Moving a value from one layout to another, and the caller's arrays in and out.

`Relayout` is an operator of the plan, not of a graph: it copies a value of the same logical shape.
Attributes: `samples`, 1 where axis 0 counts samples of which a tile may hold fewer than it has
room for (`f->count`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Kernel, Place, Step
from secateur.compiler.layout import Cut, Layout

FARTHEST = 2**30
"""Floats that a table of `c/gather.h` reaches."""


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Copy by whole vectors where the two layouts allow it, else element by element."""
    source, target = inputs[0], outputs[0]
    assert source is not None
    if (run := _run(node, source, target)) is not None:
        return _rows(node, source, target, run)
    if _planes_to_samples(source.layout, target.layout) and source.dtype.itemsize == 4:
        return _samples(source, target)
    if (run := _row(source, target)) is not None:
        return _turned(node, source, target, run)
    if _tabled(node, source, target):
        return _gathered(node, source, target, step)
    return _elements(node, source, target)


def _row(source: Place, target: Place) -> int | None:
    """Return the axis along which vectors of a source that is cut along another become rows."""
    x, y = source.layout, target.layout
    if len(x.cut.axes) != 1 or y.lanes > 1 or source.dtype.itemsize != 4:
        return None
    axis = x.cut.axes[0][0]
    rows = (a for a, s in enumerate(y.strides) if s == 1 and a != axis)
    return next((a for a in rows if 2 * y.shape[a] >= x.lanes), None)


def _turned(node: Node, source: Place, target: Place, run: int) -> str:
    """Turn vectors along an axis into a row of each lane; lanes may lie beyond the extent."""
    x, y = source.layout, target.layout
    ((axis, grid, block),) = x.cut.axes
    body = Body()
    offsets = [lane * block * y.strides[axis] for lane in range(x.lanes)]
    body.line(f"static const int64_t to[{x.lanes}] = {{{', '.join(map(str, offsets))}}};")
    body.line(f"const float *x = (const float *){source.ref};")
    body.line(f"float *y = (float *){target.ref};")
    names = [f"i{a}" for a in range(len(y.shape))]
    axes = [a for a in y.order if a != run]
    opened = body.loops([x.blocks[a] for a in axes], [names[a] for a in axes])
    extent = str(y.shape[axis])
    if node.get("samples"):
        if axis == 0:
            extent = "(long)f->count"
        else:
            body.open("if (i0 < (long)f->count)")
            opened += 1
    body.line(f"const long there = ({extent} - i{axis} + {block - 1}) / {block};")
    index = ["0" if a == run else n for a, n in enumerate(names)]
    moved = " + ".join(f"{index[a]} * {y.strides[a]}L" for a in axes) or "0"
    body.line(
        f"sec_from_lanes(x + {source.at(index)}, {x.strides[run]}, y + {moved}, to, "
        f"SEC_LEAST(there, {grid}), {y.shape[run]});"
    )
    body.close(opened)
    return body.text()


def _tabled(node: Node, source: Place, target: Place) -> bool:
    """Whether floats are copied from one cut into another, and no table depends on the batch."""
    x, y = source.layout, target.layout
    either = {**x.cut.as_dict(), **y.cut.as_dict()}
    return (
        source.dtype.itemsize == 4
        and bool(either)
        and not (node.get("samples") and 0 in either)
        and x.elements < FARTHEST
        and (y.lanes > 1 or 0 not in either)
    )


def _gathered(node: Node, source: Place, target: Place, step: Step) -> str:
    """Copy by looking up where each element of a vector, or of a row, lies in the source."""
    x, y = source.layout, target.layout
    lanes, rank = y.lanes, len(y.shape)
    body = Body()
    body.line(f"const float *x = (const float *){source.ref};")
    body.line(f"float *y = (float *){target.ref};")
    rows = [a for a in range(rank) if y.strides[a] == 1]
    run = max(rows, key=lambda a: (y.shape[a], a)) if lanes == 1 else -1
    vectors = [a for a in range(rank) if y.grid[a] > 1] if lanes > 1 else [run]
    scalars = [a for a in range(rank) if x.grid[a] > 1 and a not in vectors]
    for a in (*vectors, *scalars):
        wide = lanes if a in vectors else 1
        made = _table(x, y, a, wide)
        at = step.weights.prepare(made, 4 * y.blocks[a] * wide, made)
        body.line(f"const int32_t *t{a} = (const int32_t *)(f->prepared + {at});")
    names = [f"i{a}" for a in range(rank)]
    axes = [a for a in y.order if lanes > 1 or a != run]
    opened = body.loops([y.blocks[a] for a in axes], [names[a] for a in axes])
    if node.get("samples"):  # those beyond the last one repeat the first one, or are nowhere
        if "output" in node.attributes:
            body.open("if (i0 < (long)f->count)")
            opened += 1
        else:
            names[0] = "(i0 < (long)f->count ? i0 : 0)"
    rest = [f"{names[a]} * {x.strides[a]}L" for a in range(rank) if a not in (*vectors, *scalars)]
    rest += [f"t{a}[i{a}]" for a in scalars]
    body.line(f"const float *from = {' + '.join(['x', *rest])};")
    index = [f"i{a}" if lanes > 1 or a != run else "0" for a in range(rank)]
    if lanes > 1:
        tables = [f"t{a} + i{a} * {lanes}" for a in vectors] + ["0"]
        body.line(f"sec_gather(y + {target.at(index)}, from, {tables[0]}, {tables[1]});")
    else:
        body.line(f"sec_gather_row(y + {target.at(index)}, from, t{run}, {y.blocks[run]});")
    body.close(opened)
    return body.text()


def _table(x: Layout, y: Layout, axis: int, lanes: int) -> str:
    """Return C that fills `to` with where the target's elements lie along an axis of the source."""

    def cut(layout: Layout, wide: int) -> str:
        steps = (layout.lane_strides[axis], layout.grid[axis]) if wide > 1 else (1, 1)
        return (
            f"(sec_cut){{{layout.shape[axis]}, {steps[1]}, {layout.blocks[axis]}, "
            f"{layout.strides[axis]}, {steps[0]}}}"
        )

    used = min(prod(y.grid), lanes)
    return f"sec_tabulate((int32_t *)to, {cut(y, lanes)}, {lanes}, {used}, {cut(x, x.lanes)});"


def _elements(node: Node, source: Place, target: Place) -> str:
    """Copy element by element, in the order of the side whose lanes are looped over."""
    body = Body()
    leads = target.layout.lanes > 1 or source.layout.lanes == 1
    leader, other = (target, source) if leads else (source, target)
    layout, lanes = leader.layout, leader.layout.lanes
    names = [f"i{a}" for a in range(len(layout.shape))]
    body.line(f"const {source.c} *x = {source.ref};")
    body.line(f"{target.c} *y = {target.ref};")
    alike = layout.same_place(other.layout)
    plain = other.layout.lanes == 1
    if plain and lanes > 1:
        steps = ", ".join(map(str, _lane_offsets(layout, other.layout)))
        body.line(f"static const int64_t lane[{lanes}] = {{{steps}}};")
    opened = body.loops([layout.blocks[a] for a in layout.order], [names[a] for a in layout.order])
    body.line(f"const long mine = {leader.at(names)};")
    if plain or alike:
        body.line(f"const long its = {_offset(other, names)};")
    own, its = "mine", "its"
    if lanes > 1:
        body.lanes(lanes)
        opened += 1
        own, its = "mine + l", "its + l" if alike else "its + lane[l]"
    index = [_logical(layout, a, name) for a, name in enumerate(names)]
    away = its if plain or alike else _anywhere(other.layout, index)
    read, write = (away, own) if leads else (own, away)
    check = " && ".join(_checks(layout, index, counted=bool(node.get("samples"))))
    if not check:
        body.line(f"y[{write}] = x[{read}];")
    elif leads and "output" not in node.attributes:
        body.line(f"y[{write}] = ({check}) ? x[{read}] : 0;")
    else:
        body.line(f"if ({check}) y[{write}] = x[{read}];")
    body.close(opened)
    return body.text()


def _checks(layout: Layout, index: Sequence[str], *, counted: bool) -> Iterator[str]:
    """Yield C that is true where there is an element: blocks and tiles may have room for more."""
    for i, grid, block, extent in zip(index, layout.grid, layout.blocks, layout.shape, strict=True):
        if grid * block != extent:
            yield f"{i} < {extent}"
    if used := _lanes_used(layout):
        yield f"l < {used}"
    if counted:
        yield f"{index[0]} < (long)f->count"


def _lane_offsets(layout: Layout, plain: Layout) -> list[int]:
    """Return, by lane of a cut layout, where its block begins in a plain one."""
    parts = list(zip(layout.lane_strides, layout.grid, layout.blocks, plain.strides, strict=True))
    return [
        sum(lane // s % g * b * stride for s, g, b, stride in parts if g > 1)
        for lane in range(layout.lanes)
    ]


def _run(node: Node, source: Place, target: Place) -> int | None:
    """Return the axis along which rows of a plain float source become vectors of the target.

    Not that of samples, of which a tile may hold fewer than it has room for.
    """
    x, y = source.layout, target.layout
    full = all(g * b == n for g, b, n in zip(y.grid, y.blocks, y.shape, strict=True))
    if x.lanes > 1 or y.lanes == 1 or source.dtype.itemsize != 4 or not full or _lanes_used(y):
        return None
    counted = 0 if node.get("samples") else -1
    along = (a for a, s in enumerate(x.strides) if s == 1 and a != counted)
    return next((a for a in along if y.blocks[a] >= y.lanes), None)


def _rows(node: Node, source: Place, target: Place, run: int) -> str:
    x, y = source.layout, target.layout
    body = Body()
    lanes = y.lanes
    steps = ", ".join(map(str, _lane_offsets(y, x)))
    body.line(f"static const int64_t lane[{lanes}] = {{{steps}}};")
    body.line(f"const float *x = (const float *){source.ref};")
    body.line(f"float *y = (float *){target.ref};")
    names = [f"i{a}" for a in range(len(y.shape))]
    axes = [a for a in y.order if a != run]
    opened = body.loops([y.blocks[a] for a in axes], [names[a] for a in axes])
    index = ["0" if a == run else n for a, n in enumerate(names)]
    body.line(f"const float *from[{lanes}];")
    body.lanes(lanes)
    if node.get("samples"):  # lanes beyond the last sample repeat the first one
        sample = _logical(y, 0, names[0])
        body.line(f"const long there = {sample} < (long)f->count;")
        body.line(f"from[l] = x + (there ? {_offset(source, index)} + lane[l] : 0);")
    else:
        body.line(f"from[l] = x + {_offset(source, index)} + lane[l];")
    body.close()
    body.line(f"sec_to_lanes(from, y + {target.at(index)}, {y.strides[run]}, {y.blocks[run]});")
    body.close(opened)
    return body.text()


def _planes_to_samples(x: Layout, y: Layout) -> bool:
    """Whether positions of one sample lie in the source's lanes, and samples in the target's."""
    cut = x.cut.as_dict()
    return (
        y.lanes > 1
        and y.cut == Cut.of({0: (y.lanes, 1)})
        and x.shape[0] == y.lanes == x.lanes == prod(x.grid)
        and 0 not in cut
        and all(g * b == x.shape[a] for a, (g, b) in cut.items())
    )


def _samples(source: Place, target: Place) -> str:
    """Transpose: vectors of all samples at one place in their blocks, into one vector a lane."""
    x, y = source.layout, target.layout
    body = Body()
    lanes = y.lanes
    to = _lane_offsets(x, y)
    body.line(f"static const int64_t to[{lanes}] = {{{', '.join(map(str, to))}}};")
    body.line(f"const float *x = (const float *){source.ref};")
    body.line(f"float *y = (float *){target.ref};")
    names = [f"i{a}" for a in range(len(y.shape))]
    axes = [a for a in x.order if a != 0]
    opened = body.loops([x.blocks[a] for a in axes], [names[a] for a in axes])
    index = ["0", *names[1:]]
    moved = " + ".join(f"{n}*{s}" for n, s in zip(names[1:], y.strides[1:], strict=True))
    body.line(f"sec_turn(x + {source.at(index)}, {x.strides[0]}, y + {moved}, to);")
    body.close(opened)
    return body.text()


def _logical(layout: Layout, axis: int, name: str) -> str:
    if layout.grid[axis] == 1:
        return name
    lane = f"l / {layout.lane_strides[axis]} % {layout.grid[axis]}"
    return f"({name} + {lane} * {layout.blocks[axis]})"


def _lanes_used(layout: Layout) -> int:
    """Return how many lanes hold blocks, or 0 where all do."""
    used = prod(layout.grid)
    return used if used < layout.lanes else 0


def _offset(place: Place, names: Sequence[str]) -> str:
    """Return the offset of block position `names` in lane 0, in a layout that may be uncut."""
    terms = [
        f"{name}*{stride}"
        for name, stride, n in zip(names, place.layout.strides, place.layout.shape, strict=True)
        if n > 1
    ]
    return " + ".join(terms) or "0"


def _anywhere(layout: Layout, index: Sequence[str]) -> str:
    """Return the offset of a logical index in any layout."""
    terms = []
    for axis, i in enumerate(index):
        grid, block = layout.grid[axis], layout.blocks[axis]
        if grid == 1:
            terms.append(f"({i})*{layout.strides[axis]}")
        else:
            terms.append(f"({i}) % {block} * {layout.strides[axis]}")
            terms.append(f"({i}) / {block} * {layout.lane_strides[axis]}")
    return " + ".join(terms) or "0"


KERNELS = (Kernel(ops=("Relayout",), emit=emit, carry=lambda *_: [None]),)
