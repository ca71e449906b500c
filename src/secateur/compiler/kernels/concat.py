"""Values one after the other along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.nest import Axis, spread
from secateur.compiler.kernels.selection import copy, keep_order


def carry(node: Node, types: Types) -> list[Carry | None]:
    """Any axis but the one along which values are joined."""
    rank = len(types[node.outputs[0]].shape)
    axis = node.get("axis", 0) % rank
    return [{a: a for a in range(rank) if a != axis} for _ in node.inputs]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step) -> str:
    """Copy each input to its place."""
    y, body, start = outputs[0], Body(), 0
    rank = len(y.layout.shape)
    axis = node.get("axis", 0) % rank
    for x in inputs:
        assert x is not None
        axes, lanes = spread(x.layout, [(y.layout, {a: a for a in range(rank)})])
        loops = [Axis(a.extent, a.steps[::-1]) for a in (*axes, *lanes)]
        copy(body, loops, y, x, start * y.layout.strides[axis], 0)
        start += x.layout.shape[axis]
    return body.text()


KERNELS = (Kernel(("Concat",), emit, carry=carry, order=keep_order),)
