"""Operators that treat every element by itself, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types, nest
from secateur.compiler.kernels.expressions import (
    ACTIVATIONS,
    EXPRESSIONS,
    HEAVY,
    Expression,
    activation,
    floating,
    literal,
)
from secateur.compiler.kernels.nest import Carried, Pointer, Run
from secateur.compiler.layout import Cut, Layout

__all__ = ["ACTIVATIONS", "KERNELS", "activation", "carry", "floating", "order", "pointwise"]

Maps = Callable[[Sequence[tuple[int, ...] | None], int], list[Carry | None]]
"""(shapes of the inputs, rank of the output) -> by input, its axis -> axis of the output."""


def trailing(shapes: Sequence[tuple[int, ...] | None], rank: int) -> list[Carry | None]:
    """Broadcasting: axes correspond counted from the last."""
    return [
        None if shape is None else {a: a + rank - len(shape) for a in range(len(shape))}
        for shape in shapes
    ]


def _first_alone(shapes: Sequence[tuple[int, ...] | None], rank: int) -> list[Carry | None]:
    """All inputs but the first are of one element, whatever their rank."""
    return [
        *trailing(shapes[:1], rank),
        *({} if shape is not None else None for shape in shapes[1:]),
    ]


def _of_channels(shapes: Sequence[tuple[int, ...] | None], rank: int) -> list[Carry | None]:
    """All inputs but the first hold one number a channel."""
    return [*trailing(shapes[:1], rank), *({0: 1} for _ in shapes[1:])]


def carry(node: Node, types: Types) -> list[Carry | None]:
    """Broadcasting: axes correspond counted from the last."""
    return _carry(trailing)(node, types)


def _carry(maps: Maps) -> Callable[[Node, Types], list[Carry | None]]:
    def find(node: Node, types: Types) -> list[Carry | None]:
        shapes = [types[name].shape if name else None for name in node.inputs]
        return maps(shapes, len(types[node.outputs[0]].shape))

    return find


def order(
    node: Node, types: Types, layouts: Sequence[Layout | None], _cut: Cut
) -> Sequence[int] | None:
    """Keep the order of an input that has the output's shape."""
    shape = types[node.outputs[0]].shape
    return next((x.order for x in layouts if x is not None and x.shape == shape), None)


def pointwise(
    expression: Expression,
    maps: Maps = trailing,
    weight: int = 1,
    run: Callable[[Node, Sequence[Place | None], Place], Run] | None = None,
) -> Callable[[Node, Sequence[Place | None], Sequence[Place], Step], str]:
    """Return an `emit` that writes one expression of `x0`, `x1`, ... for every element.

    Args:
        expression: (node, inputs, output) -> C expression.
        maps: which axes correspond.
        weight: cost of the expression, in additions.
        run: (node, inputs, output) -> the same of many elements at once.
    """

    def emit(
        node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
    ) -> str:
        out, body = outputs[0], Body()
        shapes = [None if place is None else place.layout.shape for place in inputs]
        where = maps(shapes, len(out.layout.shape))
        others: list[tuple[Layout, Carried]] = []
        pointers: list[Pointer | None] = []
        for k, (place, mine) in enumerate(zip(inputs, where, strict=True)):
            if place is None or mine is None:
                others.append((out.layout, {}))
                pointers.append(None)
                continue
            others.append((place.layout, mine))
            if place.constant is not None and place.constant.size == 1:
                number = literal(place.constant.reshape(-1)[0], place.dtype)
                body.line(f"const {place.c} x{k} = {number}; (void)x{k};")
                pointers.append(None)
            else:
                pointers.append(Pointer.to(place))
        axes, lanes = nest.spread(out.layout, others)
        loops = [*(axes[a] for a in out.layout.order), *lanes]
        text = expression(node, inputs, out)
        if out.dtype.itemsize < 4:  # C computes these as int
            text = f"({out.c})({text})"
        many = run(node, inputs, out) if run else None
        nest.each(body, loops, Pointer.to(out), pointers, text, weight=weight, run=many)
        return body.text()

    return emit


def _batch_norm(node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    epsilon = literal(node.get("epsilon", 1e-5), out.dtype)
    root = "sqrtf" if out.c == "float" else "sqrt"
    return f"({out.c})((x0 - x3) / {root}(x4 + {epsilon}) * x1 + x2)"


def _kernel(op: str, expression: Expression, maps: Maps = trailing) -> Kernel:
    weight = 16 if op in HEAVY or op == "Activation" else 1
    return Kernel((op,), pointwise(expression, maps, weight), carry=_carry(maps), order=order)


KERNELS = (
    *(
        _kernel(op, expression, _first_alone if op == "Clip" else trailing)
        for op, expression in EXPRESSIONS.items()
    ),
    _kernel("BatchNormalization", _batch_norm, _of_channels),
)
