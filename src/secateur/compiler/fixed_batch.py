"""A batch that a file fixes is a batch: the network of any other number of samples.

Exporters write the batch into shapes: a `Reshape` to [64, -1], an `Expand` to [64, 1, 8], initial
states of 64 samples. Here each becomes that of another number of samples, so that the network can
be cut into tiles as one whose batch is free. Whether its samples stay apart is not known here;
whoever uses this compares the outputs with those of the network as it was read (see `apart`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh, unsupported
from secateur.compiler.passes import shapes

_SHAPES = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Operators that take a shape, and which of their inputs it is."""

_STATES = (5, 6)
"""Inputs of recurrent operators that hold samples along their second axis."""

_RECURRENT = frozenset({"GRU", "LSTM", "RNN"})

_BROADCAST = frozenset({
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul",
    "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip
"""Operators in which a constant that holds samples may hold one for all."""


def samples_of(graph: Graph) -> int:
    """Return the extent that all inputs begin with; 0 where there is none, or where it is 1."""
    first = {graph.types[name].shape[:1] for name in graph.inputs}
    extent = first.pop() if len(first) == 1 else ()
    return extent[0] if extent and extent[0] > 1 else 0


def of_samples(graph: Graph, count: int) -> Graph:
    """Return what a network would be for another number of samples.

    Args:
        graph: of the number of samples that the file fixes, after the pass `fold`.
        count: samples of the graph to return.

    Raises:
        CompileError: the samples cannot be told from other axes, or an operator does not do the
            same for another number of them.
    """
    if count == samples_of(graph):
        return graph
    walk = _Walk(graph, count)
    for node in graph.nodes:
        walk.visit(node)
    return Graph(tuple(walk.nodes), graph.inputs, graph.outputs, walk.constants, walk.types)


class _Walk:
    """The nodes so far.

    Attributes:
        axes: by value that depends on inputs, the axis that counts samples.
        outer: how many of that axis's elements lie before the second sample's, divided by those of
            one sample: more than 1 where a reshape merged it with an axis outside.
    """

    def __init__(self, graph: Graph, count: int) -> None:
        self.old, self.count, self.whole = graph, count, samples_of(graph)
        self.constants = dict(graph.constants)
        self.types = {name: graph.types[name] for name in graph.constants}
        self.axes = dict.fromkeys(graph.inputs, 0)
        self.outer = dict.fromkeys(graph.inputs, 1)
        for name in graph.inputs:
            self.types[name] = self._scaled(graph.types[name], 0)
        self.nodes: list[Node] = []
        self.taken = {*graph.types}

    def visit(self, node: Node) -> None:
        """Add a node, its constants those of so many samples."""
        counted = next((name for name in node.inputs if name in self.axes), None)
        outer = self.outer[counted] if counted else 1
        if counted and node.op == "Reshape":
            outer = self._place(node)[1]
        if counted:
            node = self._adapted(node)
        self.nodes.append(node)
        types = shapes.infer(node, self.types, self.constants)
        for name, tensor in zip(node.outputs, types, strict=True):
            if name:
                self.types[name] = tensor
                if counted:
                    self.axes[name] = self._axis(node, self.old.types[name], tensor)
                    self.outer[name] = outer

    def _adapted(self, node: Node) -> Node:
        inputs = list(node.inputs)
        out = self.old.types[next(filter(None, node.outputs))].shape
        for i, name in enumerate(node.inputs):
            array = self.constants.get(name)
            if array is None:
                continue
            new = None
            if _SHAPES.get(node.op) == i:
                new = self._shape(node, out)
            elif node.op in _RECURRENT and i in _STATES:
                new = self._rows(node, array, 1)
            elif node.op in _BROADCAST or (node.op == "Concat" and node.get("axis", 0) % len(out)):
                # what holds one for each sample lies where the operator's other inputs have them
                axis = len(array.shape) - len(out) + self._among(node)
                own = 2 if node.op == "MatMul" else 0  # its matrix: no axis of that is anybody's
                if 0 <= axis < array.ndim - own and array.shape[axis] == self.whole:
                    new = self._rows(node, array, axis)
            if new is not None:
                inputs[i] = fresh(self.taken, f"{name}@{self.count}")
                self.taken.add(inputs[i])
                self.constants[inputs[i]], self.types[inputs[i]] = new, Tensor(new.dtype, new.shape)
        return replace(node, inputs=tuple(inputs))

    def _among(self, node: Node) -> int:
        """Return the output's axis that counts samples, of an operator that keeps axes."""
        name = next(name for name in node.inputs if name in self.axes)
        rank = len(self.old.types[next(filter(None, node.outputs))].shape)
        return self.axes[name] + rank - len(self.old.types[name].shape)

    def _rows(self, node: Node, array: np.ndarray, axis: int) -> np.ndarray:
        """Return a constant that holds the same for every sample, for another number of them."""
        one = array.take([0], axis)
        if not np.array_equal(np.broadcast_to(one, array.shape), array):
            raise unsupported(node, "a constant differs from sample to sample")
        return np.repeat(one, self.count, axis)

    def _place(self, node: Node) -> tuple[int, int]:
        """Return which axis of a Reshape's output counts samples, and its `outer`.

        As many elements lie before the second sample's as did before.
        """
        (out,), data = node.outputs, node.inputs[0]
        shape, given = self.old.types[out].shape, self.old.types[data].shape
        before = prod(given[: self.axes[data]]) * self.outer[data]
        for axis, extent in enumerate(shape):
            outer, rest = divmod(before, prod(shape[:axis]))
            if not rest and extent and extent % (outer * self.whole) == 0:
                return axis, outer
        raise unsupported(node, f"its output {list(shape)} has no axis that counts samples")

    def _shape(self, node: Node, out: Sequence[int]) -> np.ndarray:
        """Return the shape that an operator is to give."""
        axis = self._place(node)[0] if node.op == "Reshape" else self._among(node)
        shape = list(out)
        shape[axis] = shape[axis] // self.whole * self.count
        return np.array(shape, np.int64)

    def _scaled(self, tensor: Tensor, axis: int) -> Tensor:
        shape = list(tensor.shape)
        shape[axis] = shape[axis] // self.whole * self.count
        return Tensor(tensor.dtype, tuple(shape))

    def _axis(self, node: Node, old: Tensor, new: Tensor) -> int:
        """Return the axis of a value that counts samples: the one that has another extent now."""
        moved = [
            a for a, pair in enumerate(zip(old.shape, new.shape, strict=False)) if len({*pair}) > 1
        ]
        if (
            len(old.shape) != len(new.shape)
            or len(moved) != 1
            or old.shape[moved[0]] % self.whole
            or self._scaled(old, moved[0]) != new
        ):
            raise unsupported(
                node, f"for {self.count} samples it gives {list(new.shape)}, not {list(old.shape)}"
            )
        return moved[0]
