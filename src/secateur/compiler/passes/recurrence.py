"""What a recurrent layer makes of its inputs is computed for all steps at once, by a linear layer.

Only the part that depends on the step before needs to wait for it. The linear layer has kernels
that skip zeros, and reads each weight once for many steps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.ops.recurrent import FAMILIES, PROJECTED, UNITS

_NO_ACTIVATION = {"activation": "", "alpha": 0.0, "beta": 0.0}
W = 1


def run(graph: Graph) -> Graph:
    """Return the graph with a `FusedLinear` before every recurrent layer of several steps.

    Args:
        graph: its values all have types.
    """
    nodes: list[Node] = []
    constants, types = dict(graph.constants), dict(graph.types)
    names = {node.name for node in graph.nodes}
    for node in graph.nodes:
        if not _suits(graph, node):
            nodes.append(node)
            continue
        weight = _stacked(graph.constants[node.inputs[W]], FAMILIES[node.op].gates)
        w, x = (fresh(types, f"{node.outputs[0] or node.name}@{what}") for what in ("W", "X"))
        name = fresh(names, f"{node.name}/inputs")
        names.add(name)
        shape = (*graph.types[node.inputs[0]].shape[:2], len(weight))
        constants[w], types[w] = weight, Tensor(weight.dtype, weight.shape, weight)
        types[x] = Tensor(weight.dtype, shape)
        nodes.append(Node("FusedLinear", name, (node.inputs[0], w, "", ""), (x,), _NO_ACTIVATION))
        attributes = {**node.attributes, PROJECTED: 1}
        inputs = (x, "", *node.inputs[2:])
        nodes.append(replace(node, inputs=inputs, attributes=attributes))
    kept = {name for node in nodes for name in node.inputs} | {*graph.outputs}
    return graph.with_(
        nodes=tuple(nodes),
        constants={name: array for name, array in constants.items() if name in kept},
        types={
            name: tensor for name, tensor in types.items() if name in kept or name not in constants
        },
    )


def _suits(graph: Graph, node: Node) -> bool:
    if node.op not in FAMILIES or node.get(PROJECTED, 0):
        return False
    x = graph.types[node.inputs[0]]
    steps = x.shape[1 if node.get("layout", 0) else 0]
    known = node.inputs[0] in graph.constants, node.inputs[W] in graph.constants
    return steps > 1 and known == (False, True) and x.dtype == np.float32


def _stacked(weight: np.ndarray, gates: int) -> np.ndarray:
    """Return weights [d, g * h, i] as [d * g * units, i], rows of zeros filling up the units."""
    directions, rows, inputs = weight.shape
    hidden = rows // gates
    units = -(-hidden // UNITS) * UNITS
    filled = np.zeros((directions, gates, units, inputs), weight.dtype)
    filled[:, :, :hidden] = weight.reshape(directions, gates, hidden, inputs)
    return filled.reshape(-1, inputs)
