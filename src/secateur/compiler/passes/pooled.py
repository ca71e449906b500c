"""What never decreases goes before a max pool, into the layer whose outputs are pooled.

max(s x + b) = s max(x) + b where no s is negative, and likewise for ReLU and its kin, even as
floats are rounded, since rounding never decreases either. So a network that pools between a layer
and its batch normalization is the one that pools behind both: the layer takes normalization and
activation in, at no cost, and what is pooled may be levels of 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.passes.batchnorm import LINEAR


def run(graph: Graph) -> Graph:
    """Return the graph with such max pools moved down; values all have types."""
    makers, readers = graph.producers(), graph.consumers()
    types, places = dict(graph.types), dict[str, Node]()

    def only_reader(value: str) -> Node | None:
        after = readers.get(value, ())
        return after[0] if len(after) == 1 and value not in graph.outputs else None

    for pool in graph.nodes:
        maker = makers.get(pool.inputs[0])
        if pool.op != "MaxPool" or maker is None or maker.op not in LINEAR:
            continue
        if maker.inputs[1] not in graph.constants or only_reader(pool.inputs[0]) is not pool:
            continue
        steps: list[Node] = []
        value = pool.outputs[0]
        while (after := only_reader(value)) and _never_decreases(graph, after, value):
            steps.append(after)
            value = after.outputs[0]
        if not steps:
            continue
        given, large = pool.inputs[0], types[pool.inputs[0]]
        order = [pool, *steps]
        for place, step in zip(order, steps, strict=False):  # each step moves one place up
            made = fresh(types, f"{step.outputs[0]}_before_pool")
            types[made] = replace(large, dtype=types[step.outputs[0]].dtype)
            inputs = tuple(given if name == _value(graph, step) else name for name in step.inputs)
            places[place.name] = replace(step, inputs=inputs, outputs=(made,))
            given = made
        places[steps[-1].name] = replace(pool, inputs=(given,), outputs=(value,))
    nodes = tuple(places.get(node.name, node) for node in graph.nodes)
    return graph.with_(nodes=nodes, types=types)


def _value(graph: Graph, node: Node) -> str:
    """Return the one input of a node that is no constant."""
    return next(name for name in node.inputs if name and name not in graph.constants)


def _never_decreases(graph: Graph, node: Node, value: str) -> bool:
    """Return whether a node is a function of each number of a value that never falls."""
    others = [name for name in node.inputs if name and name != value]
    if node.op not in _RULES or len(node.outputs) != 1 or node.inputs.count(value) != 1:
        return False
    if any(name not in graph.constants for name in others):
        return False
    known = [graph.constants[name] for name in others]
    same = graph.types[node.outputs[0]].shape == graph.types[value].shape
    return same and _RULES[node.op](node, node.inputs[0] == value, known, graph.types[value])


def _by_channel(array: np.ndarray, like: Tensor) -> bool:
    """Return whether a constant is one number for all of a plane, and finite."""
    plane = len(like.shape) - 2
    flat = all(extent == 1 for extent in array.shape[max(array.ndim - plane, 0) :])
    return flat and bool(np.isfinite(array).all())


_Rule = Callable[[Node, bool, Sequence[np.ndarray], Tensor], bool]
_RULES: Mapping[str, _Rule] = {
    "Relu": lambda node, first, known, like: True,
    "LeakyRelu": lambda node, first, known, like: node.get("alpha", 0.01) >= 0,
    "Clip": lambda node, first, known, like: not any(np.isnan(bound).any() for bound in known),
    "BatchNormalization": lambda node, first, known, like: first and bool((known[0] >= 0).all()),
    "Add": lambda node, first, known, like: _by_channel(known[0], like),
    "Sub": lambda node, first, known, like: first and _by_channel(known[0], like),
    "Mul": lambda node, first, known, like: (
        _by_channel(known[0], like) and bool((known[0] > 0).all())
    ),
    "Div": lambda node, first, known, like: (
        first and _by_channel(known[0], like) and bool((known[0] > 0).all())
    ),
}
"""By operator, with whether the value is its first input, its constants, and the value's type."""
