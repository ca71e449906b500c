"""A plan: every scale, weight and bias of a quantised network, and the network it makes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from secateur.compiler.canonical import Scope
from secateur.compiler.graph import EMPTY, Graph, Node, Tensor
from secateur.quantization import running, smoothing, weights
from secateur.quantization.network import Float
from secateur.quantization.placement import Layer, Placement, place
from secateur.quantization.ranges import Histogram, Scale, scale_of
from secateur.quantization.running import Arrays
from secateur.quantization.weights import Weights


@dataclass(frozen=True)
class Choice:
    """How scales are chosen.

    Attributes:
        method: of `ranges.METHODS`, for values.
        clipped: whether weights end where their mean squared error is smallest.
        corrected: whether biases make up for the mean of what rounding does.
        exact: whether functions behind layers are computed in float32, as in `place`.
    """

    method: str
    clipped: bool = False
    corrected: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Plan:
    """A quantised network.

    Attributes:
        network: the float network.
        placement: what becomes 8 bit.
        scales: by value.
        weights: by layer.
        nodes: by name, those that take the place of the network's: layers that read the weights
            of `arrays`.
        arrays: what the integers stand for, float32, by the names that `nodes` read.
        refused: by layer, why it is not quantised though it was to be.
    """

    network: Float
    placement: Placement
    scales: Mapping[str, Scale]
    weights: Mapping[str, Weights]
    nodes: Mapping[str, Node]
    arrays: Arrays
    refused: Mapping[str, str]

    def run(self, data: Arrays, *, only: str = "") -> dict[str, np.ndarray]:
        """Return what the network gives, computed in float32 on rounded values.

        Args:
            data: samples that are run together.
            only: a layer; all others, and values that it does not read, are not rounded.
        """
        nodes, scales = self.nodes, self.scales
        if only:
            layer = self.placement.layers[only]
            names = {only} | ({layer.adder.name} if layer.adder else set())
            nodes = {name: node for name, node in nodes.items() if name in names}
            scales = {layer.data: scales[layer.data]}

        def seen(name: str, array: np.ndarray) -> np.ndarray:
            return scales[name].rounded(array) if name in scales else array

        return running.run(self.network, data, nodes=nodes, constants=self.arrays, seen=seen)


def make(
    network: Float,
    layers: Mapping[str, Layer],
    histograms: Mapping[str, Histogram],
    choice: Choice,
    kept: Collection[str] = (),
    shifts: Mapping[str, np.ndarray] = EMPTY,
    store: weights.Store | None = None,
) -> Plan:
    """Return the plan of a choice.

    A layer whose integers do not fit their types is not quantised.

    Args:
        network: the float network.
        layers: of it.
        histograms: by value, of at least those that are 8 bit where no layer is kept.
        choice: how scales are chosen.
        kept: layers that stay in float32.
        shifts: by layer, what is added to its bias.
        store: where integers of earlier plans are found.
    """
    graph = network.graph
    store = store or weights.Store(graph)
    refused: dict[str, str] = {}
    while True:
        placement = place(graph, layers, {*kept, *refused}, exact=choice.exact)
        scales = _scales(placement, histograms, choice.method)
        found: dict[str, Weights] = {}
        for name, layer in placement.layers.items():
            shift = shifts.get(name)
            made = weights.weights_of(
                store, layer, scales[layer.data], clipped=choice.clipped, shift=shift
            )
            if isinstance(made, str):
                refused[name] = made
            else:
                found[name] = made
        if len(found) == len(placement.layers):
            break
    scope = Scope(values={*graph.types})
    nodes: dict[str, Node] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, layer in placement.layers.items():
        added, new = _nodes(layer, found[name], scope)
        nodes |= {node.name: node for node in added}
        arrays |= new
    return Plan(network, placement, scales, found, nodes, arrays, refused)


def _scales(
    placement: Placement, histograms: Mapping[str, Histogram], method: str
) -> dict[str, Scale]:
    found: dict[str, Scale] = {}
    for first, members in placement.observed.items():
        whole = Histogram()
        for member in members:
            whole = whole.merged(histograms[member])
        found[first] = scale_of(*whole.range(method))
    return {value: found[first] for value, first in placement.group.items()}


def _nodes(layer: Layer, made: Weights, scope: Scope) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Return a layer's nodes, which read what its integers stand for, and these arrays."""
    weight = scope.value(f"{layer.name}_weight")
    arrays = {weight: made.weight(layer.axis)}
    inputs = [layer.data, weight]
    nodes = []
    values = made.bias_values()
    if values is not None:
        bias = scope.value(f"{layer.name}_bias")
        arrays[bias] = values
        if layer.adder is None:
            inputs.append(bias)
        else:
            swapped = tuple(bias if v == layer.bias else v for v in layer.adder.inputs)
            nodes.append(replace(layer.adder, inputs=swapped))
    nodes.append(replace(layer.plain, inputs=tuple(inputs)))
    return nodes, arrays


