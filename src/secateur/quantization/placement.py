"""Which layers and values of a network become 8 bit, and which values share a scale.

A value is 8 bit where that is needed: a quantised layer reads it, or an operator that works on 8
bit reads it and its own output is needed so. Between a layer and what is fused to it (a bias, the
sum with a residual, a ReLU or a clip) nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.quantization.cones import BINARY, UNARY, source_of

SINGLE = np.dtype(np.float32)

SAME = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool", "Pad",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that give numbers of their first input, so that its scale is theirs."""

MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
"""Operators that have a scale of their own."""


@dataclass(frozen=True)
class Layer:
    """A layer that can be quantised, and what is fused to it.

    Attributes:
        node: a Conv, Gemm or MatMul.
        data, weight: its inputs.
        bias: its constant bias, "" where there is none.
        adder: of a MatMul, the node that adds the bias.
        chain: the nodes that are fused, in order.
        residual: the value that is added to what it gives; "" where there is none.
        end: the value after the last of the chain.
    """

    node: Node
    data: str
    weight: str
    bias: str
    adder: Node | None
    chain: tuple[Node, ...]
    residual: str
    end: str

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def axis(self) -> int:
        """The axis of the weight that counts outputs."""
        if self.node.op == "Conv":
            return 0
        return 0 if self.node.get("transB", 0) else 1

    def values(self, graph: Graph) -> tuple[np.ndarray, np.ndarray | None]:
        """Return weight and bias [outputs] as they count, Gemm's alpha and beta multiplied in."""
        weight = graph.constants[self.weight]
        bias = graph.constants.get(self.bias)
        if self.node.op == "Gemm":
            weight = weight * np.float32(self.node.get("alpha", 1.0))
            if bias is not None:
                bias = bias * np.float32(self.node.get("beta", 1.0))
        if bias is not None:
            bias = np.broadcast_to(bias.reshape(-1), weight.shape[self.axis])
        return weight, bias

    @property
    def plain(self) -> Node:
        """The node without alpha and beta."""
        left = {k: v for k, v in self.node.attributes.items() if k not in ("alpha", "beta")}
        return replace(self.node, attributes=left)


@dataclass(frozen=True)
class Placement:
    """What becomes 8 bit.

    Attributes:
        layers: by name, in order.
        values: that are rounded to 8 bit where they are made, in order.
        group: by value, the one whose scale it has, itself or another.
        observed: by such a value, the values whose numbers make the range.
    """

    layers: Mapping[str, Layer]
    values: tuple[str, ...]
    group: Mapping[str, str]
    observed: Mapping[str, tuple[str, ...]]


def layers_of(graph: Graph) -> dict[str, Layer]:
    """Return every layer with constant weights in float32, by name, in order."""
    uses = graph.consumers()
    claimed: set[str] = set()  # of two layers that are summed, the later one takes the sum
    found = [
        layer
        for node in reversed(graph.nodes)
        if (layer := _layer(graph, node, uses, claimed)) is not None
    ]
    return {layer.name: layer for layer in reversed(found)}


def _layer(
    graph: Graph, node: Node, uses: Mapping[str, tuple[Node, ...]], claimed: set[str]
) -> Layer | None:
    data, weight, bias = (*node.inputs, "", "")[:3]
    if not _weighted(graph, node, data, weight, bias):
        return None
    w = graph.constants[weight]
    outputs = w.shape[0 if node.op == "Conv" or node.get("transB", 0) else 1]
    chain: list[Node] = []
    value, residual, adder = node.outputs[0], "", None
    while (follower := _only(graph, value, uses)) is not None:
        if _bounds(graph, follower):
            chain.append(follower)
            value = follower.outputs[0]
            break
        if follower.op != "Add" or follower.name in claimed:
            break
        (other,) = (v for v in follower.inputs if v != value)
        like = graph.types[follower.outputs[0]] == graph.types[value]  # a bias may add axes of 1
        known = graph.constants.get(other)
        if node.op == "MatMul" and not chain and like and _biases(known, outputs):
            bias, adder = other, follower
        elif not residual and graph.types[other] == graph.types[value]:
            if other in graph.constants:
                break
            residual = other
        else:
            break
        claimed.add(follower.name)
        chain.append(follower)
        value = follower.outputs[0]
    return Layer(node, data, weight, bias, adder, tuple(chain), residual, value)


