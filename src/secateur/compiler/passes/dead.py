"""Channels that do nothing are removed.

A channel whose weights are all zero is a constant: its bias, seen through whatever activations
follow. Where a bias of its readers can stand for it, the channel goes, and so do the weights of
its readers. A channel that nobody reads goes too. Channels that a residual sum ties together go
together or not at all.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node, fresh
from secateur.compiler.passes import shapes
from secateur.compiler.passes.batchnorm import LINEAR
from secateur.compiler.passes.channels import (
    Channels,
    Linear,
    Spread,
    Tied,
    analysed,
    matrix_of,
)
from secateur.compiler.passes.identity import sweep


def run(graph: Graph, *, together: int = 1) -> Graph:
    """Return the graph without channels that are constant or unread; its values all have types.

    Inputs and outputs keep their shapes. At least one channel of a value stays.

    Args:
        graph: with types.
        together: so many channels in a row, from the first on, stay or go together.
    """
    found = analysed(graph, together=together)
    if all(keep.all() for keep in found.keep.values()):
        return graph
    rewriter = _Rewriter(graph, found)
    for node in graph.nodes:
        rewriter.visit(node)
    return shapes.run(sweep(graph.with_(nodes=tuple(rewriter.nodes), constants=rewriter.constants)))


def in_fours(graph: Graph) -> Graph:
    """Return the graph as `run` does, or without whole fours of such channels only.

    Channels that move up break up zeros that lie in fours along a layer's inputs, which int8
    kernels skip. So what leaves fewer fours of weights with a non-zero is taken.
    """
    alone = run(graph)
    if alone is graph:
        return graph
    together = run(graph, together=4)
    return together if _fours(together) < _fours(alone) else alone


def _fours(graph: Graph) -> int:
    """Count the fours of weights along inputs, at one output and tap, that are not all zero."""
    count = 0
    for node in graph.nodes:
        weights = graph.constants.get(node.inputs[1]) if node.op in LINEAR else None
        matrix = None if weights is None else matrix_of(node, weights)
        if matrix is not None and matrix.size:
            starts = range(0, matrix.shape[1], 4)
            count += int(np.logical_or.reduceat(matrix != 0, starts, axis=1).sum())
    return count


class _Rewriter:
    def __init__(self, graph: Graph, found: Channels) -> None:
        self.graph = graph
        self.found = found
        self.constants = dict(graph.constants)
        self.taken = {*graph.types, *(node.name for node in graph.nodes)}
        self.nodes: list[Node] = []

    def visit(self, node: Node) -> None:
        role = self.found.roles.get(node.name)
        match role:
            case Linear():
                self._linear(node, role)
            case Tied():
                self.nodes.append(self._tied(node))
            case Spread():
                self.nodes.append(self._spread(node, role))
            case _:
                self.nodes.append(node)

    def _linear(self, node: Node, role: Linear) -> None:
        rows = self.found.keep[role.output]
        columns = np.ones(role.reads.shape[1], np.bool_)
        known = np.full(len(columns), np.nan)
        if role.source:
            columns, known = self.found.keep[role.source], self.found.known[role.source]
        if rows.all() and columns.all():
            self.nodes.append(node)
            return
        gone = np.where(columns | np.isnan(known), 0, known)
        moved = role.of_constants(gone)[rows]
        weights = self.graph.constants[node.inputs[1]]
        if node.op == "Conv" or (node.op == "Gemm" and node.get("transB", 0)):
            weights = weights[rows][:, columns]
        else:
            weights = weights[columns][:, rows]
        inputs: tuple[str, ...] = (node.inputs[0], self._constant(node, "weight", weights))
        attributes = dict(node.attributes)
        bias = (role.bias[rows] + moved).astype(weights.dtype)
        if node.op == "MatMul":
            if moved.any():
                middle = self._name(f"{node.name}_product")
                self.nodes.append(replace(node, inputs=inputs, outputs=(middle,)))
                shift = self._constant(node, "bias", bias)
                name = self._name(f"{node.name}_bias")
                self.nodes.append(Node("Add", name, (middle, shift), node.outputs))
                return
        elif moved.any() or len(node.inputs) > 2:
            inputs += (self._constant(node, "bias", bias),)
        if node.op == "Gemm":
            attributes["beta"] = 1.0
        self.nodes.append(replace(node, inputs=inputs, attributes=attributes))

    def _tied(self, node: Node) -> Node:
        """Take the channels that go out of the constants that a node reads."""
        (output,) = node.outputs
        keep, axis = self.found.keep[output], self.found.axis[output]
        if keep.all():
            return node
        rank = len(self.graph.types[output].shape)
        attributes = dict(node.attributes)
        if node.op == "Conv":  # depthwise: weights and bias begin with the channels
            inputs = list(node.inputs)
            for place in range(1, len(inputs)):
                array = self.graph.constants[inputs[place]][keep]
                inputs[place] = self._constant(node, "weight", array)
            attributes["group"] = int(keep.sum())
            return replace(node, inputs=tuple(inputs), attributes=attributes)
        inputs = list(node.inputs)
        for place, name in enumerate(inputs):
            array = self.graph.constants.get(name)
            if array is None or node.op.startswith("Reduce"):
                continue
            at = axis - rank + array.ndim
            if at >= 0 and array.shape[at] == len(keep) and len(keep) > 1:
                inputs[place] = self._constant(node, "part", np.compress(keep, array, axis=at))
        return replace(node, inputs=tuple(inputs))

    def _spread(self, node: Node, role: Spread) -> Node:
        """Say the new shape, which the old node may have said in numbers."""
        keep = self.found.keep[role.output]
        if keep.all():
            return node
        shape = list(self.graph.types[role.output].shape)
        shape[self.found.axis[role.output]] = int(keep.sum())
        target = self._constant(node, "shape", np.array(shape, np.int64))
        return Node("Reshape", node.name, (role.source, target), node.outputs, {"allowzero": 1})

    def _constant(self, node: Node, what: str, array: np.ndarray) -> str:
        name = self._name(f"{node.name}_{what}")
        self.constants[name] = array
        return name

    def _name(self, wish: str) -> str:
        name = fresh(self.taken, wish)
        self.taken.add(name)
        return name
