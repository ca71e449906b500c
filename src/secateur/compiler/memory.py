"""How much memory a network's values take, before any of it is taken.

A file of a few bytes can ask for any amount: a shape and a number make a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator

from secateur.compiler.graph import Graph, Node, unsupported
from secateur.errors import CompileError

MOST_LIVE = 4 * 2**30
"""Bytes of values that are needed at the same time, of one sample."""

MOST_CONSTANT = 2**30
"""Bytes of a value that depends on no input."""


def check(graph: Graph) -> None:
    """Refuse a network whose values would take more memory than is sensible.

    Args:
        graph: its values all have types.

    Raises:
        CompileError: names the node whose output is the largest, and its size.
    """
    inputs = {*graph.inputs}
    for node in graph.nodes:
        if inputs.intersection(node.inputs):
            inputs.update(node.outputs)
        elif (size := _bytes(graph, node.outputs)) > MOST_CONSTANT:
            raise _too_large(graph, node, size, MOST_CONSTANT)
    for live, node in _above(graph):
        raise _too_large(graph, node, live, MOST_LIVE)


def _above(graph: Graph) -> Iterator[tuple[int, Node]]:
    """Yield the bytes of values that are needed at once where they are too many.

    With them comes the node that makes the largest of these values.
    """
    last = {value: k for k, node in enumerate(graph.nodes) for value in node.inputs}
    kept = {*graph.outputs}
    there: dict[str, tuple[int, Node]] = {}
    total = 0
    for k, node in enumerate(graph.nodes):
        for value in filter(None, node.outputs):
            there[value] = _bytes(graph, (value,)), node
            total += there[value][0]
        if total > MOST_LIVE:
            yield total, max(there.values(), key=lambda sized: sized[0])[1]
        for value in {*node.inputs, *node.outputs}:
            if value in there and last.get(value, -1) <= k and value not in kept:
                total -= there.pop(value)[0]


def _bytes(graph: Graph, values: tuple[str, ...]) -> int:
    tensors = [graph.types[value] for value in values if value]
    return sum(tensor.size * tensor.dtype.itemsize for tensor in tensors)


def _too_large(graph: Graph, node: Node, size: int, most: int) -> CompileError:
    shape = list(graph.types[next(filter(None, node.outputs))].shape)
    return unsupported(
        node,
        f"its output {shape} makes the network's values take {size / 2**30:.1f} GiB, more than "
        f"{most / 2**30:.0f}; compile it for smaller inputs (input_shapes=, --input-shape)",
    )
