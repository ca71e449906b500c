"""Operators that treat every element by itself, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types, lane
from secateur.compiler.layout import Cut, Layout


def carry(node: Node, types: Types) -> list[Carry | None]:
    """Broadcasting: axes correspond counted from the last."""
    rank = len(types[node.outputs[0]].shape)
    return [
        {a: a + rank - len(types[name].shape) for a in range(len(types[name].shape))}
        if name
        else None
        for name in node.inputs
    ]


def order(
    node: Node, types: Types, layouts: Sequence[Layout | None], _cut: Cut
) -> Sequence[int] | None:
    """Keep the order of an input that has the output's shape."""
    shape = types[node.outputs[0]].shape
    return next((x.order for x in layouts if x is not None and x.shape == shape), None)


def pointwise(
    expression: Callable[[Node, Sequence[Place]], str],
) -> Callable[[Node, Sequence[Place | None], Sequence[Place], Step], str]:
    """Return an `emit` that writes one expression of `x0`, `x1`, ... for every element.

    Args:
        expression: (node, places of the inputs that are there) -> C expression.
    """

    def emit(
        node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
    ) -> str:
        given = [place for place in inputs if place is not None]
        out = outputs[0]
        body = Body()
        names = [f"i{a}" for a in range(len(out.layout.shape))]
        axes = out.layout.order
        for k, place in enumerate(given):
            body.line(f"const {place.c} *a{k} = {place.ref};")
        body.line(f"{out.c} *y = {out.ref};")
        opened = body.loops([out.layout.blocks[a] for a in axes], [names[a] for a in axes])
        for k, place in enumerate(given):
            own = names[len(names) - len(place.layout.shape) :]
            body.line(f"const {place.c} *p{k} = a{k} + {place.at(own)};")
        body.line(f"{out.c} *q = y + {out.at(names)};")
        if out.layout.lanes > 1:
            body.lanes(out.layout.lanes)
            opened += 1
        for k, place in enumerate(given):
            body.line(f"const {place.c} x{k} = *(p{k}{lane(place)});")
        body.line(f"*(q{lane(out)}) = {expression(node, given)};")
        body.close(opened)
        return body.text()

    return emit


ACTIVATIONS = {
    "": "SEC_NONE", "Relu": "SEC_RELU", "LeakyRelu": "SEC_LEAKY", "Clip": "SEC_CLIP",
    "Sigmoid": "SEC_SIGMOID", "HardSigmoid": "SEC_HARDSIGMOID", "HardSwish": "SEC_HARDSWISH",
    "Tanh": "SEC_TANH", "Gelu": "SEC_GELU", "GeluTanh": "SEC_GELUTANH", "Silu": "SEC_SILU",
    "Elu": "SEC_ELU", "Softplus": "SEC_SOFTPLUS",
}  # fmt: skip
"""Activations that a kernel can apply as it writes, as `vector.h` names them."""


def floating(x: float) -> str:
    """Return a float constant as exact C."""
    if x != x:
        return "NAN"
    if x in (float("inf"), float("-inf")):
        return "INFINITY" if x > 0 else "-INFINITY"
    return f"{float(x).hex()}f"


def activation(node: Node) -> str:
    """Return the three arguments (activation, alpha, beta) of `sec_act` and its kin."""
    name = ACTIVATIONS[node.get("activation", "")]
    return f"{name}, {floating(node.get('alpha', 0.0))}, {floating(node.get('beta', 0.0))}"


EXPRESSIONS: dict[str, Callable[[Node, Sequence[Place]], str]] = {
    "Activation": lambda node, _: f"sec_act1(x0, {activation(node)})",
    "Add": lambda *_: "x0 + x1",
    "Sub": lambda *_: "x0 - x1",
    "Mul": lambda *_: "x0 * x1",
    "Identity": lambda *_: "x0",
}

KERNELS = tuple(
    Kernel(ops=(op,), emit=pointwise(expression), carry=carry, order=order)
    for op, expression in EXPRESSIONS.items()
)
