"""What becomes of levels, element by element, as a table of all 256 of them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops import find
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.passes.grids import Grid

_DOUBLE = next(n for n, dtype in ELEMENT_TYPES.items() if dtype == np.float64)

ELEMENTWISE = frozenset({
    "Abs", "Activation", "Add", "Celu", "Clip", "Cos", "Dequantize", "Div", "Elu", "Erf", "Exp",
    "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg",
    "Pow", "Quantize", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign",
    "Sqrt", "Sub", "Swish", "Tanh", "ThresholdedRelu",
})  # fmt: skip
"""Operators that treat every element by itself, where their other inputs are single numbers."""

MOST = 64
"""Nodes that are looked at, for one table."""


def source(
    graph: Graph, constants: Mapping[str, np.ndarray], value: str, known: Container[str]
) -> str | None:
    """Return the one dequantised value that a value depends on, element by element; or None.

    Args:
        graph: with types. constants: of it.
        value: of float32.
        known: the dequantised values.
    """
    nodes = _between(graph, constants, value, known)
    if not nodes:
        return None
    made = {node.outputs[0] for node in nodes}
    read = {v for node in nodes for v in node.inputs if v} - made - constants.keys()
    (found,) = read if len(read) == 1 else (None,)
    return found


def _between(
    graph: Graph, constants: Mapping[str, np.ndarray], value: str, known: Container[str]
) -> list[Node]:
    """Return the nodes from dequantised values to this one, in order; [] if others are there."""
    makers, wanted, found = graph.producers(), [value], dict[str, Node]()
    while wanted:
        name = wanted.pop()
        if name in known or (name in constants and constants[name].size == 1):
            continue
        node = makers.get(name)
        if node is None or node.op not in ELEMENTWISE or len(node.outputs) != 1:
            return []
        if graph.types[name].shape != graph.types[value].shape or len(found) > MOST:
            return []
        found[node.name] = node
        wanted += [v for v in node.inputs if v]
    return [node for node in graph.nodes if node.name in found]


def table(
    graph: Graph, constants: Mapping[str, np.ndarray], node: Node, given: str, grid: Grid
) -> np.ndarray:
    """Return what a Quantize gives for each level of a dequantised value: uint8 [256].

    It is computed in float64, so that it does not depend on how a machine approximates functions.

    Args:
        graph, constants: as for `source`.
        node: the Quantize.
        given: the value that `source` found.
        grid: of its levels.
    """
    nodes = _between(graph, constants, node.inputs[0], {given})
    numbers = (np.arange(256) - grid.zero).astype(np.float32) * np.float32(grid.scale)
    values: dict[str, np.ndarray] = {given: numbers.astype(np.float64)}
    with np.errstate(all="ignore"):
        for n in (*nodes, node):
            its = [constants[v].reshape(()) if v in constants else values.get(v) for v in n.inputs]
            arrays = tuple(
                a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in its
            )
            (values[n.outputs[0]],) = find(n).reference(_wide(n), arrays)
    levels = values[node.outputs[0]]
    return (levels.astype(np.int64) + (128 if levels.dtype == np.int8 else 0)).astype(np.uint8)


def _wide(node: Node) -> Node:
    """Return a node that gives float64 where it gave float32."""
    if node.op != "Dequantize":
        return node
    return replace(node, attributes={**node.attributes, "to": _DOUBLE})
