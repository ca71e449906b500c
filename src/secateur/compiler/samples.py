"""Random inputs that a network could be given, as far as its graph says what that is.

Numbers are drawn at several scales and with both signs. An integer (or a number that becomes one)
that picks from an axis lies within it, one that is asked whether it is true is 0 or 1, and one that
is compared with a constant lies on both sides of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, floor, inf
from typing import Any

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops.cast import ELEMENT_TYPES

Range = tuple[float, float]
Solve = Callable[[Range, Range], Range]

USUAL: Range = (-4, 12)
"""Integers of which nothing is known; unsigned ones have their whole range, up to 255."""

SCALES = (-2.0, 1.5)
"""Powers of ten between which the scale of each number is drawn, where scales are mixed."""

_MOVED = {
    **dict.fromkeys(("Concat", "Max", "Min"), slice(None)),
    "Where": slice(1, None),
    **dict.fromkeys((
        "Cast", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape",
        "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    ), slice(1)),
}  # fmt: skip
"""Operators whose outputs hold numbers of their inputs, and of which inputs."""

_SOLVED: dict[str, tuple[Solve, Solve]] = {
    "Add": (lambda y, x: (y[0] - x[0], y[1] - x[1]),) * 2,
    "Sub": (lambda y, x: (y[0] + x[1], y[1] + x[0]), lambda y, x: (x[1] - y[1], x[0] - y[0])),
    "Mul": (lambda y, x: (y[0] / x[0], y[1] / x[1]),) * 2,
}
"""For each input of an operator: its span, from those of the output and of the other input."""

_COMPARED = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_JUDGED = frozenset({"And", "Not", "Or", "Xor"})


def draw(rng: np.random.Generator, graph: Graph, *, mixed: bool = False) -> dict[str, np.ndarray]:
    """Return a random array for each input of a graph.

    Args:
        rng: where the numbers come from.
        graph: its values all have types.
        mixed: give every number a scale of its own, from 10^-2 to 10^1.5; otherwise they are
            normal, of deviation 1.
    """
    needed, useful = _ranges(graph)
    found = {}
    for name in graph.inputs:
        tensor = graph.types[name]
        if tensor.dtype.kind == "b":
            found[name] = rng.random(tensor.shape) < 0.5
        elif tensor.dtype.kind == "f" and name not in needed:
            x = rng.standard_normal(tensor.shape)
            if mixed:
                x *= 10 ** rng.uniform(*SCALES, tensor.shape)
            found[name] = x.astype(tensor.dtype)
        else:
            low, high = _chosen(tensor.dtype, needed.get(name), useful.get(name))
            whole = rng.integers(low, high, tensor.shape, endpoint=True)
            found[name] = whole.astype(tensor.dtype)
    return found


def zeros_and_ones(rng: np.random.Generator, graph: Graph) -> dict[str, np.ndarray]:
    """Return a random array for each input; integers are 0 or 1, which few networks refuse."""
    found = draw(rng, graph)
    for name in graph.inputs:
        tensor = graph.types[name]
        if tensor.dtype.kind in "iu":
            found[name] = rng.integers(0, 2, tensor.shape).astype(tensor.dtype)
    return found


def _chosen(dtype: np.dtype[Any], needed: Range | None, useful: Range | None) -> tuple[int, int]:
    """Return the least and the greatest integer to draw."""
    least, most = -(2**31), 2**31 - 1
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        least, most = max(least, int(info.min)), min(most, int(info.max))
    low, high = needed or useful or ((0, 255) if dtype.kind == "u" else USUAL)
    first, last = max(ceil(max(low, least)), least), min(floor(min(high, most)), most)
    return (first, last) if first <= last else (0, 1)


def _ranges(graph: Graph) -> tuple[dict[str, Range], dict[str, Range]]:
    """Return by value what its numbers must lie in, and what is worth trying, read backwards."""
    needed: dict[str, Range] = {}
    useful: dict[str, Range] = {}
    for node in reversed(graph.nodes):
        for value, (low, high) in _demands(graph, node):
            before = needed.get(value, (-inf, inf))
            needed[value] = (max(low, before[0]), min(high, before[1]))
        for value, (low, high) in _hints(graph, node):
            before = useful.get(value, (inf, -inf))
            useful[value] = (min(low, before[0]), max(high, before[1]))
        for ranges in (needed, useful):
            for output in node.outputs:
                if output in ranges:
                    for value, span in _passed(graph, node, ranges[output]):
                        low, high = ranges.get(value, span)
                        if ranges is needed:
                            ranges[value] = (max(low, span[0]), min(high, span[1]))
                        else:
                            ranges[value] = (min(low, span[0]), max(high, span[1]))
    return needed, useful


def _demands(graph: Graph, node: Node) -> Iterator[tuple[str, Range]]:
    if node.op in {"Gather", "GatherElements"}:
        shape = graph.types[node.inputs[0]].shape
        yield node.inputs[1], (0, shape[node.get("axis", 0)] - 1)
    elif node.op == "RoiAlign":
        yield node.inputs[2], (0, graph.types[node.inputs[0]].shape[0] - 1)
    elif node.op in _JUDGED:
        yield from ((value, (0, 1)) for value in node.inputs)
    elif node.op == "Where" or (
        node.op == "Cast" and ELEMENT_TYPES.get(node.get("to")) == np.bool_
    ):
        yield node.inputs[0], (0, 1)


def _hints(graph: Graph, node: Node) -> Iterator[tuple[str, Range]]:
    if len(node.inputs) != 2:
        return
    first, second = node.inputs
    for value, other in ((first, second), (second, first)):
        span = _span(graph, other)
        if span is None:
            continue
        if node.op in _COMPARED:
            yield value, (span[0] - 2, span[1] + 2)
        elif node.op == "Sub" and value == second and span[0] == span[1] == 1:
            yield value, (0, 1)  # 1 - mask


def _passed(graph: Graph, node: Node, span: Range) -> Iterator[tuple[str, Range]]:
    """Yield what an input must lie in for the output to lie in a span."""
    if node.op in _MOVED:
        yield from ((value, span) for value in node.inputs[_MOVED[node.op]] if value)
    elif node.op == "Neg":
        yield node.inputs[0], (-span[1], -span[0])
    elif node.op in _SOLVED:
        others = node.inputs[::-1]
        for value, other, solve in zip(node.inputs, others, _SOLVED[node.op], strict=True):
            known = _span(graph, other)
            if known is not None and (node.op != "Mul" or 0 < known[0] == known[1]):
                yield value, solve(span, known)


def _span(graph: Graph, value: str) -> Range | None:
    array = graph.constants.get(value)
    if array is None or not array.size or array.dtype.kind == "b":
        return None
    return float(array.min()), float(array.max())
