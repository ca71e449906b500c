"""Elements picked by a rule known beforehand: parts, repetitions, blocks turned to depth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Machine, Place, Step, Types, carried
from secateur.compiler.kernels.elementwise import pointwise, trailing
from secateur.compiler.kernels.nest import Axis, Pointer, by_memory, each, spread
from secateur.compiler.layout import PLAIN, Cut, Layout
from secateur.compiler.ops.indexing import slices
from secateur.compiler.ops.shape import split_sizes

Cuts = tuple[list[Cut | None], list[Cut]]


def keep_order(
    _node: Node, _types: Types, layouts: Sequence[Layout | None], _cut: Cut
) -> Sequence[int] | None:
    """Keep the order of the first input, whose axes those of the output are."""
    return layouts[0].order if layouts[0] is not None else None


def copy(body: Body, axes: Sequence[Axis], out: Place, source: Place, away: int, off: int) -> None:
    """Write a copy in the order of the output.

    Args:
        body: is written to.
        axes: loops; steps are of the output and the source.
        out, source: the values.
        away, off: elements from their first element to where the copy begins.
    """
    to = Pointer(out.c, f"{out.ref} + {away}L")
    each(body, by_memory(axes), to, [Pointer(source.c, f"{source.ref} + {off}L")], "x0")


def _ranges(
    node: Node, shape: tuple[int, ...], given: Sequence[np.ndarray | None]
) -> tuple[range, ...]:
    values = [
        None if array is None else tuple(int(v) for v in array.reshape(-1))
        for array in (*given, None, None)[:4]
    ]
    return slices(node, shape, values)


def _slice_cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> Cuts:
    x = types[node.inputs[0]]
    arrays = [types[name].value if name else None for name in node.inputs[1:]]
    taken = _ranges(node, x.shape, arrays)
    rest: list[Cut | None] = [PLAIN] * len(arrays)
    if given[0].axes and all(len(taken[axis]) == 1 for axis in given[0].as_dict()):
        return [given[0], *rest], [PLAIN]  # one position, in one lane
    whole = {a: a for a, r in enumerate(taken) if r == range(x.shape[a])}
    maps: list[Carry | None] = [whole, *(None for _ in rest)]
    wanted, out = carried(node, types, given, maps)
    return wanted, [out]


def position(layout: Layout, axis: int, index: int) -> int:
    """Return how far from the first element a logical index of an axis lies."""
    block = layout.blocks[axis]
    return index % block * layout.strides[axis] + index // block * layout.lane_strides[axis]


def _slice(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    x, y = inputs[0], outputs[0]
    assert x is not None
    taken = _ranges(node, x.layout.shape, [p.constant if p else None for p in inputs[1:]])
    axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(len(taken))})])
    loops, start = [], 0
    for a, (axis, chosen) in enumerate(zip(axes, taken, strict=True)):
        loops.append(Axis(axis.extent, (axis.steps[0], axis.steps[1] * chosen.step)))
        start += position(x.layout, a, chosen.start) if len(chosen) else 0
    body = Body()
    copy(body, [*loops, *lanes], y, x, 0, start)
    return body.text()


def _split_carry(node: Node, types: Types) -> list[Carry | None]:
    rank = len(types[node.inputs[0]].shape)
    axis = node.get("axis", 0) % rank
    return [{a: a for a in range(rank) if a != axis}, *(None for _ in node.inputs[1:])]


def _split(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    x, given = (*inputs, None)[:2]
    assert x is not None
    rank = len(x.layout.shape)
    axis = node.get("axis", 0) % rank
    sizes = None if given is None or given.constant is None else tuple(given.constant.tolist())
    sizes = split_sizes(node, x.layout.shape[axis], sizes)
    starts = [0, *accumulate(sizes)]
    body, there = Body(), iter(outputs)
    for name, start in zip(node.outputs, starts, strict=False):
        if not name:
            continue
        y = next(there)
        axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(rank)})])
        copy(body, [*axes, *lanes], y, x, 0, start * x.layout.strides[axis])
    return body.text()


def _expanding(shapes: Sequence[tuple[int, ...] | None], rank: int) -> list[Carry | None]:
    return [*trailing(shapes[:1], rank), None]


def _expand_carry(node: Node, types: Types) -> list[Carry | None]:
    return _expanding([types[node.inputs[0]].shape], len(types[node.outputs[0]].shape))


def _tile_carry(node: Node, types: Types) -> list[Carry | None]:
    before, after = types[node.inputs[0]].shape, types[node.outputs[0]].shape
    return [{a: a for a in range(len(before)) if before[a] == after[a]}, None]


def _tile(_node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step) -> str:
    x, y = inputs[0], outputs[0]
    assert x is not None
    loops = []
    before, after = x.layout, y.layout
    for n, m, read, write in zip(
        before.shape, after.shape, before.strides, after.strides, strict=True
    ):
        if n != m:
            loops += [Axis(m // max(1, n), (write * n, 0)), Axis(n, (write, read))]
    axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(len(before.shape))})])
    loops += [axes[a] for a, n in enumerate(before.shape) if n == after.shape[a]]
    body = Body()
    copy(body, [*loops, *lanes], y, x, 0, 0)
    return body.text()


def _depth_cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> Cuts:
    """Keep a cut of samples, and one of the plane where blocks stay whole."""
    side, cut = node.attributes["blocksize"], given[0]
    if cut.within({0}):
        return [cut], [cut]
    if not cut.within({2, 3}):
        return [PLAIN], [PLAIN]
    if node.op == "DepthToSpace":
        return [cut], [Cut.of({a: (g, b * side) for a, g, b in cut.axes})]
    if any(b % side for _, _, b in cut.axes):
        return [PLAIN], [PLAIN]
    return [cut], [Cut.of({a: (g, b // side) for a, g, b in cut.axes})]


def _depth(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step) -> str:
    """Copy between [n, c, h, side, w, side] and the same with both sides among the channels."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    deep, wide = (x.layout, y.layout) if node.op == "DepthToSpace" else (y.layout, x.layout)
    side, channels = node.attributes["blocksize"], wide.shape[1]
    first = node.get("mode", "DCR") == "DCR"  # the block is the slower part of the depth
    channel, row, column = (1, side * channels, channels) if first else (side * side, side, 1)
    n, c, h, w = wide.strides
    depth = deep.strides[1]

    def loop(extent: int, of_deep: int, of_wide: int) -> Axis:
        return Axis(extent, (of_wide, of_deep) if wide is y.layout else (of_deep, of_wide))

    loops = [
        loop(deep.blocks[0], deep.strides[0], n),
        loop(channels, channel * depth, c),
        loop(deep.blocks[2], deep.strides[2], h * side),
        loop(side, row * depth, h),
        loop(deep.blocks[3], deep.strides[3], w * side),
        loop(side, column * depth, w),
        loop(deep.lanes, 1, 1),
    ]
    body = Body()
    copy(body, loops, y, x, 0, 0)
    return body.text()


KERNELS = (
    Kernel(("Slice",), _slice, cuts=_slice_cuts, order=keep_order),
    Kernel(("Split",), _split, carry=_split_carry, order=keep_order),
    Kernel(("Tile",), _tile, carry=_tile_carry, order=keep_order),
    Kernel(("Expand",), pointwise(lambda *_: "x0", _expanding), carry=_expand_carry),
    Kernel(("DepthToSpace", "SpaceToDepth"), _depth, cuts=_depth_cuts),
)
