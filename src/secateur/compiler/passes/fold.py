"""What can be known before the network runs is computed once, here.

Shapes and values are found in one walk, because each needs the other: the shape of a `Reshape`
is often computed from shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh, unsupported
from secateur.compiler.ops import find
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.passes import shapes

MAX_BYTES = 256 * 2**20  # a constant larger than this is computed when the network runs
BUDGET = 2**30
"""Bytes of all constants that are computed, besides four times those that the file holds."""

_SHAPE_ONLY = {"Shape", "Size"}  # operators that look at no value
_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}


def run(graph: Graph) -> Graph:
    """Return the graph with known values as constants, and types for all values.

    What nothing reads any more is no constant of it. An `If` whose condition is known gives way to
    its branch.

    Raises:
        CompileError: an operator is not supported, inputs do not fit together, or the condition
            of an `If` depends on the inputs.
    """
    walk = _Walk(graph)
    walk.visit(graph.nodes)
    read = {name for node in walk.nodes for name in node.inputs} | {*graph.outputs}
    constants = {name: array for name, array in walk.constants.items() if name in read}
    gone = walk.constants.keys() - constants
    types = {name: tensor for name, tensor in walk.types.items() if name not in gone}
    return graph.with_(nodes=tuple(walk.nodes), constants=constants, types=types)


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.constants = dict(graph.constants)
        self.types = {name: graph.types[name] for name in (*graph.inputs, *graph.constants)}
        self.nodes: list[Node] = []
        self.names = set(_names(graph))
        self.left = BUDGET + 4 * sum(array.nbytes for array in graph.constants.values())

    def visit(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.op == "If":
                self._choose(node)
            else:
                self._node(self._plain(node))

    def _choose(self, node: Node) -> None:
        condition = self.constants.get(node.inputs[0])
        if condition is None:
            raise unsupported(
                node,
                "its condition depends on the network's inputs; export the model so that it has "
                "none, or fix the input that decides",
            )
        if condition.size != 1:
            raise unsupported(node, f"its condition has shape {list(condition.shape)}")
        branch = node.attributes["then_branch" if condition.item() else "else_branch"]
        self.visit(branch.nodes)
        for number, (inner, outer) in enumerate(zip(branch.outputs, node.outputs, strict=False)):
            if outer:
                name = fresh(self.names, f"{node.name}/{number}") if number else node.name
                self.names.add(name)
                self._node(Node("Identity", name, (inner,), (outer,)))

    def _plain(self, node: Node) -> Node:
        if node.op == "CastLike":  # all types are known here, so it is a Cast
            wanted = self.types[node.inputs[1]].dtype
            return Node("Cast", node.name, node.inputs[:1], node.outputs, {"to": _NUMBERS[wanted]})
        return node

    def _node(self, node: Node) -> None:
        types = shapes.infer(node, self.types, self.constants)
        known = self._evaluate(node, types)
        if known is None:
            self.nodes.append(self._later(node, types))
        for number, (name, tensor) in enumerate(zip(node.outputs, types, strict=True)):
            if name:
                self.types[name] = tensor
                if known is not None:
                    self.constants[name] = known[number]

    def _later(self, node: Node, types: tuple[Tensor, ...]) -> Node:
        """Return a node as it is computed when the network runs."""
        if node.op == "ConstantOfShape":
            value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(())
            name = fresh(self.types, f"{node.name}_value")
            self.constants[name], self.types[name] = value, Tensor(value.dtype, ())
            return Node("Expand", node.name, (name, *node.inputs), node.outputs)
        if node.op == "Range":
            size = types[0].size * types[0].dtype.itemsize
            raise unsupported(
                node,
                f"its output {list(types[0].shape)} takes {size:,} bytes, more than constants may; "
                "export the model for smaller inputs",
            )
        return node

    def _evaluate(self, node: Node, types: tuple[Tensor, ...]) -> tuple[np.ndarray, ...] | None:
        """Return the node's outputs, where they are known and of reasonable size."""
        size = sum(tensor.size * tensor.dtype.itemsize for tensor in types)
        if size > min(MAX_BYTES, self.left):
            return None
        arrays: list[np.ndarray | None] = []
        for name in node.inputs:
            if not name:
                arrays.append(None)
            elif name in self.constants:
                arrays.append(self.constants[name])
            elif node.op in _SHAPE_ONLY:
                arrays.append(_nothing(self.types[name]))
            else:
                return None
        try:
            with np.errstate(all="ignore"):
                outputs = tuple(map(np.asarray, find(node).reference(node, tuple(arrays))))
        except MemoryError:
            return None
        shapes.check(node, outputs, types)
        for array in outputs:
            array.flags.writeable = False  # a graph would copy it
        self.left -= size
        return outputs


def _nothing(tensor: Tensor) -> np.ndarray:
    """Return an array of any shape that takes no memory."""
    return np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)


def _names(graph: Graph) -> Iterator[str]:
    """Yield the names of a graph's nodes, those of branches included."""
    for node in graph.nodes:
        yield node.name
        for branch in node.attributes.values():
            if isinstance(branch, Graph):
                yield from _names(branch)
