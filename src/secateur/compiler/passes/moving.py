"""Layers on levels whose scale and zero point are known when the network runs, in integers.

A sum of levels times weights is as exact as where they are known before. What a zero point takes
from it, and what it is worth, are computed first, for each output (`QuadTerms`); a bias and a
residual are added to the numbers, in float32.
"""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.passes import grids
from secateur.compiler.passes.building import Building
from secateur.compiler.passes.integers import EXACT, activation

_WINDOW = ("dilations", "group", "strides")


def run(graph: Graph) -> Graph:
    """Return the graph with such layers on quads.

    Args:
        graph: after `integers`; its values all have types.
    """
    if not any(node.op == "QuantizeBy" for node in graph.nodes):
        return graph
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.visit(node)
    return walk.made()


class _Walk(Building):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.makers = graph.producers()
        self.quads: dict[tuple[str, ...], str] = {}  # levels, axis, pads -> quads

    def visit(self, node: Node) -> None:
        """Add a node, on quads if it can be."""
        if node.op not in ("FusedConv", "FusedLinear") or not self._layer(node):
            self.nodes.append(node)

    def _layer(self, node: Node) -> bool:
        x, w, b, r = (*node.inputs, "", "")[:4]
        number = self.makers.get(x)
        levels = self.makers.get(number.inputs[0]) if number else None
        if number is None or levels is None or number.op != "DequantizeBy":
            return False
        if levels.op != "QuantizeBy" or number.inputs[1:] != levels.inputs[1:]:
            return False
        if self.types[number.inputs[0]].dtype != np.uint8:
            return False
        found = _weights(node, self.constants[w])
        if found is None:
            return False
        whole, steps, twice = found
        rows = whole.reshape(len(whole), -1).astype(np.int64)
        # sums, and what a zero point takes from them before it is taken
        if 2 * 255 * np.abs(rows).sum(axis=1).max(initial=0) > EXACT:
            return False
        source, scale, zero = levels.inputs
        conv = node.op == "FusedConv"
        pads = tuple(node.get("pads", ())) if conv else ()
        axis = 1 if conv else len(self.types[x].shape) - 1
        quads = self._as_quads((source, scale, zero), axis, pads, twice)
        terms = tuple(self.value(f"{node.name} {what}") for what in ("offsets", "factors"))
        known = (
            self.constant(f"{w} rows", rows.sum(axis=1).astype(np.int32)),
            self.constant(f"{w} steps", steps),
        )
        self.put(Node("QuadTerms", self.name(f"{node.name} terms"), (scale, zero, *known), terms))
        attributes = {k: node.attributes[k] for k in _WINDOW if k in node.attributes}
        if conv:
            attributes |= {"pads": (0,) * len(pads), "zero": 0}
        attributes |= {**activation(node), "quads": 0}
        inputs = (quads, self.constant(f"{w} whole", whole), *terms, r, b)
        op = "QuadConv" if conv else "QuadLinear"
        self.put(Node(op, node.name, inputs, node.outputs, attributes))
        return True

    def _as_quads(
        self, given: tuple[str, str, str], axis: int, pads: tuple[int, ...], twice: bool
    ) -> str:
        """Return a number's quads, given with its scale and zero point. Pads stand for 0."""
        key = (*given, str((axis, pads)))
        source, *grid = given
        if key not in self.quads:
            if any(pads):
                half = len(pads) // 2
                widths = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
                inputs = source, self.constant(f"{source} pads", widths)
                source = self.value(f"{source} padded")
                self.put(Node("Pad", self.name(source), inputs, (source,)))
            made = self.value(f"{source} quads")
            form = {"axis": axis}
            self.put(Node("ToQuads", self.name(made), (source, *grid), (made,), form))
            self.quads[key] = made
        if not twice:
            return self.quads[key]
        if (*key, "twice") not in self.quads:
            made = self.value(f"{source} twice")
            inputs = (self.quads[key],) * 2
            self.put(Node("Concat", self.name(made), inputs, (made,), {"axis": axis}))
            self.quads[*key, "twice"] = made
        return self.quads[*key, "twice"]


def _weights(node: Node, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Return whole weights, int8 [outputs, channels, ...], and steps of outputs, float32.

    Differences of 8 bits, of weights and their zero point, have nine. Where that is so, each is the
    sum of two of eight, for channels that are there twice, as the last of the three says.
    """
    found = grids.of_layer(node, weight)
    if found is not None:
        return *found, False
    if node.get("group", 1) > 1 or (found := grids.of_weights(weight, -255, 254)) is None:
        return None
    whole, steps = found
    room = [(0, 0), (0, -whole.shape[1] % 4), *[(0, 0)] * (whole.ndim - 2)]
    half = np.pad(whole >> 1, room)
    return np.concatenate([half, whole - (whole >> 1)], axis=1).astype(np.int8), steps, True
