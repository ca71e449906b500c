"""Along which axes the elements of an operator's first input meet: one result depends on several.

Where such an axis grows with the batch, samples may meet, whatever a few random samples say: an
effect may need numbers that were not drawn. Axes along which elements are only taken or repeated,
in their order, are none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops.indexing import slices
from secateur.compiler.ops.recurrent import FAMILIES
from secateur.compiler.ops.reduction import reduced_axes

Axes = tuple[int, ...]

_ALL = 2**31 - 1
"""Ends of slices from here on mean the end of the axis: exporters write the largest integers."""


def axes(graph: Graph, node: Node, rank: int) -> Axes:
    """Return these axes, as far as they are known.

    Args:
        graph: with types, after the pass `fold`.
        node: of it.
        rank: of its first input.
    """
    if sorts(graph, node):
        return ()
    rule = _reduced if node.op.startswith("Reduce") else _RULES.get(node.op)
    return rule(graph, node, rank) if rule else ()


def sorts(graph: Graph, node: Node) -> bool:
    """Return whether a node sorts, and loses nothing: whether samples meet is then to be seen.

    So do sequences of several lengths: they are sorted, and put back into their order.
    """
    if node.op != "TopK":
        return False
    made = next(filter(None, node.outputs))
    return graph.types[made].shape == graph.types[node.inputs[0]].shape


def _constant(graph: Graph, node: Node, index: int) -> np.ndarray | None:
    name = node.inputs[index] if index < len(node.inputs) else ""
    return graph.constants.get(name) if name else None


def _along(_graph: Graph, node: Node, rank: int) -> Axes:
    return (node.get("axis", 0 if node.op.startswith("Arg") else -1) % rank,)


def _trailing(_graph: Graph, node: Node, rank: int) -> Axes:
    return tuple(range(node.get("axis", -1) % rank, rank))


def _summed(graph: Graph, node: Node, rank: int) -> Axes:
    axis = _constant(graph, node, 1)
    return () if axis is None else (int(axis.item()) % rank,)


def _reduced(graph: Graph, node: Node, rank: int) -> Axes:
    chosen = _constant(graph, node, 1)
    if chosen is None and len(node.inputs) > 1 and node.inputs[1]:
        return ()
    return reduced_axes(node, None if chosen is None else tuple(chosen.tolist()), rank)


def _steps(_graph: Graph, node: Node, _rank: int) -> Axes:
    return (1 if node.get("layout", 0) else 0,)


def _from(start: int) -> Callable[[Graph, Node, int], Axes]:
    return lambda _graph, _node, rank: tuple(range(start, rank))


def _window(_graph: Graph, node: Node, _rank: int) -> Axes:
    kernel = tuple(node.get("kernel_shape") or ())
    return tuple(2 + k for k, extent in enumerate(kernel) if extent > 1)


def _convolution(graph: Graph, node: Node, _rank: int) -> Axes:
    _, channels, *kernel = graph.types[node.inputs[1]].shape
    if node.op == "ConvTranspose":  # [inputs, outputs of a group, ...]
        channels = graph.types[node.inputs[0]].shape[1] // node.get("group", 1)
    spatial = tuple(2 + k for k, extent in enumerate(kernel) if extent > 1)
    return ((1,) if channels > 1 else ()) + spatial


def _matmul(_graph: Graph, _node: Node, rank: int) -> Axes:
    return (rank - 1,)


def _gemm(_graph: Graph, node: Node, _rank: int) -> Axes:
    return (0 if node.get("transA", 0) else 1,)


def _gather(graph: Graph, node: Node, rank: int) -> Axes:
    which = _constant(graph, node, 1)
    turned = which is not None and which.ndim == 1 and bool((np.diff(which) < 0).any())
    return (node.get("axis", 0) % rank,) if turned else ()


def _slice(graph: Graph, node: Node, _rank: int) -> Axes:
    shape = graph.types[node.inputs[0]].shape
    values = [_constant(graph, node, index) for index in range(1, 5)]
    bounds = [None if v is None else tuple(map(int, v)) for v in values]
    taken = slices(node, shape, bounds)
    _, ends, given, _ = bounds
    # an end that is beyond the axis, but no "all there is", cuts one that grows
    places = [a % len(shape) for a in given or range(len(ends or ()))]
    cut = {axis for axis, end in zip(places, ends or (), strict=False) if shape[axis] < end < _ALL}
    return tuple(
        axis
        for axis, r in enumerate(taken)
        if r.step < 0 or (r.step == 1 and (len(r) != shape[axis] or axis in cut))
    )


def _changed(graph: Graph, node: Node, rank: int) -> Axes:
    before, after = (graph.types[name].shape for name in (node.inputs[0], node.outputs[0]))
    return tuple(axis for axis in range(rank) if before[axis] != after[axis])


_RULES: Mapping[str, Callable[[Graph, Node, int], Axes]] = {
    **dict.fromkeys(("ArgMax", "ArgMin", "LogSoftmax", "Softmax", "TopK"), _along),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _trailing),
    **dict.fromkeys(FAMILIES, _steps),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _from(2)),
    **dict.fromkeys(("GridSample", "InstanceNormalization", "RoiAlign"), _from(2)),
    **dict.fromkeys(("GroupNormalization", "LRN"), _from(1)),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _window),
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose"), _convolution),
    **dict.fromkeys(("Pad", "Resize"), _changed),
    "CumSum": _summed,
    "Gather": _gather,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "NonMaxSuppression": _from(1),
    "Slice": _slice,
}
