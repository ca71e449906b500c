"""What changes nothing goes: no-ops, nodes and constants that nobody reads, constants twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node, fresh

# Operators that only give the same elements another shape.
RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
# Operators that work along the last axis alone, when it is that axis that they are given.
_BY_ROWS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})


def run(graph: Graph) -> Graph:
    """Return the graph without nodes that change nothing; its values all have types.

    Names of inputs and outputs stay. Where an output only repeats an input or another output,
    an `Identity` stays; where it is a constant, no node makes it.
    """
    walk = _Walk(_unique_constants(graph))
    for node in walk.graph.nodes:
        walk.visit(node)
    return sweep(walk.result())


def sweep(graph: Graph) -> Graph:
    """Return the graph without nodes and constants that no output needs."""
    needed = set(graph.outputs)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        outputs = tuple(name if name in needed else "" for name in node.outputs)
        nodes.append(replace(node, outputs=outputs))
        needed.update(filter(None, node.inputs))
    nodes.reverse()
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    made = {name for node in nodes for name in node.outputs} | {*graph.inputs, *constants}
    types = {name: tensor for name, tensor in graph.types.items() if name in made}
    return graph.with_(nodes=tuple(nodes), constants=constants, types=types)


def renamed(nodes: Iterable[Node], names: dict[str, str]) -> tuple[Node, ...]:
    """Return nodes with other names for values; names that are not listed stay."""
    return tuple(
        replace(
            node,
            inputs=tuple(names.get(name, name) for name in node.inputs),
            outputs=tuple(names.get(name, name) for name in node.outputs),
        )
        for node in nodes
    )


class _Walk:
    """One walk in order: each node is dropped, made simpler by what came before it, or kept."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.types = dict(graph.types)
        self.constants = dict(graph.constants)
        self.nodes: list[Node] = []
        self.makers: dict[str, Node] = {}
        self.same: dict[str, str] = {}  # dropped value -> the value that it equals

    def visit(self, node: Node) -> None:
        node = replace(node, inputs=tuple(self.same.get(name, name) for name in node.inputs))
        node = self._merged(node)
        if len(node.outputs) == 1 and self._changes_nothing(node):
            self.same[node.outputs[0]] = node.inputs[0]
            return
        self.nodes.append(node)
        self.makers |= dict.fromkeys(node.outputs, node)

    def result(self) -> Graph:
        """Give outputs that were dropped their names back."""
        names: dict[str, str] = {}
        last: list[Node] = []
        taken = {node.name for node in self.nodes}
        for output in self.graph.outputs:
            value = self.same.get(output, output)
            if value == output:
                continue
            if value in self.constants:
                self.constants[output] = self.constants[value]
            elif value in self.makers and value not in self.graph.outputs and value not in names:
                names[value] = output
            else:
                name = fresh(taken, f"{output}_copy")
                taken.add(name)
                last.append(Node("Identity", name, (names.get(value, value),), (output,)))
        return self.graph.with_(
            nodes=(*renamed(self.nodes, names), *last), constants=self.constants, types=self.types
        )

    def _changes_nothing(self, node: Node) -> bool:
        if not node.inputs or not node.inputs[0]:
            return False
        if self.types[node.inputs[0]] != self.types[node.outputs[0]]:
            return False
        known = [self.constants.get(name) for name in node.inputs]
        second = known[1] if len(known) > 1 else None
        match node.op:
            case "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Expand" | "Cast":
                same = True
            case "Transpose":
                axes = tuple(range(len(self.types[node.inputs[0]].shape)))
                same = tuple(node.get("perm", axes[::-1])) == axes
            case "Slice":
                steps = known[4] if len(known) > 4 else np.ones(1)
                same = steps is not None and bool((steps > 0).all())
            case "Concat" | "Sum" | "Max" | "Min" | "Mean" | "Clip":
                same = not any(node.inputs[1:])
            case "Split":
                same = True
            case "Pad" | "Add" | "Sub":
                same = second is not None and not second.any()
            case "Mul" | "Div" | "Tile":
                same = second is not None and bool((second == 1).all())
            case _:
                same = False
        return same

    def _merged(self, node: Node) -> Node:
        """Return the node joined with the one that makes its first input."""
        before = self.makers.get(node.inputs[0]) if node.inputs else None
        if before is None:
            return node
        if node.op in RESHAPING and before.op in RESHAPING:
            return self._reshape(node, before.inputs[0])
        if node.op in RESHAPING and before.op in _BY_ROWS:
            return self._unflattened(node, before)
        if node.op == before.op == "Transpose":
            rank = len(self.types[node.inputs[0]].shape)
            first, second = (n.get("perm", tuple(range(rank))[::-1]) for n in (before, node))
            perm = tuple(first[axis] for axis in second)
            return replace(node, inputs=before.inputs, attributes={"perm": perm})
        return node

    def _reshape(self, node: Node, source: str) -> Node:
        shape = fresh({*self.types}, f"{node.name}_shape")
        self.constants[shape] = np.array(self.types[node.outputs[0]].shape, np.int64)
        attributes = {"allowzero": 1}  # an extent of 0 is an extent
        self.types |= Graph((), (), (), {shape: self.constants[shape]}, {}).types
        return Node("Reshape", node.name, (source, shape), node.outputs, attributes)

    def _unflattened(self, node: Node, rows: Node) -> Node:
        """Softmax between a flattening and its undoing needs neither, if rows stay rows."""
        flat = self.makers.get(rows.inputs[0])
        if flat is None or flat.op not in RESHAPING:
            return node
        source = self.types[flat.inputs[0]]
        middle = self.types[rows.inputs[0]]
        whole = rows.get("axis", -1) in (-1, len(middle.shape) - 1)
        if not whole or not source.shape or self.types[node.outputs[0]] != source:
            return node
        if middle.shape[-1:] != source.shape[-1:]:
            return node
        return replace(
            rows,
            name=node.name,
            inputs=(flat.inputs[0],),
            outputs=node.outputs,
            attributes={**rows.attributes, "axis": -1},
        )


def _unique_constants(graph: Graph) -> Graph:
    first: dict[tuple[object, ...], str] = {}
    names: dict[str, str] = {}
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, array in graph.constants.items():
        if name not in graph.outputs:
            alike.setdefault((array.dtype.str, array.shape), []).append(name)
    for kind, group in alike.items():
        for name in group if len(group) > 1 else ():
            digest = hashlib.sha256(graph.constants[name].tobytes()).digest()
            names[name] = first.setdefault((*kind, digest), name)
    return graph.with_(nodes=renamed(graph.nodes, names))