def _weighted(graph: Graph, node: Node, data: str, weight: str, bias: str) -> bool:
    """Whether a node is a layer with constant weights in float32, and a bias that is, too."""
    if node.op not in ("Conv", "Gemm", "MatMul") or data in graph.constants:
        return False
    w, b = graph.constants.get(weight), graph.constants.get(bias)
    if w is None or w.dtype != SINGLE or (bias and b is None):
        return False
    if node.op == "Conv":
        return True
    if w.ndim != 2 or node.get("transA", 0):
        return False
    outputs = w.shape[0 if node.get("transB", 0) else 1]
    return b is None or b.size == 1 or _biases(b, outputs)


def _biases(array: np.ndarray | None, outputs: int) -> bool:
    """Whether an array adds one number to each output."""
    return array is not None and array.shape[-1:] == (outputs,) and array.size == outputs


def _only(graph: Graph, value: str, uses: Mapping[str, tuple[Node, ...]]) -> Node | None:
    """Return the only node that reads a value, if nobody else wants it."""
    found = uses.get(value, ())
    if len(found) != 1 or value in graph.outputs or found[0].inputs.count(value) != 1:
        return None
    return found[0]


def _bounds(graph: Graph, node: Node) -> bool:
    """Whether a node is a ReLU, or a clip between constants."""
    if node.op == "Clip":
        return all(value in graph.constants for value in node.inputs[1:] if value)
    return node.op == "Relu"


def place(
    graph: Graph, layers: Mapping[str, Layer], kept: Collection[str] = (), *, exact: bool = False
) -> Placement:
    """Return what becomes 8 bit.

    Args:
        graph: the float network.
        layers: as `layers_of` gives them.
        kept: names of those that stay in float32.
        exact: functions of one number get what a layer gives before it is rounded.
    """
    walk = _Walk(graph, layers, kept, exact)
    for node in reversed(graph.nodes):
        walk.visit(node)
    made = [*graph.inputs, *(name for node in graph.nodes for name in node.outputs)]
    values = tuple(name for name in made if name in walk.needed)
    group, derived = _groups(graph, values)
    observed: dict[str, tuple[str, ...]] = {}
    for value in values:
        mine = observed.setdefault(group[value], ())
        if value not in derived:
            observed[group[value]] = (*mine, value)
    quantised = {name: layer for name, layer in layers.items() if name not in kept}
    return Placement(quantised, values, group, observed)


def in_integers(
    graph: Graph, layers: Mapping[str, Layer], kept: Collection[str] = (), *, exact: bool = False
) -> Collection[str]:
    """Return the values that come of layers in int8 alone; all others are in float32 at hand.

    Args:
        graph, layers, kept, exact: as in `place`.
    """
    return _Walk(graph, layers, kept, exact).whole


