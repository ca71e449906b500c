"""Slices of a plane and zero channels become a convolution with one weight a channel.

The parameter-free shortcut of residual networks takes every second row and column and adds channels
of zeros. As a 1 x 1 convolution with stride whose weights are an identity it is as exact, it keeps
the plane in the lanes, and it takes the residual sum into itself or is taken into the other side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.compiler.graph import Graph, Node, fresh
from secateur.compiler.ops.indexing import pads, slices
from secateur.compiler.ops.shape import Shape
from secateur.compiler.passes.identity import sweep

Step = tuple[tuple[int, int], int, int]
"""Strides of height and width; channels of zeros before and after."""

Given = Sequence[np.ndarray | None]
"""Constant inputs after the first; None where absent."""


def run(graph: Graph) -> Graph:
    """Return the graph with such chains replaced; values all have types."""
    makers, readers = graph.producers(), graph.consumers()
    nodes, constants = [], dict(graph.constants)
    for node in graph.nodes:
        step = _step(graph, node)
        after = readers.get(node.outputs[0], ())
        last = len(after) != 1 or node.outputs[0] in graph.outputs or not _step(graph, after[0])
        if step is None or not last:
            nodes.append(node)
            continue
        strides, before, behind = step
        source = node.inputs[0]
        while (maker := makers.get(source)) and (earlier := _step(graph, maker)):
            strides = (strides[0] * earlier[0][0], strides[1] * earlier[0][1])
            before, behind = before + earlier[1], behind + earlier[2]
            source = maker.inputs[0]
        channels = graph.types[source].shape[1]
        weight = np.zeros((before + channels + behind, channels, 1, 1), np.float32)
        weight[before + np.arange(channels), np.arange(channels)] = 1
        name = fresh({*graph.types, *constants}, f"{node.name}_identity")
        constants[name] = weight
        attributes = {
            "strides": strides,
            "kernel_shape": (1, 1),
            "pads": (0, 0, 0, 0),
            "dilations": (1, 1),
            "group": 1,
        }
        nodes.append(Node("Conv", node.name, (source, name), node.outputs, attributes))
    return sweep(graph.with_(nodes=tuple(nodes), constants=constants))


def _step(graph: Graph, node: Node) -> Step | None:
    """Return what a node does to channels and planes; None where it is no such step."""
    read = _STEPS.get(node.op)
    if read is None:
        return None
    tensor = graph.types[node.inputs[0]]
    given = [graph.constants.get(name) for name in node.inputs[1:]]
    known = all(g is not None or not name for g, name in zip(given, node.inputs[1:], strict=True))
    plane = len(tensor.shape) == 4 and tensor.dtype == np.float32
    return read(node, tensor.shape, given) if known and plane else None


def _sliced(node: Node, shape: Shape, given: Given) -> Step | None:
    """Return the strides of a Slice that takes every so many rows and columns, from the first."""
    bounds = [None if g is None else tuple(map(int, g)) for g in (*given, None, None)]
    taken = slices(node, shape, bounds[:4])
    still = taken[0].step == taken[1].step == 1
    whole = all(
        r.start == 0 and r.step > 0 and len(r) == -(-n // r.step)
        for r, n in zip(taken, shape, strict=True)
    )
    return ((taken[2].step, taken[3].step), 0, 0) if whole and still else None


def _padded(node: Node, shape: Shape, given: Given) -> Step | None:
    """Return how many channels of zeros a Pad adds, where it adds those alone."""
    widths, value, axes = (*given, None, None)[:3]
    assert widths is not None
    around = pads(
        node,
        shape,
        tuple(map(int, widths)),
        None if axes is None else tuple(map(int, axes)),
    )
    before, behind = around[1]
    zeros = node.get("mode", "constant") == "constant" and (value is None or not value.any())
    alone = not np.any(around[:1] + around[2:]) and min(before, behind) >= 0
    return ((1, 1), before, behind) if zeros and alone else None


_STEPS = {"Slice": _sliced, "Pad": _padded}
