"""What is rounded to levels, moved, and rounded to the same levels again is rounded once.

Quantised files round on both sides of every operator. An operator that only moves numbers gives
the same levels where it is given numbers that are not rounded yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from secateur.compiler.graph import Graph, Node
from secateur.compiler.passes.identity import sweep

MOVING = frozenset({
    "DepthToSpace", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that give numbers of their first input, and nothing else."""


def run(graph: Graph) -> Graph:
    """Return the graph without roundings that come again behind operators that only move.

    Args:
        graph: its values all have types.
    """
    readers, makers = graph.consumers(), graph.producers()
    same: dict[str, str] = {}  # a dequantised value -> the number before it was rounded
    nodes: list[Node] = []
    for old in graph.nodes:
        node = replace(old, inputs=tuple(same.get(name, name) for name in old.inputs))
        if node.op == "Dequantize":
            before = makers.get(node.inputs[0])
            if before is not None and _again(graph, readers, before, node):
                source = before.inputs[0]
                same[node.outputs[0]] = same.get(source, source)
                continue
        nodes.append(node)
    return sweep(graph.with_(nodes=tuple(nodes))) if same else graph


def _again(graph: Graph, readers: Mapping[str, Sequence[Node]], before: Node, after: Node) -> bool:
    """Whether all that reads a dequantised number moves it, and is then rounded as before.

    Args:
        graph, readers: of it. before: what quantises the number. after: what dequantises it.
    """
    number = after.outputs[0]
    if before.op != "Quantize" or number in graph.outputs:
        return False
    if any(before.get(part) != after.get(part) for part in ("scale", "zero")):
        return False  # levels are read as other numbers than they were made from
    its = readers.get(number, ())
    for node in its:
        if node.op not in MOVING or number in node.inputs[1:]:
            return False
        for value in filter(None, node.outputs):
            behind = readers.get(value, ())
            if value in graph.outputs or not behind:
                return False
            if any(n.op != "Quantize" or n.attributes != before.attributes for n in behind):
                return False
    return bool(its)
