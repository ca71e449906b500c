"""Normalization by statistics of the input itself: mean first, then the mean square around it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Carry, Kernel, Machine, Place, Step, Types, carried
from secateur.compiler.kernels.elementwise import order
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.folding import Folding, Form
from secateur.compiler.kernels.nest import Axis, Carried, spread
from secateur.compiler.layout import PLAIN, Cut

Cuts = tuple[list[Cut | None], list[Cut]]


def _trailing(shapes: Sequence[tuple[int, ...] | None], first: int) -> list[Carry | None]:
    """Return what each input carries: scale and bias broadcast to the first."""
    rank = len(shapes[0] or ())
    return [
        None
        if shape is None
        else {a: a + rank - len(shape) for a in range(len(shape)) if a + rank - len(shape) < first}
        for shape in shapes
    ]


def _first(node: Node, rank: int) -> int:
    """Return the first of the axes that are normalized together."""
    return int(node.get("axis", -1)) % rank


def _layer_cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> Cuts:
    """Carry whatever is cut before the normalized axes."""
    shapes = [types[name].shape if name else None for name in node.inputs]
    maps = _trailing(shapes, _first(node, len(shapes[0] or ())))
    wanted, out = carried(node, types, given, maps)
    if len(out.axes) > 1 and any(cut != PLAIN for cut in wanted[1:]):
        # lanes of two axes, of which a scale would have one
        wanted, out = [PLAIN] * len(wanted), PLAIN
    return wanted, [out] * len(node.outputs)


def _channel_cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> Cuts:
    """Carry samples; lanes that hold parts of a plane are folded together."""
    x = types[node.inputs[0]]
    plane = given[0].within(set(range(2, len(x.shape)))) and x.dtype == np.float32
    kept = plane or given[0].within({0})
    cut = given[0] if kept else PLAIN
    return [cut, PLAIN, PLAIN], [cut]


def _statistics(f: Folding, form: Form, count: int, epsilon: str, centred: bool) -> None:
    """Declare `mean` and `inverse`, one over the deviation."""
    dtype = f.values[0].dtype
    root, n = ("sqrtf" if dtype == np.float32 else "sqrt"), literal(count, dtype)
    if centred:
        f.fold(form, "sum", "sum")
        f.array(form, "mean", f"sum[l] / {n}")
    f.fold(form, "squares", "squares", shift="mean" if centred else "")
    f.array(form, "inverse", f"1 / {root}(squares[l] / {n} + {epsilon})")


def _layer(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """LayerNormalization and RMSNormalization."""
    x, scale, bias = (*inputs, None)[:3]
    assert x is not None
    assert scale is not None
    rank = len(x.layout.shape)
    first = _first(node, rank)
    read = [place for place in (x, scale, bias) if place is not None]
    values: list[tuple[Place, Carried]] = [
        (p, {a: a + rank - len(p.layout.shape) for a in range(len(p.layout.shape))}) for p in read
    ]
    whole = {a: a for a in range(rank)}
    values += [(place, whole) for place in outputs]
    names = [name for name in node.outputs if name]
    folded = range(first, rank)
    count = prod(x.layout.shape[a] for a in folded)
    centred = node.op == "LayerNormalization"
    y = len(read)
    f = Folding(values, folded, step.machine.lanes, outputs=len(outputs))
    epsilon = literal(node.get("epsilon", 1e-5), x.dtype)
    arrays = ["mean", "inverse"] if centred else ["inverse"]
    for form in f.forms():
        opened = f.open(form, weight=4)
        _statistics(f, form, count, epsilon, centred)
        for k, output in enumerate(node.outputs):
            if k and output:
                f.store(form, y + names.index(output), f"{arrays[k - 1]}[l]")
        if node.outputs[0]:
            at = len(read)
            text = f"(x0 - x{at}) * x{at + 1} * x1" if centred else f"x0 * x{at} * x1"
            text += " + x2" if bias is not None else ""
            f.apply(form, y, range(len(read)), arrays, text)
        f.close(opened)
    return f.text()


def _channels(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step
) -> str:
    """InstanceNormalization and GroupNormalization: an instance is a group of one channel."""
    x, scale, bias = inputs
    assert x is not None
    assert scale is not None
    assert bias is not None
    rank = len(x.layout.shape)
    channels = x.layout.shape[1]
    groups = node.get("num_groups", channels) if node.op == "GroupNormalization" else channels
    values: list[tuple[Place, Carried]] = [
        (x, {}),
        (scale, {0: 1}),
        (bias, {0: 1}),
        (outputs[0], {a: a for a in range(rank)}),
    ]
    loops, _ = spread(x.layout, [(p.layout, where) for p, where in values[1:]])
    each, a_group = loops[1], channels // max(1, groups)
    of_groups = Axis(groups, tuple(step * a_group for step in each.steps))
    plane = [(loops[a], a) for a in range(2, rank)]
    axes = [(loops[0], 0), (of_groups, 1), (Axis(a_group, each.steps), 1), *plane]
    f = Folding(values, range(2, len(axes)), step.machine.lanes, axes=axes)
    count = a_group * prod(x.layout.shape[2:])
    epsilon = literal(node.get("epsilon", 1e-5), x.dtype)
    for form in f.forms():
        opened = f.open(form, weight=4)
        _statistics(f, form, count, epsilon, True)
        f.apply(form, 3, range(3), ["mean", "inverse"], "(x0 - x3) * x4 * x1 + x2")
        f.close(opened)
    return f.text()


KERNELS = (
    Kernel(("LayerNormalization", "RMSNormalization"), _layer, cuts=_layer_cuts, order=order),
    Kernel(
        ("InstanceNormalization", "GroupNormalization"), _channels, cuts=_channel_cuts, order=order
    ),
)
