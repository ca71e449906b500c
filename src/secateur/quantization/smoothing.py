"""Channels of equal size where layers round what is in float32.

What a norm gives has a few channels that are many times as large as the others, and one scale for
all. Layers that read it get it divided by a factor for each channel, in float32 and before it is
rounded, and their weights are multiplied by the same: the network gives the same. All else that
reads it, such as a residual, reads it as it was. As G. Xiao et al., SmoothQuant (2022,
arXiv:2211.10438), with an exponent for each value, where that helps the layers that read it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateur.compiler.canonical import Scope
from secateur.compiler.graph import Graph, Node
from secateur.quantization import equalizing, running
from secateur.quantization.network import Float
from secateur.quantization.placement import SINGLE, Layer, in_integers
from secateur.quantization.ranges import scale_of
from secateur.quantization.running import Arrays

PARTS = (0.25, 0.5, 0.75)
"""Of the lack of steps, what may be moved from values to weights: the exponents that are tried."""

WORTH = 0.9
"""A value is divided where its layers are then at most so far off, in squares, as without."""

ROWS = 2048
"""Rows of channels at most on which that is seen."""


def smoothed(
    network: Float,
    layers: Mapping[str, Layer],
    kept: Collection[str],
    data: Arrays,
    *,
    exact: bool = False,
) -> Float | None:
    """Return a network that gives the same, or None where no value is to be divided.

    Args:
        network: the float network.
        layers: of it.
        kept: names of those that stay in float32.
        data: what the sizes of channels are seen on.
        exact: functions behind layers are computed in float32.
    """
    graph = network.graph
    readers = _readers(graph, layers, kept, exact)
    factors = _factors(network, readers, data)
    if not factors:
        return None
    scope = Scope(values={*graph.types}, nodes={node.name for node in graph.nodes})
    constants, types, growing = dict(graph.constants), dict(graph.types), dict(network.growing)
    swapped: dict[str, Node] = {}
    before: dict[str, Node] = {}  # by value: the product that divides it
    done: dict[str, dict[str, str]] = {}
    for value, row in factors.items():
        divided, inverse = scope.value(f"{value} divided"), scope.value(f"{value} factors")
        constants[inverse] = (1 / row).astype(np.float32)
        types[divided] = types[value]
        if value in growing:
            growing[divided] = growing[value]
        before[value] = Node("Mul", scope.node(divided), (value, inverse), (divided,))
        done[divided] = {layer.name: layer.weight for layer in readers[value]}
        for layer in readers[value]:
            weight = scope.value(f"{layer.weight} of {layer.name}")
            along = row.reshape((1, -1) if layer.axis == 0 else (-1, 1))
            constants[weight] = (graph.constants[layer.weight] * along).astype(np.float32)
            inputs = divided, weight, *layer.node.inputs[2:]
            swapped[layer.name] = replace(layer.node, inputs=inputs)
    nodes = [before[value] for value in graph.inputs if value in before]
    for node in graph.nodes:
        nodes.append(swapped.get(node.name, node))
        nodes += [before[value] for value in node.outputs if value in before]
    graph = graph.with_(nodes=tuple(nodes), constants=constants, types=types)
    return replace(network, graph=graph, growing=growing, divided=done)


def needed(network: Float, whole: Collection[str]) -> bool:
    """Return whether one of these layers reads what is divided."""
    return any(not layers.keys().isdisjoint(whole) for layers in network.divided.values())


def without_needless(network: Float, whole: Collection[str]) -> Graph:
    """Return the graph without divisions that none of these layers, which round, reads."""
    divided = network.divided
    needless = {value for value in divided if divided[value].keys().isdisjoint(whole)}
    undivided, nodes = {}, []
    for node in network.graph.nodes:
        if node.output in needless:
            undivided[node.output] = node.inputs[0]
        elif node.inputs and node.inputs[0] in undivided:
            value = node.inputs[0]
            inputs = undivided[value], divided[value][node.name], *node.inputs[2:]
            nodes.append(replace(node, inputs=inputs))
        else:
            nodes.append(node)
    return network.graph.with_(nodes=tuple(nodes))


def _readers(
    graph: Graph, layers: Mapping[str, Layer], kept: Collection[str], exact: bool
) -> dict[str, list[Layer]]:
    """Return by value in float32 the linear layers that round it."""
    whole = in_integers(graph, layers, kept, exact=exact)
    found: dict[str, list[Layer]] = {}
    for name, layer in layers.items():
        tensor = graph.types[layer.data]
        linear = layer.node.op != "Conv" and tensor.dtype == SINGLE and tensor.size > 0
        if linear and name not in kept and layer.data not in whole:
            found.setdefault(layer.data, []).append(layer)
    return found


def _factors(
    network: Float, readers: Mapping[str, list[Layer]], data: Arrays
) -> dict[str, np.ndarray]:
    """Return what each channel of a value is divided by, for values where that is worth it."""
    sizes = equalizing.sizes(network, dict.fromkeys(readers, -1), data)
    rows = _rows(network, readers, data)
    found = {}
    for value, layers in readers.items():
        weights = [_inputs_last(network.graph, layer) for layer in layers]
        reads = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
        ways = [equalizing.powers(_shared(sizes[value], reads, part)) for part in PARTS]
        errors = [_error(rows[value], weights, way) for way in ways]
        best = int(np.argmin(errors))
        if errors[best] < WORTH * _error(rows[value], weights, np.ones(len(reads))):
            found[value] = ways[best]
    return found


def _rows(network: Float, values: Collection[str], data: Arrays) -> dict[str, np.ndarray]:
    """Return some rows of channels of each value."""
    found: dict[str, np.ndarray] = {}

    def seen(name: str, array: np.ndarray) -> np.ndarray:
        if name in values:
            rows = array.reshape(-1, array.shape[-1])
            found[name] = rows[:: -(-len(rows) // ROWS)]
        return array

    running.run(network, next(running.chunks(network, data)), seen=seen)
    return found


def _inputs_last(graph: Graph, layer: Layer) -> np.ndarray:
    """Return the weights of a layer as [outputs, inputs]."""
    weight = graph.constants[layer.weight]
    return weight if layer.axis == 0 else weight.T


def _shared(sizes: np.ndarray, weights: np.ndarray, part: float) -> np.ndarray:
    """Return factors that move so large a part of the lack of steps from values to weights.

    They are 0 for channels that nothing reads, or that are always 0.
    """
    used = (weights > 0) & (sizes > 0)
    logs = part * np.log(sizes, where=used, out=np.zeros(len(sizes)))
    logs -= (1 - part) * np.log(weights, where=used, out=np.zeros(len(sizes)))
    factors: np.ndarray = np.where(used, np.exp(logs), 0)
    return factors


@np.errstate(all="ignore")  # an error that is not finite is not smaller
def _error(rows: np.ndarray, weights: Sequence[np.ndarray], factors: np.ndarray) -> float:
    """Return by how much layers are off where rows and weights are rounded: squares, summed."""
    given = rows / factors
    rounded = scale_of(float(given.min()), float(given.max())).rounded(given.astype(np.float32))
    total = 0.0
    for weight in weights:
        whole = weight * factors
        steps = np.abs(whole).max(axis=1, keepdims=True) / 127
        steps[steps == 0] = 1
        off = rounded @ (np.rint(whole / steps) * steps).T.astype(np.float32) - rows @ weight.T
        total += float(np.square(off, dtype=np.float64).sum())
    return total
