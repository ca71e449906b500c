"""A graph that is made anew, node by node: what every walk of that kind keeps."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.passes import shapes
from secateur.compiler.passes.identity import sweep

UNKNOWN = Tensor(np.dtype(np.float32), ())
"""Of a value until it is made."""


class Building:
    """Nodes so far, and all constants and types, those of the graph that is walked included."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants, self.types = dict(graph.constants), dict(graph.types)
        self.names = {node.name for node in graph.nodes}
        self.nodes: list[Node] = []

    def put(self, node: Node) -> None:
        """Add a node and find out what its outputs are."""
        self.nodes.append(node)
        made = shapes.infer(node, self.types, self.constants)
        self.types |= dict(zip(node.outputs, made, strict=True))

    def name(self, wish: str) -> str:
        """Return a name that no node has."""
        name = fresh(self.names, wish)
        self.names.add(name)
        return name

    def value(self, wish: str) -> str:
        """Return a name that no value has."""
        name = fresh(self.types, wish)
        self.types[name] = UNKNOWN
        return name

    def constant(self, wish: str, array: np.ndarray) -> str:
        """Keep an array and return its name."""
        name = self.value(wish)
        self.constants[name] = array
        self.types[name] = Tensor(array.dtype, array.shape)
        return name

    def made(self) -> Graph:
        """Return the new graph, without what nobody reads."""
        nodes = tuple(self.nodes)
        return sweep(self.graph.with_(nodes=nodes, constants=self.constants, types=self.types))