def qdq(plan: Plan) -> Graph:
    """Return the graph with QuantizeLinear and DequantizeLinear where values are 8 bit."""
    graph = smoothing.without_needless(plan.network, plan.placement.layers)
    parts = _Parts(plan)
    for name in graph.inputs:
        parts.put(name)
    for node in graph.nodes:
        parts.add(plan.nodes.get(node.name, node))
    return Graph(tuple(parts.nodes), graph.inputs, graph.outputs, parts.constants, parts.types)


class _Parts:
    """The nodes so far, in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        graph = plan.network.graph
        self.scope = Scope(
            values={*graph.types, *plan.arrays}, nodes={node.name for node in graph.nodes}
        )
        self.constants = dict(graph.constants)
        self.types = dict(graph.types)
        self.nodes: list[Node] = []
        self.read: dict[str, str] = {}
        self.known: dict[str, tuple[str, str]] = {}
        self.stored = {
            name: layer
            for layer in plan.placement.layers.values()
            for node in (plan.nodes[layer.name], layer.adder and plan.nodes.get(layer.adder.name))
            if node
            for name in node.inputs
            if name in plan.arrays
        }

    def add(self, node: Node) -> None:
        """Add a node, which reads 8-bit values where there are some, and what its outputs need."""
        for name in node.inputs:
            if name in self.stored:
                self._weight(name, self.stored[name])
        self.nodes.append(
            replace(node, inputs=tuple(self.read.get(name, name) for name in node.inputs))
        )
        for name in node.outputs:
            self.put(name)

    def put(self, value: str) -> None:
        """Round a value to 8 bit, if it is to be."""
        if value not in self.plan.scales:
            return
        first = self.plan.placement.group[value]
        if first not in self.known:
            scale = self.plan.scales[value]
            self.known[first] = (
                self._constant(f"{first}_scale", np.array(scale.step)),
                self._constant(f"{first}_zero_point", np.array(scale.zero)),
            )
        stored = self._new("QuantizeLinear", f"{value}_q", value, *self.known[first])
        back = self._new("DequantizeLinear", f"{value}_dq", stored, *self.known[first])
        shape = self.types[value].shape
        self.types[stored] = Tensor(np.dtype(np.uint8), shape)
        self.types[back] = self.types[value]
        self.read[value] = back

    def _weight(self, name: str, layer: Layer) -> None:
        """Make what a layer reads of its integers."""
        made = self.plan.weights[layer.name]
        array = self.plan.arrays[name]
        if array.ndim > 1:
            integers, steps, axis = made.integers, made.steps, layer.axis
        else:
            assert made.bias is not None
            integers, steps, axis = made.bias, made.bias_steps, 0
        given = (
            self._constant(f"{name}_q", integers),
            self._constant(f"{name}_scale", steps),
        )
        node = Node(
            "DequantizeLinear", self.scope.node(f"{name}_dq"), given, (name,), {"axis": axis}
        )
        self.nodes.append(node)
        self.types[name] = Tensor(array.dtype, array.shape)

    def _new(self, op: str, wish: str, *inputs: str) -> str:
        name = self.scope.value(wish)
        self.nodes.append(Node(op, self.scope.node(wish), inputs, (name,)))
        return name

    def _constant(self, wish: str, array: np.ndarray) -> str:
        name = self.scope.value(wish)
        self.constants[name] = array
        self.types[name] = Tensor(array.dtype, array.shape)
        return name


def observed(layers: Mapping[str, Layer], graph: Graph) -> tuple[str, ...]:
    """Return the values of which a histogram is needed, whatever layers are kept."""
    placement = place(graph, layers)
    return tuple(_flat(placement.observed.values()))


def _flat(parts: Iterable[Iterable[str]]) -> Iterable[str]:
    return (value for part in parts for value in part)
