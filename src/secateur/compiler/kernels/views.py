"""Operators that only rename positions: no copy where strides allow it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Machine, Place, Step, Types, lane
from secateur.compiler.layout import PLAIN, Cut, Layout


def groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match axes of two shapes of equal size: lists of axes whose products are the same.

    Axes of extent 1 join the group that precedes them.
    """
    found: list[tuple[list[int], list[int]]] = []
    if prod(before) == 0:  # nothing there: no matter how
        return [([*range(len(before))], [*range(len(after))])]
    i = j = 0
    while i < len(before) or j < len(after):
        mine, its = ([i] if i < len(before) else []), ([j] if j < len(after) else [])
        i, j = i + len(mine), j + len(its)
        while (left := prod(before[a] for a in mine)) != (right := prod(after[a] for a in its)):
            if left < right:
                mine.append(i)
                i += 1
            else:
                its.append(j)
                j += 1
        if not mine or not its:  # trailing axes of extent 1
            if found:
                found[-1][0].extend(mine)
                found[-1][1].extend(its)
            else:
                found.append((mine, its))
        else:
            found.append((mine, its))
    return found


def reshape_cuts(
    node: Node, types: Types, cuts: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Keep a cut whose blocks stay contiguous ranges of an axis of the output."""
    before, after = types[node.inputs[0]].shape, types[node.outputs[0]].shape
    rest: list[Cut | None] = [PLAIN] * (len(node.inputs) - 1)
    cut = cuts[0].as_dict()
    out: dict[int, tuple[int, int]] = {}
    for mine, its in groups(before, after):
        lanes = [a for a in mine if a in cut]
        if not lanes:
            continue
        real = [a for a in mine if before[a] > 1]
        target = [a for a in its if after[a] > 1]
        axis = lanes[0]
        g, block = cut[axis]
        if len(lanes) > 1 or not target or axis != real[0]:
            return [PLAIN, *rest], [PLAIN]
        inside = block * prod(before[a] for a in real[1:])  # elements of the group a lane holds
        after_first = prod(after[a] for a in target[1:])
        if inside % after_first or (len(target) > 1 and g * block != before[axis]):
            return [PLAIN, *rest], [PLAIN]
        if len(real) > 1 and g * block != before[axis]:
            return [PLAIN, *rest], [PLAIN]
        out[target[0]] = (g, inside // after_first)
    return [cuts[0], *rest], [Cut.of(out)]


def reshape_view(node: Node, types: Types, layout: Layout) -> Layout | None:
    """Return the same memory under the new shape, where strides within each group allow it."""
    shape = types[node.outputs[0]].shape
    _, outs = reshape_cuts(node, types, [layout.cut], Machine(layout.lanes, 0), False)
    cut = outs[0]
    blocks = Layout(shape, cut, layout.lanes, (0,) * len(shape), (), ()).blocks
    strides = [0] * len(shape)
    for mine, its in groups(layout.shape, shape):
        real = [a for a in mine if layout.blocks[a] > 1]
        for outer, inner in pairwise(real):
            if layout.strides[outer] != layout.strides[inner] * layout.blocks[inner]:
                return None
        step = layout.strides[real[-1]] if real else layout.lanes
        for a in reversed(its):
            strides[a] = step
            step *= blocks[a]
    none = (0,) * len(shape)
    return Layout(shape, cut, layout.lanes, tuple(strides), none, none)


def reshape(
    _node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    """Copy in row-major order of positions within the block, which is the same on both sides."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    body = Body()
    names = [f"i{a}" for a in range(len(y.layout.shape))]
    body.line(f"const {x.c} *x = {x.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    opened = body.loops(y.layout.blocks, names)
    index = ["0"] * len(x.layout.shape)
    for mine, its in groups(x.layout.shape, y.layout.shape):
        flat = "0"  # where it is among those of the group
        for a in its:
            flat = f"({flat}) * {y.layout.blocks[a]} + {names[a]}" if flat != "0" else names[a]
        below, real = 1, [a for a in mine if x.layout.blocks[a] > 1]
        for a in reversed(real):  # a division in the loops of this group alone
            whole = f"({flat}) / {below}" if below > 1 else f"({flat})"
            index[a] = f"{whole} % {x.layout.blocks[a]}" if a != real[0] else whole
            below *= x.layout.blocks[a]
    if y.layout.lanes > 1:
        body.lanes(y.layout.lanes)
        opened += 1
    body.line(f"y[{y.at(names)}{lane(y)}] = x[{x.at(index)}{lane(x)}];")
    body.close(opened)
    return body.text()


def permutation(node: Node, types: Types) -> tuple[int, ...]:
    """Return `perm` of a Transpose: output axis k is input axis perm[k]."""
    rank = len(types[node.outputs[0]].shape)
    return tuple(node.get("perm", tuple(reversed(range(rank)))))


def transpose_carry(node: Node, types: Types) -> list[Carry | None]:
    """Any cut is carried along."""
    return [{a: k for k, a in enumerate(permutation(node, types))}]


def _in_order(cut: Cut, perm: Sequence[int]) -> bool:
    """Whether axes that are cut stay in their order."""
    places = [perm.index(axis) for axis, _, _ in cut.axes]
    return places == sorted(places)


def transpose_view(node: Node, types: Types, layout: Layout) -> Layout | None:
    """Return the same memory, axes renamed; not where two axes that are cut change places."""
    perm = permutation(node, types)
    if not _in_order(layout.cut, perm):
        return None
    where = {a: k for k, a in enumerate(perm)}
    none = (0,) * len(perm)
    return Layout(
        types[node.outputs[0]].shape,
        layout.cut.moved(where),
        layout.lanes,
        tuple(layout.strides[a] for a in perm),
        none,
        none,
    )


def transpose(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    """Copy in the order of the output."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    rank = len(y.layout.shape)
    perm = tuple(node.get("perm", tuple(reversed(range(rank)))))
    names = [f"i{a}" for a in range(rank)]
    body = Body()
    body.line(f"const {x.c} *x = {x.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    axes = y.layout.order
    opened = body.loops([y.layout.blocks[a] for a in axes], [names[a] for a in axes])
    index = [""] * rank
    for k, a in enumerate(perm):
        index[a] = names[k]
    if y.layout.lanes > 1:
        body.lanes(y.layout.lanes)
        opened += 1
    body.line(f"y[{y.at(names)}{lane(y)}] = x[{x.at(index)}{lane(x)}];")
    body.close(opened)
    return body.text()


def transpose_cuts(
    node: Node, types: Types, cuts: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Carry cut axes along, unless they change places: their lanes would have to as well."""
    cut = cuts[0] if _in_order(cuts[0], permutation(node, types)) else PLAIN
    where = transpose_carry(node, types)[0] or {}
    return [cut], [cut.moved(where)]


KERNELS = (
    Kernel(
        ops=("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        emit=reshape,
        cuts=reshape_cuts,
        view=reshape_view,
    ),
    Kernel(ops=("Transpose",), emit=transpose, cuts=transpose_cuts, view=transpose_view),
)
