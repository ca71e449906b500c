"""Means over windows and whole planes of levels: what `QuadAveragePool` needs to know of them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops import pooling
from secateur.compiler.ops.reduction import reduced_axes
from secateur.compiler.passes.grids import Grid

MOST = 2**31 // 256
"""Levels of a window: their sum, and what a zero point takes from it, fit int32."""

_WINDOW = ("ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides")


def form(graph: Graph, node: Node, grid: Grid, goal: Grid | None) -> dict[str, Any] | None:
    """Return the attributes of a `QuadAveragePool`; None where a node gives no means over planes.

    Args:
        graph: with types.
        node: an AveragePool with explicit pads, a GlobalAveragePool or a ReduceMean.
        grid: of the levels that it is given.
        goal: of the levels that are made of the means; None where these stay numbers.
    """
    _, channels, *spatial = graph.types[node.inputs[0]].shape
    if not spatial or 0 in spatial:
        return None
    if node.op == "AveragePool":
        found = {key: node.attributes[key] for key in _WINDOW if key in node.attributes}
    elif node.op == "GlobalAveragePool" or _of_planes(graph, node):
        found = {"kernel_shape": tuple(spatial)}
    else:
        return None
    if prod(found["kernel_shape"]) > MOST:
        return None
    found |= {"channels": channels, "scale": grid.scale, "zero": grid.zero, "quads": 0, "step": 1.0}
    if goal:
        found |= {"quads": 1, "step": goal.scale, "low": 0, "high": 255, "out_zero": goal.zero}
    return found


def _of_planes(graph: Graph, node: Node) -> bool:
    """Whether a ReduceMean is over all axes behind the channels."""
    rank, given = len(graph.types[node.inputs[0]].shape), None
    if len(node.inputs) > 1 and node.inputs[1]:
        values = graph.constants.get(node.inputs[1])
        if values is None:
            return False
        given = tuple(values.reshape(-1).tolist())
    return sorted(reduced_axes(node, given, rank)) == list(range(2, rank))


def factors(attributes: dict[str, Any], spatial: tuple[int, ...]) -> np.ndarray:
    """Return what a window's sum is worth, in steps of the output, by window, float64.

    Args:
        attributes: of `form`. spatial: extents of the plane.
    """
    node = Node("QuadAveragePool", "mean", ("",), ("",), attributes)
    divisors = pooling.pool_divisors(node, pooling.pool_window(node, spatial), spatial)
    return np.asarray(attributes["scale"] / attributes["step"] / divisors)
