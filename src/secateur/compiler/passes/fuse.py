"""Convolutions and linear maps take in what follows them: bias, residual, activation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.ops.convolution import window
from secateur.compiler.ops.pooling import pool_window
from secateur.compiler.passes import idioms
from secateur.compiler.passes.identity import sweep

_FUSED = {"FusedConv", "FusedLinear"}
_NO_ACTIVATION = {"activation": "", "alpha": 0.0, "beta": 0.0}


def run(graph: Graph) -> Graph:
    """Return the graph with `FusedConv`, `FusedLinear` and `Activation` wherever they can be.

    A `Conv`, `Gemm` or `MatMul` of float32 whose weights (and bias, of a `Conv`) are constant is
    fused; any other stays. What follows it joins it in the order of the graph: sums first, then
    one activation; a value that is an output of the graph, or that something else reads, is never
    swallowed. Pooling gets explicit `pads`.

    Args:
        graph: its values all have types; batch normalization is folded already.
    """
    return _absorbed(_contractions(idioms.run(graph)))


def _contractions(graph: Graph) -> Graph:
    walk = _Contractions(graph)
    for node in graph.nodes:
        walk.visit(node)
    return sweep(graph.with_(nodes=tuple(walk.nodes), constants=walk.constants, types=walk.types))


class _Contractions:
    """Turns contractions one by one into their fused form, still without anything to take in."""

    def __init__(self, graph: Graph) -> None:
        self.constants = dict(graph.constants)
        self.types = dict(graph.types)
        self.names = {node.name for node in graph.nodes}
        self.nodes: list[Node] = []
        self.weights: dict[tuple[str, bool, float], str] = {}

    def visit(self, node: Node) -> None:
        if node.op in {"MaxPool", "AveragePool"}:
            self.nodes.append(self._pool(node))
            return
        write = {"Conv": self._conv, "Gemm": self._gemm, "MatMul": self._matmul}.get(node.op)
        if write and self.types[node.outputs[0]].dtype == np.float32 and write(node):
            return
        self.nodes.append(node)

    def _pool(self, node: Node) -> Node:
        spatial = self.types[node.inputs[0]].shape[2:]
        form = pool_window(node, spatial)
        attributes = {key: value for key, value in node.attributes.items() if key != "auto_pad"}
        if str(node.get("auto_pad", "")).startswith("SAME"):
            attributes["ceil_mode"] = 0  # SAME rounds up already
        explicit = {
            "pads": form.before + form.after,
            "strides": form.strides,
            "dilations": form.dilations,
        }
        return replace(node, attributes=attributes | explicit)

    def _conv(self, node: Node) -> bool:
        """Append the fused form, if there is one; so do the others of this kind."""
        x, w, b = (*node.inputs, "")[:3]
        if w not in self.constants or (b and b not in self.constants):
            return False
        form = window(node, self.types[x].shape[2:], self.types[w].shape[2:])
        attributes = {
            "pads": form.before + form.after,
            "strides": form.strides,
            "dilations": form.dilations,
            "group": node.get("group", 1),
            **_NO_ACTIVATION,
        }
        self.nodes.append(Node("FusedConv", node.name, (x, w, b, ""), node.outputs, attributes))
        return True

    def _matmul(self, node: Node) -> bool:
        a, b = node.inputs
        ranks = [len(self.types[name].shape) for name in (a, b)]
        if b in self.constants and ranks[1] == 2 and ranks[0] >= 2:
            self._linear(node, a, self._weight(b, True, 1.0), "", node.outputs[0])
        elif a in self.constants and ranks[0] == 2 and ranks[1] >= 2:
            # (W x) is the transpose of (x' W'), whose weight is W as it is.
            y = self._value(f"{node.name}_transposed", self._swapped(node.outputs[0]))
            self._linear(node, self._transpose(node, b), self._weight(a, False, 1.0), "", y)
            self._transpose(node, y, node.outputs[0])
        else:
            return False
        return True

    def _gemm(self, node: Node) -> bool:
        a, b, c = (*node.inputs, "")[:3]
        if b not in self.constants:
            return False
        weight = self._weight(b, not node.get("transB", 0), node.get("alpha", 1.0))
        if node.get("transA", 0):
            a = self._transpose(node, a)
        beta, output = node.get("beta", 1.0), self.types[node.outputs[0]]
        known = self.constants.get(c) if beta != 0 else None
        vector = None if known is None else per_channel(known, output.shape, 1)
        if not c or beta == 0:
            self._linear(node, a, weight, "", node.outputs[0])
        elif vector is not None:
            bias = self._constant(f"{node.name}_bias", vector * np.float32(beta))
            self._linear(node, a, weight, bias, node.outputs[0])
        else:
            y = self._value(f"{node.name}_product", output)
            self._linear(node, a, weight, "", y)
            if known is not None:
                c = self._constant(f"{node.name}_sum", known * np.float32(beta))
            elif beta != 1:
                factor = self._constant(f"{node.name}_beta", np.array(beta, np.float32))
                scaled = self._value(f"{node.name}_scaled", self.types[c])
                self._add(Node("Mul", f"{node.name}_scale", (c, factor), (scaled,)))
                c = scaled
            self._add(Node("Add", f"{node.name}_add", (y, c), node.outputs))
        return True

    def _linear(self, node: Node, x: str, w: str, b: str, y: str) -> None:
        self.nodes.append(Node("FusedLinear", node.name, (x, w, b, ""), (y,), _NO_ACTIVATION))

    def _weight(self, name: str, transposed: bool, factor: float) -> str:
        """Return the name of a weight [O, I]; one that several nodes share stays one."""
        if not transposed and factor == 1:
            return name
        key = name, transposed, factor
        if key not in self.weights:
            array = self.constants[name]
            array = array.T if transposed else array
            self.weights[key] = self._constant(f"{name}_rows", array * np.float32(factor))
        return self.weights[key]

    def _transpose(self, node: Node, value: str, output: str = "") -> str:
        """Swap the last two axes of a value."""
        tensor = self._swapped(value)
        rank = len(tensor.shape)
        output = output or self._value(f"{value}_transposed", tensor)
        perm = (*range(rank - 2), rank - 1, rank - 2)
        self._add(Node("Transpose", f"{node.name}_transpose", (value,), (output,), {"perm": perm}))
        return output

    def _swapped(self, value: str) -> Tensor:
        tensor = self.types[value]
        return Tensor(tensor.dtype, (*tensor.shape[:-2], tensor.shape[-1], tensor.shape[-2]))

    def _add(self, node: Node) -> None:
        node = replace(node, name=fresh(self.names, node.name))
        self.names.add(node.name)
        self.nodes.append(node)

    def _value(self, wish: str, tensor: Tensor) -> str:
        name = fresh(self.types, wish)
        self.types[name] = tensor
        return name

    def _constant(self, wish: str, array: np.ndarray) -> str:
        name = self._value(wish, Tensor(array.dtype, array.shape))
        self.constants[name] = array
        return name


def per_channel(array: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """Return an array that broadcasts to a shape as one number a channel, if it is that."""
    extents = (1,) * (len(shape) - array.ndim) + array.shape
    if len(extents) != len(shape) or any(n != 1 for i, n in enumerate(extents) if i != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (shape[axis],))


def _absorbed(graph: Graph) -> Graph:
    walk = _Absorption(graph)
    for node in graph.nodes:
        walk.visit(node)
    return sweep(
        graph.with_(nodes=tuple(walk.nodes.values()), constants=walk.constants, types=walk.types)
    )


class _Absorption:
    """One walk in order; a fused node that takes in a later one moves to that one's place."""

    def __init__(self, graph: Graph) -> None:
        self.outputs = frozenset(graph.outputs)
        self.readers = graph.consumers()
        self.constants = dict(graph.constants)
        self.types = dict(graph.types)
        self.nodes: dict[str, Node] = {}  # by name, in order
        self.makers: dict[str, str] = {}  # value -> name of its node

    def visit(self, node: Node) -> None:
        taken = None
        if node.op == "Activation":
            taken = self._activation(node)
        elif node.op == "Add" and node.inputs[0] != node.inputs[1]:
            taken = self._sum(node)
        if taken is not None:
            del self.nodes[taken.name]
            node = taken
        self.nodes[node.name] = node
        self.makers |= dict.fromkeys(node.outputs, node.name)

    def _open(self, value: str) -> Node | None:
        """Return the fused node without activation that makes a value for one reader alone."""
        node = self.nodes.get(self.makers.get(value, ""))
        if node is None or node.op not in _FUSED or node.get("activation"):
            return None
        alone = len(self.readers.get(value, ())) == 1 and value not in self.outputs
        return node if alone else None

    def _activation(self, node: Node) -> Node | None:
        fused = self._open(node.inputs[0])
        if fused is None:
            return None
        attributes = {**fused.attributes, **node.attributes}
        return replace(fused, outputs=node.outputs, attributes=attributes)

    def _sum(self, node: Node) -> Node | None:
        candidates = [(a, b) for a, b in (node.inputs, node.inputs[::-1]) if self._open(a)]
        order = list(self.nodes)
        # Where both sides could take in the other, the later does.
        for value, other in sorted(candidates, key=lambda c: -order.index(self.makers[c[0]])):
            fused = self._open(value)
            if fused is None or self.types[value] != self.types[node.outputs[0]]:
                continue
            x, w, b, r = fused.inputs
            if other in self.constants:
                shape = self.types[value].shape
                axis = 1 if fused.op == "FusedConv" else len(shape) - 1
                vector = per_channel(self.constants[other], shape, axis)
                if vector is None:
                    continue
                total = vector + self.constants[b] if b else vector
                name = fresh(self.types, f"{fused.name}_bias")
                self.constants[name] = total
                self.types[name] = Tensor(total.dtype, total.shape)
                return replace(fused, inputs=(x, w, name, r), outputs=node.outputs)
            if not r and self.types[other] == self.types[value]:
                return replace(fused, inputs=(x, w, b, other), outputs=node.outputs)
        return None
