"""Scales and shifts by constants go into the weights before them.

A batch normalization at inference is y = x * scale + shift for each channel, and so is a `Mul`,
`Div`, `Add` or `Sub` by constants. After a convolution or a linear map with constant weights it
costs nothing: weights and bias take it in. A weight that is zero stays zero.
"""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.passes.identity import sweep

# Operators whose second input can be constant weights.
LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def run(graph: Graph) -> Graph:
    """Return the graph with scales and shifts folded into weights; its values all have types.

    What has no weights before it becomes at most one `Mul` and one `Add` in a row. A batch
    normalization whose constants are not all known, or not finite, stays as it is.
    """
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.visit(node)
    nodes = tuple(walk.nodes.values())
    return sweep(graph.with_(nodes=nodes, constants=walk.constants, types=walk.types))


class _Walk:
    """One walk in order; a node that joins an earlier one takes that one's place.

    Factors and terms are float64 until they are stored.
    """

    def __init__(self, graph: Graph) -> None:
        self.outputs = frozenset(graph.outputs)
        self.uses = {name: len(nodes) for name, nodes in graph.consumers().items()}
        self.constants = dict(graph.constants)
        self.types = dict(graph.types)
        self.nodes: dict[str, Node] = {}  # by name, in order
        self.names = {node.name for node in graph.nodes}
        self.makers: dict[str, str] = {}  # value -> name of its node

    def visit(self, node: Node) -> None:
        if node.op == "BatchNormalization" and (known := self._normalization(node)):
            scale, shift = known
            middle = self._value(f"{node.name}_scaled", self.types[node.outputs[0]])
            self._join("Mul", node.name, node.inputs[0], scale, middle)
            self._join("Add", self._name(f"{node.name}_shift"), middle, shift, node.outputs[0])
        elif known_operand := self._by_constant(node):
            op, value, array = known_operand
            self._join(op, node.name, value, array, node.outputs[0])
        else:
            self._keep(node)

    def _normalization(self, node: Node) -> tuple[np.ndarray, np.ndarray] | None:
        """Return scale and shift of a batch normalization, shaped to broadcast."""
        if not all(name in self.constants for name in node.inputs[1:5]):
            return None
        scale, shift, mean, variance = (
            self.constants[name].astype(np.float64) for name in node.inputs[1:5]
        )
        with np.errstate(all="ignore"):
            scale = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
            shift = shift - mean * scale
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            return None
        trailing = (1,) * (len(self.types[node.inputs[0]].shape) - 2)
        return scale.reshape(-1, *trailing), shift.reshape(-1, *trailing)

    def _by_constant(self, node: Node) -> tuple[str, str, np.ndarray] | None:
        """Return a `Mul` or an `Add` by finite constants that does what a node does."""
        if node.op not in ("Add", "Sub", "Mul", "Div"):
            return None
        value, other = node.inputs
        if value in self.constants and node.op in ("Add", "Mul"):
            value, other = other, value
        tensor = self.types[value]
        if value in self.constants or other not in self.constants or tensor.dtype.kind != "f":
            return None
        array = self.constants[other].astype(np.float64)
        with np.errstate(all="ignore"):
            array = -array if node.op == "Sub" else 1 / array if node.op == "Div" else array
        if tensor != self.types[node.outputs[0]] or not np.isfinite(array).all():
            return None
        return "Add" if node.op in ("Add", "Sub") else "Mul", value, array

    def _join(self, op: str, name: str, value: str, array: np.ndarray, output: str) -> None:
        """Make `output` = `value` * or + `array`, inside the node before it where that works."""
        before = self.nodes.get(self.makers.get(value, ""))
        if before is not None and self.uses[value] == 1 and value not in self.outputs:
            if before.op in LINEAR:
                joined = self._into_weights(op, before, array, output)
                if joined is not None:
                    self.makers[output] = joined.name
                    self.nodes[before.name] = joined
                    return
            elif (earlier := self._by_constant(before)) is not None:
                first, source, had = earlier
                both = had + array if first == op == "Add" else had * array
                if both.size <= max(had.size, array.size):
                    if first == op:
                        del self.nodes[before.name]
                        return self._join(op, name, source, both, output)
                    if op == "Mul":  # (x + had) * array is x * array + had * array
                        del self.nodes[before.name]
                        middle = self._value(f"{name}_scaled", self.types[source])
                        self._join("Mul", name, source, array, middle)
                        return self._join("Add", before.name, middle, both, output)
        constant = self._constant(f"{name}_{'scale' if op == 'Mul' else 'shift'}", array, output)
        self._keep(Node(op, name, (value, constant), (output,)))

    def _into_weights(self, op: str, node: Node, array: np.ndarray, output: str) -> Node | None:
        """Return a linear node that also scales or shifts its output, or None if it cannot."""
        weights = self.constants.get(node.inputs[1])
        bias = self._bias(node)
        shape = self.types[node.outputs[0]].shape
        vector = _per_channel(array, shape, channel_axis(node, len(shape)))
        if weights is None or weights.ndim < 2 or bias is None or vector is None:
            return None
        inputs, attributes, kind = list(node.inputs[:2]), dict(node.attributes), node.op
        with np.errstate(all="ignore"):
            scaled = _scaled(node, weights.astype(np.float64), vector) if op == "Mul" else weights
            bias = bias * vector if op == "Mul" else bias + vector
            stored = bias.astype(weights.dtype), scaled.astype(weights.dtype)
        if not all(np.isfinite(part).all() for part in stored):
            return None
        if op == "Mul":
            inputs[1] = self._constant(f"{node.name}_weight", scaled, output)
        if kind == "MatMul" and op == "Add":
            if len(shape) != 2 or weights.ndim != 2 or len(self.types[inputs[0]].shape) != 2:
                return None
            kind = "Gemm"
        if kind != "MatMul" and (op == "Add" or len(node.inputs) > 2):
            inputs.append(self._constant(f"{node.name}_bias", bias, output))
        if kind == "Gemm":
            attributes["beta"] = 1.0
        return Node(kind, node.name, tuple(inputs), (output,), attributes)

    def _bias(self, node: Node) -> np.ndarray | None:
        """Return what a linear node adds: zeros where it has no bias, None where not constant."""
        if len(node.inputs) < 3 or not node.inputs[2]:
            shape = self.types[node.outputs[0]].shape
            return np.zeros(shape[channel_axis(node, len(shape))])
        if node.inputs[2] not in self.constants:
            return None
        beta = node.get("beta", 1.0) if node.op == "Gemm" else 1.0
        return self.constants[node.inputs[2]].astype(np.float64) * beta

    def _keep(self, node: Node) -> None:
        self.makers |= dict.fromkeys(node.outputs, node.name)
        self.nodes[node.name] = node

    def _name(self, wish: str) -> str:
        name = fresh(self.names, wish)
        self.names.add(name)
        return name

    def _value(self, wish: str, tensor: Tensor) -> str:
        """Name a new value that one node will read."""
        name = fresh(self.types, wish)
        self.types[name], self.uses[name] = tensor, 1
        return name

    def _constant(self, wish: str, array: np.ndarray, like: str) -> str:
        name = fresh(self.types, wish)
        self.constants[name] = array.astype(self.types[like].dtype)
        self.types[name] = Tensor(self.constants[name].dtype, array.shape)
        return name


def channel_axis(node: Node, rank: int) -> int:
    """Return the axis of a linear node's output that its weights have too."""
    return rank - 1 if node.op == "MatMul" else 1


def _per_channel(array: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """Return an array that broadcasts to a shape as one number a channel, if it is that."""
    extents = (1,) * (len(shape) - array.ndim) + array.shape
    if any(extent != 1 for place, extent in enumerate(extents) if place != axis):
        return None
    return np.broadcast_to(array.reshape(-1), (shape[axis],))


def _scaled(node: Node, weights: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return weights whose output channels are scaled; what was zero is +0."""
    shape = weights.shape
    if node.op == "Conv":
        factors = factors.reshape(-1, *(1,) * (weights.ndim - 1))
    elif node.op == "ConvTranspose":  # (inputs, outputs of one group, ...)
        groups = node.get("group", 1)
        weights = weights.reshape(groups, -1, *shape[1:])
        factors = factors.reshape(groups, 1, -1, *(1,) * (len(shape) - 2))
    elif node.op == "Gemm" and node.get("transB", 0):
        factors = factors[:, None]
    return np.asarray(weights * factors + 0.0).reshape(shape)
