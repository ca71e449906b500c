"""Channels of equal size: a layer gives some smaller, some larger; the next makes up for it.

What a layer gives has one scale for all channels, so a channel of small numbers has few steps.
Where only another layer reads it, through nothing but a ReLU, the outputs of the first may be
divided by any positive number each, and the weights of the second multiplied by it: the network
gives the same. As M. Nagel et al., Data-Free Quantization through Weight Equalization and Bias
Correction (2019), with ranges of values in the place of the first weights', which have a scale for
each output here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from secateur.compiler.canonical import Scope
from secateur.compiler.graph import Graph, Node
from secateur.quantization import running
from secateur.quantization.network import Float
from secateur.quantization.placement import Layer
from secateur.quantization.running import Arrays

MOST = 2.0**10
"""Of a factor, and its inverse: channels that are never used have no size."""


@dataclass(frozen=True)
class Pair:
    """Two layers, of which the second alone reads what the first gives.

    Attributes:
        first, second: the layers.
        value: between them.
    """

    first: Layer
    second: Layer
    value: str

    @property
    def depthwise(self) -> bool:
        """Whether each channel of the second has weights of its own, and so scales of its own."""
        return bool(self.second.node.get("group", 1) > 1)


def pairs(graph: Graph, layers: Mapping[str, Layer]) -> list[Pair]:
    """Return every pair, in order."""
    uses = graph.consumers()
    found = []
    for first in layers.values():
        plain = all(node.op == "Relu" or node is first.adder for node in first.chain)
        readers = uses.get(first.end, ())
        if not plain or first.residual or first.end in graph.outputs or len(readers) != 1:
            continue
        second = layers.get(readers[0].name)
        if second is not None and second.data == first.end and _fits(graph, first, second):
            found.append(Pair(first, second, first.end))
    return found


def _fits(graph: Graph, first: Layer, second: Layer) -> bool:
    """Whether the second reads each output of the first as a channel of its own."""
    outputs = graph.constants[first.weight].shape[first.axis]
    weight, group = graph.constants[second.weight], second.node.get("group", 1)
    if (first.node.op == "Conv") != (second.node.op == "Conv"):
        return False
    if second.node.op == "Conv":
        return group in (1, outputs)
    return bool(weight.shape[1 - second.axis] == outputs)


def equalized(
    network: Float, layers: Mapping[str, Layer], found: list[Pair], data: Arrays
) -> Float:
    """Return a network that gives the same, with channels of values of more equal size.

    Args:
        network: the float network.
        layers: of it.
        found: its pairs.
        data: what the sizes of channels are seen on.
    """
    axes = {pair.value: 1 if pair.second.node.op == "Conv" else -1 for pair in found}
    size = sizes(network, axes, data)
    graph = network.graph
    scope = Scope(values={*graph.types})
    constants = dict(graph.constants)
    names: dict[str, dict[str, str]] = {}  # by node: constants that take the place of others

    def scale(node: Node, name: str, factors: np.ndarray) -> None:
        mine = names.setdefault(node.name, {})
        if name not in mine:
            mine[name] = scope.value(name)
            constants[mine[name]] = graph.constants[name]
        constants[mine[name]] = (constants[mine[name]] * factors).astype(np.float32)

    for pair in found:
        first, second = pair.first, pair.second
        factors = _factors(graph, pair, size[pair.value])
        weight = graph.constants[first.weight]
        scale(first.node, first.weight, _along(1 / factors, weight.ndim, first.axis))
        if first.bias:
            bias = graph.constants[first.bias]
            wide = np.broadcast_to(1 / factors, bias.shape[:-1] + factors.shape)
            scale(first.adder or first.node, first.bias, wide)
        weight = graph.constants[second.weight]
        inner = 0 if pair.depthwise else 1 - second.axis
        if pair.depthwise:  # [channels * multiplier, 1, ...]
            factors = np.repeat(factors, weight.shape[0] // len(factors))
        scale(second.node, second.weight, _along(factors, weight.ndim, inner))
    nodes = tuple(
        replace(n, inputs=tuple(names.get(n.name, {}).get(v, v) for v in n.inputs))
        for n in graph.nodes
    )
    return replace(network, graph=graph.with_(nodes=nodes, constants=constants))


def _along(factors: np.ndarray, rank: int, axis: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)


def sizes(network: Float, axes: Mapping[str, int], data: Arrays) -> dict[str, np.ndarray]:
    """Return by value the largest number of each channel, whatever its sign.

    Args:
        network: that is run.
        axes: by value, which of its axes counts channels.
        data: what it is run on.
    """
    found: dict[str, np.ndarray] = {}

    def seen(name: str, array: np.ndarray) -> np.ndarray:
        if name in axes:
            axis = axes[name] % array.ndim
            most = np.abs(array).max(tuple(a for a in range(array.ndim) if a != axis))
            found[name] = np.maximum(found.get(name, most), most)
        return array

    for part in running.chunks(network, data):
        running.run(network, part, seen=seen)
    return found


def _factors(graph: Graph, pair: Pair, sizes: np.ndarray) -> np.ndarray:
    """Return what each channel is divided by.

    Scales of the second layer's weights are shared by its channels unless it is depthwise, so
    that a factor then moves the lack of steps from values to weights: half of it is.
    """
    wide = sizes.astype(np.float64)
    if not pair.depthwise:
        weight = graph.constants[pair.second.weight]
        others = tuple(a for a in range(weight.ndim) if a != 1 - pair.second.axis)
        reads = np.abs(weight).max(others).astype(np.float64)
        wide = np.sqrt(np.where(reads > 0, wide / np.where(reads > 0, reads, 1), 0))
    return powers(wide)


def powers(wide: np.ndarray) -> np.ndarray:
    """Return factors as powers of two, float64, of a geometric mean of about 1; 1 for those of 0.

    Nothing is rounded by them, so the network gives exactly the same.
    """
    used = wide > 0
    if not used.any():
        return np.ones(len(wide))
    mean = np.exp(np.log(wide[used]).mean())
    factors = np.where(used, wide / mean, 1.0)
    rounded: np.ndarray = 2.0 ** np.rint(np.log2(np.clip(factors, 1 / MOST, MOST)))
    return rounded
