"""Outputs that hold several rows of each sample: `[samples * k, ...]` for inputs `[samples, ...]`.

Programs know axes that count samples, and nothing else. So such an output is computed as
`[samples, k, ...]`, which lies in memory in the same way, and the runtime merges the two axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh


def of_a_sample(one: Graph, several: Graph, count: int) -> dict[str, int]:
    """Return how many rows of an output belong to each sample, for outputs where it is not one.

    Args:
        one: the graph of one sample, with types.
        several: of `count` samples.
    """
    found = {}
    for name, its in zip(one.outputs, several.outputs, strict=True):
        shape, larger = one.types[name].shape, several.types[its].shape
        if shape and shape[0] > 1 and larger == (count * shape[0], *shape[1:]):
            found[name] = shape[0]
    return found


def split(graph: Graph, rows: Mapping[str, int]) -> Graph:
    """Return a graph whose outputs begin with the samples.

    Args:
        graph: with types.
        rows: of `of_a_sample`; outputs that it lacks stay as they are.
    """
    taken = {*graph.types, *(node.name for node in graph.nodes)}
    inner: dict[str, str] = {}
    for name in rows:
        inner[name] = fresh(taken, f"{name}_rows")
        taken.add(inner[name])
    nodes = [
        replace(
            node,
            inputs=tuple(inner.get(v, v) for v in node.inputs),
            outputs=tuple(inner.get(v, v) for v in node.outputs),
        )
        for node in graph.nodes
    ]
    constants, types = dict(graph.constants), dict(graph.types)
    for name, k in rows.items():
        tensor = graph.types[name]
        shape = (tensor.shape[0] // k, k, *tensor.shape[1:])
        target = fresh(taken, f"{name}_shape")
        taken.add(target)
        constants[target] = np.array(shape, np.int64)
        types[inner[name]], types[name] = tensor, Tensor(tensor.dtype, shape)
        nodes.append(Node("Reshape", inner[name], (inner[name], target), (name,)))
    return graph.with_(nodes=tuple(nodes), constants=constants, types=types)
