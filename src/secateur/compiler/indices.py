"""Inputs that pick from an axis, such as the numbers of tokens, and what they may be.

ONNX calls an index outside its axis an error. Where an index is a number of an input as it was
given, the engine looks at it before it runs, and refuses the call; an index that is computed
is held to its axis without a word (see `kernels.indexing`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secateur.compiler.graph import Graph, Node

Range = tuple[int, int]

WIDTHS = (np.dtype(np.int32), np.dtype(np.int64))
"""What indices are given as; an input of others is not looked at."""

_WHOLE = frozenset({
    "Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators whose output has all numbers of their first input, and no others."""


def ranges(graph: Graph, *, batched: bool) -> dict[str, Range]:
    """Return by input the least and the greatest number it may hold, of those that pick.

    Indices count from the end, too: from -n to n - 1 for an axis of n.

    Args:
        graph: as it was read, with types.
        batched: its first axis counts samples, of which a call may have others.
    """
    allowed: dict[str, Range] = {}
    live = set(graph.outputs)
    for node in reversed(graph.nodes):  # whoever reads a value comes before who makes it
        if live.isdisjoint(node.outputs):
            continue
        live.update(node.inputs)
        for value, (low, high) in _allowed(graph, node, allowed, batched=batched):
            least, most = allowed.get(value, (low, high))
            allowed[value] = max(low, least), min(high, most)
    return {
        name: allowed[name]
        for name in graph.inputs
        if name in allowed and graph.types[name].dtype in WIDTHS
    }


def _allowed(
    graph: Graph, node: Node, known: dict[str, Range], *, batched: bool
) -> Iterator[tuple[str, Range]]:
    if node.op in {"Gather", "GatherElements"}:
        data, index = node.inputs
        axis = node.get("axis", 0) % len(graph.types[data].shape)
        if data in graph.constants or axis or not batched:
            extent = graph.types[data].shape[axis]
            yield index, (-extent, extent - 1)
    elif node.op in _WHOLE or node.op == "Concat":
        given = node.inputs if node.op == "Concat" else node.inputs[:1]
        for output in node.outputs:
            if output in known:
                yield from ((value, known[output]) for value in given)
