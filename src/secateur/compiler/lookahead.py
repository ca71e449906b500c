"""What later windows want of a plane's cut: blocks that their strides divide.

A plane is cut over the lanes where it first meets a window. Each later stride must divide the
blocks, or the value is laid out anew, which costs as much as a small layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from secateur.compiler.graph import Graph, Node
from secateur.compiler.kernels.windows import AHEAD
from secateur.compiler.ops import pooling

Strides = tuple[int, ...]


def marked(graph: Graph) -> Graph:
    """Return the graph with what is ahead of each windowed node as an attribute of it."""
    wanted: dict[str, tuple[Strides, ...]] = {}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        later = wanted.get(node.output, ())
        strides = _strides(graph, node)
        ahead = {AHEAD: later} if strides is not None and later else {}
        if strides is not None:
            wider = tuple(tuple(map(int.__mul__, strides, s)) for s in later)
            _want(wanted, node.inputs[0], (strides, *wider) if max(strides) > 1 else wider)
        for name in node.inputs if strides is None else node.inputs[1:]:
            if name and later and _alike(graph, name, node.output):
                _want(wanted, name, later)
        nodes.append(replace(node, attributes={**node.attributes, **ahead}))
    return graph.with_(nodes=tuple(reversed(nodes)))


def _want(wanted: dict[str, tuple[Strides, ...]], name: str, later: Sequence[Strides]) -> None:
    """Note what one reader of a value wants; the one that goes furthest is heard."""
    if len(later) > len(wanted.get(name, ())):
        wanted[name] = tuple(later)


def _strides(graph: Graph, node: Node) -> Strides | None:
    """Return the strides of a windowed operator, by spatial axis; None for any other."""
    rank = len(graph.types[node.inputs[0]].shape) - 2 if node.inputs and node.inputs[0] else 0
    if node.op in ("FusedConv", "QuadConv"):
        return tuple(node.get("strides", (1,) * rank))
    if node.op in ("AveragePool", "MaxPool", "QuadAveragePool", "QuadMaxPool"):
        return tuple(pooling.pool_window(node, graph.types[node.inputs[0]].shape[2:]).strides)
    return None


def _alike(graph: Graph, value: str, other: str) -> bool:
    """Return whether two values have planes of the same extents."""
    a, b = graph.types[value].shape, graph.types[other].shape
    return len(a) == len(b) and a[2:] == b[2:]
