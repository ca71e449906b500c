"""What convolution and pooling share: windows, how planes are cut over lanes, and the halos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Halo, Machine, Types
from secateur.compiler.layout import PLAIN, Cut

AHEAD = "ahead"
"""Attribute of a windowed node: see `grid`. It is the plan's own, for no operator means it."""

MOST_WORK = 1.125
"""Work of a cut that stays whole for later windows, of the least work: to lay a value out anew
costs about as much as a layer of sixteen channels."""


@dataclass(frozen=True)
class Window:
    """A sliding window, by spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def window(node: Node, kernel: Sequence[int]) -> Window:
    """Return the window of a node with explicit `pads`, `strides` and `dilations`."""
    rank = len(kernel)
    pads = tuple(node.get("pads", (0,) * 2 * rank))
    return Window(
        tuple(kernel),
        tuple(node.get("strides", (1,) * rank)),
        tuple(node.get("dilations", (1,) * rank)),
        pads[:rank],
        pads[rank:],
    )


def spatial_cuts(
    node: Node, types: Types, cut: Cut, machine: Machine, batch: bool, kernel: Sequence[int]
) -> tuple[Cut, Cut]:
    """Return the cuts of input and output of a windowed operator.

    A cut of the batch is kept. A cut of the plane is kept where blocks of the input are whole
    multiples of the stride; else a new one is chosen, or none, where there are too few positions.
    """
    if cut.axes and cut.within({0}):
        return cut, cut
    rank = len(kernel)
    win = window(node, kernel)
    planes = types[node.inputs[0]].shape[2:], types[node.outputs[0]].shape[2:]
    if batch:
        return PLAIN, PLAIN
    if cut.axes and cut.within(set(range(2, 2 + rank))):
        out = {}
        for axis, (lanes, block) in cut.as_dict().items():
            stride = win.strides[axis - 2]
            if block % stride or block // stride * lanes < planes[1][axis - 2]:
                break
            out[axis] = (lanes, block // stride)
        else:
            return cut, Cut.of(out)
    return grid(planes, win, machine, rank, node.get(AHEAD, ()))


def grid(
    planes: tuple[Sequence[int], Sequence[int]],
    win: Window,
    machine: Machine,
    rank: int,
    ahead: Sequence[tuple[int, ...]] = (),
) -> tuple[Cut, Cut]:
    """Cut the last two axes of the plane over the lanes.

    Args:
        planes: extents of the input's and of the output's.
        win: the window between them.
        machine: how many lanes there are.
        rank: axes of a plane.
        ahead: by axis, strides of the windows that come later, one product for each of them:
            blocks that are multiples of it stay whole there.

    Of those that add little work, the cut that stays whole for most windows; then the least work,
    then the squarest.
    """
    if prod(planes[1]) < 2:
        return PLAIN, PLAIN
    found = [_blocks(planes, win, machine, rank, (1,) * rank)]
    found += [_blocks(planes, win, machine, rank, strides) for strides in ahead]
    least = prod(found[0][1].values())
    lanes, blocks = next(f for f in reversed(found) if prod(f[1].values()) <= MOST_WORK * least)
    used = {2 + a: (g, blocks[a]) for a, g in lanes.items()}
    return (
        Cut.of({a: (g, b * win.strides[a - 2]) for a, (g, b) in used.items()}),
        Cut.of(used),
    )


def _blocks(
    planes: tuple[Sequence[int], Sequence[int]],
    win: Window,
    machine: Machine,
    rank: int,
    strides: Sequence[int],
) -> tuple[dict[int, int], dict[int, int]]:
    """Return by axis the lanes and the block of the output, a multiple of a stride."""
    axes = list(range(rank))[-2:]
    options = []
    powers = [2**k for k in range(machine.lanes.bit_length())]
    for lanes in product(powers, repeat=len(axes)):
        if prod(lanes) > machine.lanes:
            continue
        blocks = []
        for a, g in zip(axes, lanes, strict=True):
            needed = max(planes[1][a], -(-planes[0][a] // win.strides[a]))
            blocks.append(-(-needed // g // strides[a]) * strides[a])
        options.append((prod(blocks), max(lanes) / min(lanes), lanes, blocks))
    _, _, lanes, blocks = min(options)
    return dict(zip(axes, lanes, strict=True)), dict(zip(axes, blocks, strict=True))


def window_halo(
    win: Window, types: Types, node: Node, cut: Cut, out: Cut, padding: float
) -> Halo | None:
    """Return the halo that a window needs around blocks of its input; None where it needs none."""
    x, y = types[node.inputs[0]].shape, types[node.outputs[0]].shape
    before, after, inexact = [0, 0], [0, 0], False
    for k in range(len(win.kernel)):
        axis = 2 + k
        mine, its = cut.as_dict().get(axis), out.as_dict().get(axis)
        block = mine[1] if mine else x[axis]
        outs = its[1] if its else y[axis]
        reach = (outs - 1) * win.strides[k] + (win.kernel[k] - 1) * win.dilations[k]
        before.append(win.before[k])
        after.append(max(0, reach - win.before[k] - (block - 1)))
        if mine and mine[0] * mine[1] != x[axis] and win.kernel[k] > 1:
            inexact = True
    if not any(before) and not any(after) and not inexact:
        return None
    return Halo(tuple(before), tuple(after), padding)
