"""Elements picked by indices that are known at run time, and triangles of matrices.

An index outside its axis counts as the nearest one inside: what it reads is then wrong, but ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import (
    Body,
    Carry,
    Kernel,
    Machine,
    Place,
    Step,
    Types,
    carried,
    lane,
)
from secateur.compiler.kernels.nest import (
    Axis,
    Carried,
    Pointer,
    at,
    each,
    merged,
    only,
    shared,
    spread,
)
from secateur.compiler.kernels.selection import keep_order, position
from secateur.compiler.layout import PLAIN, Cut

Cuts = tuple[list[Cut | None], list[Cut]]


def _within(index: str, extent: int) -> str:
    """Return C of an index counted from the front."""
    front = f"({index} < 0 ? {index} + {extent} : {index})"
    return f"SEC_LEAST({front} < 0 ? 0 : {front}, {extent - 1}L)"


def _gather_maps(axis: int, rank: int, count: int) -> tuple[Carried, Carried]:
    """Return which axis of the output each axis of the data and of the indices is."""
    data = {a: a if a < axis else a + count - 1 for a in range(rank) if a != axis}
    return data, {a: axis + a for a in range(count)}


def _gather_cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> Cuts:
    data, indices = (types[name] for name in node.inputs)
    axis = node.get("axis", 0) % len(data.shape)
    known = indices.value
    if given[0].axes and given[0].within({axis}) and known is not None and known.size == 1:
        return [given[0], PLAIN], [PLAIN]  # one position, in one lane
    maps: list[Carry | None] = [
        dict(where) for where in _gather_maps(axis, len(data.shape), len(indices.shape))
    ]
    wanted, out = carried(node, types, given, maps)
    return wanted, [out]


def _gather(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step) -> str:
    """Copy the rest of the axes for each index."""
    data, indices = inputs
    y, body = outputs[0], Body()
    assert data is not None
    assert indices is not None
    if not prod(data.layout.shape) or not prod(y.layout.shape):
        return ""
    rank, count = len(data.layout.shape), len(indices.layout.shape)
    axis = node.get("axis", 0) % rank
    of_data, of_indices = _gather_maps(axis, rank, count)
    axes, lanes = spread(y.layout, [(data.layout, of_data), (indices.layout, of_indices)])
    outer = [a for a in y.layout.order if a < axis + count]
    rest = [axes[a] for a in y.layout.order if a >= axis + count]
    extent, stride = data.layout.shape[axis], data.layout.strides[axis]
    if data.layout.grid[axis] > 1:  # then the index is known
        assert indices.constant is not None
        known = position(data.layout, axis, int(indices.constant.item()) % extent)
    else:
        known = None
    body.line(f"const {data.c} *x = {data.ref};")
    body.line(f"const {indices.c} *index = {indices.ref};")
    body.line(f"{y.c} *y = {y.ref}; (void)index;")
    names, loops = [f"k{a}" for a in outer], [axes[a] for a in outer]
    work = prod(a.extent for a in (*rest, *lanes))
    opened = shared(body, [a.extent for a in loops], names, work)
    body.line(f"const {data.c} *from = x + {at(names, loops, 1)};")
    body.line(f"{y.c} *to = y + {at(names, loops, 0)};")
    place = at(names, loops, 2)
    if any(lane.steps[2] for lane in lanes):
        _rows(body, data, y, rest, lanes, place, extent, stride)
    else:
        body.line(f"const int64_t k = index[{place}]; (void)k;")
        away = f"{known}L" if known is not None else f"(long)({_within('k', extent)})*{stride}L"
        source = Pointer(data.c, f"from + {away}")
        each(body, only([*rest, *lanes], 0, 1), Pointer(y.c, "to"), [source], "x0", alone=True)
    body.close(opened)
    return body.text()


def _rows(
    body: Body,
    data: Place,
    y: Place,
    rest: Sequence[Axis],
    lanes: Sequence[Axis],
    place: str,
    extent: int,
    stride: int,
) -> None:
    """Copy where each lane has an index of its own: a row of the data becomes a lane."""
    grid = [f"g{n}" for n in range(len(lanes))]
    body.line(f"const {data.c} *row[{y.layout.lanes}];")
    body.line(f"for (int l = 0; l < {y.layout.lanes}; l++) row[l] = from;")
    opened = body.loops([a.extent for a in lanes], grid, shared=False)
    body.line(f"const int64_t k = index[{place} + {at(grid, lanes, 2)}];")
    body.line(
        f"row[{at(grid, lanes, 0)}] = from + {at(grid, lanes, 1)} + "
        f"(long)({_within('k', extent)})*{stride}L;"
    )
    body.close(opened)
    loops = merged(only(rest, 0, 1))
    run = loops[-1] if loops else Axis(1, (0, 0))
    if len(loops) <= 1 and run.steps[1] == 1 and data.dtype.itemsize == 4:
        body.line(
            f"sec_to_lanes((const float *const *)row, (float *)to, {run.steps[0]}, {run.extent});"
        )
        return
    names = [f"r{n}" for n in range(len(loops))]
    opened = body.loops([a.extent for a in loops], names, shared=False)
    body.line(
        f"for (int l = 0; l < {y.layout.lanes}; l++) "
        f"to[{at(names, loops, 0)} + l] = row[l][{at(names, loops, 1)}];"
    )
    body.close(opened)


def _elements_carry(node: Node, types: Types) -> list[Carry | None]:
    data, indices = (types[name].shape for name in node.inputs)
    axis = node.get("axis", 0) % len(data)
    others = [a for a in range(len(data)) if a != axis]
    if any(data[a] != indices[a] for a in others):
        return [None, None]  # of some axis, only the first positions are read
    return [{a: a for a in others}] * 2


def _elements(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step
) -> str:
    data, indices = inputs
    y, body = outputs[0], Body()
    assert data is not None
    assert indices is not None
    if not prod(data.layout.shape) or not prod(y.layout.shape):
        return ""
    rank = len(y.layout.shape)
    axis = node.get("axis", 0) % rank
    whole = {a: a for a in range(rank)}
    axes, lanes = spread(
        y.layout,
        [(data.layout, {a: a for a in range(rank) if a != axis}), (indices.layout, whole)],
    )
    loops = [*(axes[a] for a in y.layout.order), *lanes]
    names = [f"k{n}" for n in range(len(loops))]
    body.line(f"const {data.c} *x = {data.ref};")
    body.line(f"const {indices.c} *index = {indices.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    opened = shared(body, [a.extent for a in loops], names, 2)
    body.line(f"const int64_t k = index[{at(names, loops, 2)}];")
    extent, stride = data.layout.shape[axis], data.layout.strides[axis]
    body.line(
        f"y[{at(names, loops, 0)}] = "
        f"x[{at(names, loops, 1)} + (long)({_within('k', extent)})*{stride}L];"
    )
    body.close(opened)
    return body.text()


def _triangle_carry(node: Node, types: Types) -> list[Carry | None]:
    rank = len(types[node.inputs[0]].shape)
    return [{a: a for a in range(rank - 2)}, *(None for _ in node.inputs[1:])]


def _triangle(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step
) -> str:
    x, given = (*inputs, None)[:2]
    y, body = outputs[0], Body()
    assert x is not None
    k = int(given.constant.item()) if given is not None and given.constant is not None else 0
    rank = len(y.layout.shape)
    axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(rank)})])
    column = axes[rank - 1]
    outer = [a for a in y.layout.order if a != rank - 1]
    names, loops = [f"k{a}" for a in outer], [axes[a] for a in outer]
    body.line(f"const {x.c} *x = {x.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    opened = shared(body, [a.extent for a in loops], names, column.extent * y.layout.lanes)
    body.line(f"const long edge = k{rank - 2} + {k}L;")
    opened += body.loops([column.extent], ["j"], shared=False)
    to, source = (f"{at(names, loops, n)} + j*{column.steps[n]}L" for n in (0, 1))
    if lanes:
        body.lanes(y.layout.lanes)
        opened += 1
    kept = "j >= edge" if node.get("upper", 1) else "j <= edge"
    body.line(f"y[{to}{lane(y)}] = {kept} ? x[{source}{lane(x)}] : 0;")
    body.close(opened)
    return body.text()


KERNELS = (
    Kernel(("Gather",), _gather, cuts=_gather_cuts),
    Kernel(("GatherElements",), _elements, carry=_elements_carry),
    Kernel(("Trilu",), _triangle, carry=_triangle_carry, order=keep_order),
)
