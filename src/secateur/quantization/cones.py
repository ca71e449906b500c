"""Functions of one number, made of several operators: what becomes a table of 256 entries."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from secateur.compiler.graph import Graph, Node

UNARY = frozenset({
    "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu",
    "Mish", "Neg", "PRelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign",
    "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
})  # fmt: skip
BINARY = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})


def source_of(
    graph: Graph, value: str, makers: Mapping[str, Node], ends: Collection[str]
) -> str | None:
    """Return the value that another one is a function of, element by element; None if none is.

    Args:
        graph: its values have types.
        value: where the function ends.
        makers: `graph.producers()`.
        ends: values that are not looked behind.
    """
    order = {node.name: k for k, node in enumerate(graph.nodes)}
    found = None
    while True:
        behind = _one_step(graph, found or value, makers, ends, order)
        if behind is None:
            return found
        found = behind


def _one_step(
    graph: Graph,
    value: str,
    makers: Mapping[str, Node],
    ends: Collection[str],
    order: Mapping[str, int],
) -> str | None:
    """Return the nearest value that a value is a function of."""
    if value in ends:
        return None
    front = {value}
    while True:
        last = max(front, key=lambda v: order[makers[v].name] if v in makers else -1)
        node = makers.get(last)
        if node is None or (last in ends and last != value) or not _elementwise(graph, node):
            return None
        front.remove(last)
        front |= {v for v in node.inputs if v and v not in graph.constants}
        if len(front) == 1:
            (only,) = front
            return only if graph.types[only] == graph.types[value] else None


def _elementwise(graph: Graph, node: Node) -> bool:
    """Whether every element that a node gives depends on elements in the same place alone."""
    if node.op not in UNARY | BINARY or len(node.outputs) != 1:
        return False
    shape = graph.types[node.outputs[0]].shape
    for value in node.inputs:
        if value in graph.constants:
            if graph.constants[value].size != 1:
                return False
        elif value and graph.types[value].shape != shape:
            return False
    return True
