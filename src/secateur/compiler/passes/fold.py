"""What can be known before the network runs is computed once, here.

Shapes and values are found in one walk, because each needs the other: the shape of a `Reshape`
is often computed from shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from secateur.compiler import rewrites
from secateur.compiler.graph import EMPTY, Graph, Node, Tensor, UndecidedError, unsupported
from secateur.compiler.ops import find
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.passes import loops, sequences, shapes, undecided
from secateur.compiler.passes.unused_rows import UnusedRows
from secateur.errors import CompileError

MAX_BYTES = 256 * 2**20  # a constant larger than this is computed when the network runs
BUDGET = 2**30
"""Bytes of all constants that are computed, besides four times those that the file holds."""

_SHAPE_ONLY = {"Shape", "Size"}  # operators that look at no value
_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}


def run(graph: Graph, rules: Mapping[str, rewrites.Rule] = EMPTY) -> Graph:
    """Return the graph with known values as constants, and types for all values.

    What nothing reads any more is no constant of it. An `If` whose condition is known gives way to
    its branch, and an operator that is expressed by others (see `rewrites`) to those.

    Args:
        graph: as it was read.
        rules: for operators that are not always expressed by others.

    Raises:
        CompileError: an operator is not supported, inputs do not fit together, or the condition
            of an `If` depends on the inputs.
    """
    walk = _Walk(graph, rules)
    try:
        walk.visit(graph.nodes)
    except UndecidedError as error:
        raise undecided.told(error, graph.inputs, walk.nodes, walk.types) from error
    walk.unused.check(graph.outputs)
    if lists := [name for name in graph.outputs if name in walk.sequences]:
        raise CompileError(
            f"output {lists[0]!r} of the model is a sequence; end the model at the tensors in it"
        )
    read = {name for node in walk.nodes for name in node.inputs} | {*graph.outputs}
    constants = {name: array for name, array in walk.constants.items() if name in read}
    gone = walk.constants.keys() - constants
    types = {name: tensor for name, tensor in walk.types.items() if name not in gone}
    return graph.with_(nodes=tuple(walk.nodes), constants=constants, types=types)


class _Walk:
    def __init__(self, graph: Graph, rules: Mapping[str, rewrites.Rule]) -> None:
        self.rules = {**rewrites.rules(), **rules}
        self.constants = dict(graph.constants)
        self.types = {name: graph.types[name] for name in (*graph.inputs, *graph.constants)}
        self.nodes: list[Node] = []
        self.taken = {*_names(graph), *_values(graph)}
        self.next: dict[str, int] = {}
        self.sequences: sequences.Sequences = {}
        self.unused = UnusedRows()
        self.left = BUDGET + 4 * sum(array.nbytes for array in graph.constants.values())

    def visit(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._visit(node)

    def _visit(self, node: Node) -> None:
        if node.op == "If":
            self._choose(node)
        elif node.op in loops.RULES:
            with _fitting(node):
                made = loops.RULES[node.op](node, self._builder(node), self._visit)
            self._give(node, made)
        elif node.op in sequences.RULES or any(name in self.sequences for name in node.inputs):
            self._sequence(node)
        elif node.op in self.rules:
            self._rewrite(node)
        else:
            self._node(self._plain(node))

    def _choose(self, node: Node) -> None:
        condition = self.constants.get(node.inputs[0])
        if condition is None:
            raise UndecidedError(
                node, "its condition", node.inputs[0], "export the model so that it does not"
            )
        if condition.size != 1:
            raise unsupported(node, f"its condition has shape {list(condition.shape)}")
        branch = node.attributes["then_branch" if condition.item() else "else_branch"]
        self.visit(branch.nodes)
        self._give(node, branch.outputs)

    def _give(self, node: Node, made: Sequence[str]) -> None:
        """Let the outputs of a node that gives way to others be these values."""
        if len(made) < len(node.outputs):
            raise unsupported(node, f"it has {len(node.outputs)} outputs, not {len(made)}")
        for number, (inner, outer) in enumerate(zip(made, node.outputs, strict=False)):
            if outer:
                name = self._new(f"{node.name}/{number}") if number else node.name
                self._visit(Node("Identity", name, (inner,), (outer,)))

    def _builder(self, node: Node) -> rewrites.Builder:
        return rewrites.Builder(self.types, self._node, self._keep, self._new, node)

    def _sequence(self, node: Node) -> None:
        made: str | tuple[str, ...]
        if node.op == "Identity":
            made = self.sequences[node.inputs[0]]
        elif node.op not in sequences.RULES:
            raise unsupported(node, "an input is a sequence; operators on tensors are supported")
        else:
            with _fitting(node):
                made = sequences.RULES[node.op](node, self._builder(node), self.sequences)
        if isinstance(made, str):
            self._visit(Node("Identity", node.name, (made,), node.outputs))
        else:
            self.sequences[node.outputs[0]] = made

    def _rewrite(self, node: Node) -> None:
        with _fitting(node):
            made = self.rules[node.op](node, self._builder(node))
        if made is None:
            self._node(node)
        else:
            self._give(node, made)

    def _keep(self, name: str, array: np.ndarray) -> None:
        array.flags.writeable = False  # a graph would copy it
        self.constants[name] = array
        self.types[name] = Tensor(array.dtype, array.shape, array)

    def _new(self, wish: str) -> str:
        """Return a name that neither a node nor a value has."""
        name = wish
        while name in self.taken:
            self.next[wish] = self.next.get(wish, 0) + 1
            name = f"{wish}_{self.next[wish]}"
        self.taken.add(name)
        return name

    def _plain(self, node: Node) -> Node:
        if node.op == "CastLike":  # all types are known here, so it is a Cast
            wanted = self.types[node.inputs[1]].dtype
            return Node("Cast", node.name, node.inputs[:1], node.outputs, {"to": _NUMBERS[wanted]})
        return node

    def _node(self, node: Node) -> None:
        types = shapes.infer(node, self.types, self.constants)
        self.unused.visit(node, self.types, types)
        known = self._evaluate(node, types)
        if known is None:
            self.nodes.append(self._later(node, types))
        for number, (name, tensor) in enumerate(zip(node.outputs, types, strict=True)):
            if name:
                self.types[name] = tensor
                if known is not None:
                    self.constants[name] = known[number]
                    self.types[name] = Tensor(tensor.dtype, tensor.shape, known[number])

    def _later(self, node: Node, types: tuple[Tensor, ...]) -> Node:
        """Return a node as it is computed when the network runs."""
        if node.op == "ConstantOfShape":
            value = np.asarray(node.get("value", np.zeros(1, np.float32))).reshape(())
            name = self._new(f"{node.name}_value")
            self._keep(name, value)
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


@contextmanager
def _fitting(node: Node) -> Iterator[None]:
    """Refuse what a file makes of attributes and shapes, as `shapes.infer` does."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise unsupported(
            node, f"its inputs or attributes do not fit together ({error})"
        ) from error


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


def _values(graph: Graph) -> Iterator[str]:
    """Yield the names of a graph's values, those of branches included."""
    yield from graph.inputs
    yield from graph.constants
    for node in graph.nodes:
        yield from node.outputs
        for branch in node.attributes.values():
            if isinstance(branch, Graph):
                yield from _values(branch)