class _Walk:
    """A walk from the outputs to the inputs; `needed` are the values that must be 8 bit."""

    def __init__(
        self, graph: Graph, layers: Mapping[str, Layer], kept: Collection[str], exact: bool
    ) -> None:
        self.graph, self.layers, self.kept, self.exact = graph, layers, kept, exact
        self.needed: set[str] = set()
        self.makers = graph.producers()
        self.uses = graph.consumers()
        self.fused = {n.name: layer for layer in layers.values() for n in layer.chain}
        self.ends = {layer.end: layer.name for layer in layers.values()}
        self.sums = self._sums()
        self.whole = self._whole()

    def _whole(self) -> set[str]:
        """Return the values of layers in int8, and of operators that work on nothing but those.

        Others are in float32 at hand: to round them first would cost time and accuracy.
        """
        found = {end for end, name in self.ends.items() if name not in self.kept}
        for node in self.graph.nodes:
            value = node.outputs[0]
            given: Collection[str] = node.inputs
            if value in self.ends:
                continue
            if value in self.sums:
                given = self.sums[value].inputs
            elif node.op in SAME | MEANS:
                given = node.inputs[:1]
            elif node.op in UNARY | BINARY:
                source = self._source(value)
                if source is None or (self.exact and source in self.ends):
                    continue
                given = [source]
            elif node.op != "Concat":
                continue
            if found.issuperset(given):
                found.update(filter(None, node.outputs))
        return found

    def _sums(self) -> dict[str, Node]:
        """Return by value the sum of two activations that it is, with a ReLU or a clip behind."""
        found = {}
        for node in self.graph.nodes:
            if node.op != "Add" or node.name in self.fused:
                continue
            types = [self.graph.types[value] for value in node.inputs]
            if any(v in self.graph.constants for v in node.inputs) or types[0] != types[1]:
                continue
            value = node.outputs[0]
            follower = _only(self.graph, value, self.uses)
            if follower is not None and _bounds(self.graph, follower):
                value = follower.outputs[0]
            found[value] = node
        return found

    def visit(self, node: Node) -> None:
        if node.name in self.layers:
            if node.name not in self.kept:
                self.need(node.inputs[0])
        elif node.name in self.fused:
            layer = self.fused[node.name]
            wanted = layer.name not in self.kept and layer.end in self.needed
            if wanted and node.op == "Add" and layer.residual in node.inputs:
                self.need(layer.residual)
        elif not self.needed.isdisjoint(node.outputs):
            self._carry(node)

    def _carry(self, node: Node) -> None:
        """Ask for 8-bit inputs of an operator whose output is needed in 8 bit."""
        if node.op in SAME | MEANS:
            exact = node.op in SAME or node.inputs[0] in self.whole
            if exact and moves(self.graph, node):
                self.need(node.inputs[0])
        elif node.op == "Concat":
            if not any(value in self.graph.constants for value in node.inputs):
                for value in node.inputs:
                    self.need(value)
        elif node.outputs[0] in self.sums:
            given = self.sums[node.outputs[0]].inputs
            if self.whole.issuperset(given):
                for value in given:
                    self.need(value)
        else:
            found = self._source(node.outputs[0])
            at_hand = self.exact and found in self.ends
            if found is not None and found in self.whole and not at_hand:
                self.need(found)

    def _source(self, value: str) -> str | None:
        return source_of(self.graph, value, self.makers, {*self.ends, *self.sums})

    def need(self, value: str) -> None:
        if value not in self.graph.constants and self.graph.types[value].dtype == SINGLE:
            self.needed.add(value)


def moves(graph: Graph, node: Node) -> bool:
    """Whether an operator that moves or averages numbers does so on 8 bit."""
    shape = graph.types[node.inputs[0]].shape
    if node.op == "ReduceMean":
        axes = graph.constants.get((*node.inputs, "")[1])
        return axes is not None and len(shape) > 2 and all(a % len(shape) > 1 for a in axes)
    if node.op == "Pad":
        fill = graph.constants.get((*node.inputs, "", "")[2])
        return fill is None or not fill.any()
    if node.op == "MaxPool" and len(node.outputs) > 1:
        return False
    return all(value in graph.constants for value in node.inputs[1:] if value)


def _groups(graph: Graph, values: Collection[str]) -> tuple[dict[str, str], set[str]]:
    """Return by value the first of those that share its scale, and the values that only repeat."""
    parent = {value: value for value in values}
    order = {value: k for k, value in enumerate(values)}
    derived = set()

    def root(value: str) -> str:
        while parent[value] != value:
            value = parent[value]
        return value

    for node in graph.nodes:
        if node.op == "Concat":
            given = node.inputs
        elif node.op in SAME and moves(graph, node):
            given = node.inputs[:1]
        else:
            continue
        for output in node.outputs:
            if output in parent and all(value in parent for value in given):
                derived.add(output)
                for value in given:
                    first, second = sorted((root(value), root(output)), key=order.__getitem__)
                    parent[second] = first
    return {value: root(value) for value in values}, derived
