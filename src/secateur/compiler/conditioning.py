"""How far off float32 may be at each element of an output, by no fault of an engine.

The network is run again with every input, weight and result moved by a few units in the last place.
What an element then moves by says how well it is defined. A number that is exact in a few bits (a
zero, a mask, a small integer) stays, because it is exact in an engine, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from secateur.compiler import interpreter
from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.errors import UsageError

SLACK = 8.0
"""How many times as far off as any of these runs an engine may be at an element."""

FEW = 0.01
"""Most elements that may be further off: of those that moved beyond the tolerance, or, where the
network rounds or compares, of all. A few runs cannot find every number that lies on an edge."""

NOISE = 3.0
"""How many times as far as rounding to levels moves an output (root of the mean square) another
order of roundings may move it. In a deep network one level that falls otherwise moves many."""

RUNS = 3
STEPS, STEPS_TO_AN_EDGE = 4, 32
"""Units in the last place by which a number is moved at most. More where the network rounds or
compares: a run shows what crossing an edge does only where some number crosses one."""

_SHORT = 0xFFF
"""The last bits of a float32, which are 0 in a number that is meant exactly."""

_STEPPED = frozenset({
    "ArgMax", "ArgMin", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Hardmax", "Less",
    "LessOrEqual", "Mod", "NonMaxSuppression", "Quantize", "QuantizeBy", "RoiAlign",
    "Round", "Sign", "TopK",
})  # fmt: skip
"""Operators that make a step of a small difference, besides a cast to integers."""

Arrays = Mapping[str, np.ndarray]


def runs(graph: Graph, samples: Sequence[Arrays], values: str) -> Iterator[tuple[Arrays, ...]]:
    """Yield what rounding alone may make of the outputs, several times for each sample.

    What a few of these allow, all do, so none need be computed that is not asked for.

    Args:
        graph: of one sample, with types.
        samples: {input: array} of each.
        values: how weights are stored: `fp32`, `fp16` or `bf16`.
    """
    yield tuple(interpreter.run(graph, sample) for sample in samples)
    if values != "fp32":
        stored = _as_fp16 if values == "fp16" else _as_bf16
        yield tuple(interpreter.run_wide(graph, x, stored) for x in samples)
    rng, most = np.random.default_rng(0), STEPS_TO_AN_EDGE if steps(graph) else STEPS
    for _ in range(RUNS):
        try:
            found = tuple(_moved_run(rng, graph, sample, most) for sample in samples)
        except UsageError:  # a position that was computed, and that is none any more
            continue
        yield found


def steps(graph: Graph) -> bool:
    """Return whether a network rounds or compares numbers that it computed."""
    return any(_is_step(graph, node) for node in graph.nodes)


def unrounded(graph: Graph) -> Graph:
    """Return a graph whose levels are cut off at their ends, but not rounded.

    Args:
        graph: with types.
    """
    constants, readers = dict(graph.constants), graph.consumers()
    nodes: list[Node] = []
    cut: set[str] = set()
    for node in graph.nodes:
        x, value = (*node.inputs, "")[0], node.outputs[0]
        its = readers.get(value, ())
        alone = its and value not in graph.outputs and all(n.op == "Dequantize" for n in its)
        if node.op == "Quantize" and alone:
            info = np.iinfo(graph.types[value].dtype.name)
            ends = [f"{value} {end}" for end in ("low", "high")]
            for name, end in zip(ends, (info.min, info.max), strict=True):
                number = (end - node.get("zero")) * np.float32(node.get("scale"))
                constants[name] = np.asarray(number, np.float32)
            cut.add(value)
            nodes.append(Node("Clip", node.name, (x, *ends), node.outputs))
        elif node.op == "QuantizeBy" and value not in graph.outputs and _read_as(its, node):
            cut.add(value)  # nothing is cut off: the scale was made of these numbers
            nodes.append(Node("Identity", node.name, (x,), node.outputs))
        elif node.op in ("Dequantize", "DequantizeBy") and x in cut:
            nodes.append(Node("Identity", node.name, (x,), node.outputs))
        else:
            nodes.append(node)
    types = {name: graph.types[name] for name in graph.inputs}
    return graph.with_(nodes=tuple(nodes), constants=constants, types=types)


def _read_as(readers: Sequence[Node], made: Node) -> bool:
    """Whether levels are read on the grid that they were made for, by all of their readers."""
    return all(n.op == "DequantizeBy" and n.inputs[1:] == made.inputs[1:] for n in readers)


def as_levels_fall(
    found: Sequence[Arrays], wanted: Sequence[Arrays], unrounded: Sequence[Arrays]
) -> bool:
    """Say whether outputs are only as far off as other roundings to levels explain.

    Args:
        found: of each sample, with other roundings. wanted: with its own. unrounded: with none.
    """

    def far(name: str, first: Sequence[Arrays], second: Sequence[Arrays]) -> float:
        with np.errstate(all="ignore"):
            squares = [
                np.square(a[name].astype(np.float64) - b[name])
                for a, b in zip(first, second, strict=True)
            ]
            return float(np.sqrt(np.mean([np.mean(x[np.isfinite(x)]) for x in squares if x.size])))

    return all(far(n, found, wanted) <= NOISE * far(n, unrounded, wanted) for n in wanted[0])


def _is_step(graph: Graph, node: Node) -> bool:
    whole = node.op == "Cast" and ELEMENT_TYPES[node.get("to")].kind != "f"
    whole = whole or (node.op == "GridSample" and node.get("mode", "linear") == "nearest")
    given = {*graph.inputs, *graph.constants}
    return (whole or node.op in _STEPPED) and any(
        graph.types[value].dtype.kind == "f"
        for value in node.inputs
        if value and value not in given
    )


def judge(
    got: np.ndarray,
    wanted: np.ndarray,
    others: Sequence[np.ndarray],
    tolerance: float,
    *,
    stepped: bool,
) -> tuple[float, bool]:
    """Say how far off an output is, and whether it may be.

    Args:
        got: what is judged, of the shape of the others.
        wanted: in float64, where it is a number.
        others: of `runs`.
        tolerance: of a well-defined element, relative to the largest finite number wanted.
        stepped: of `steps`.

    Returns:
        the largest difference of an element that is as it may be, or, where too many are not, the
        largest of those; relative to the largest finite number wanted. And whether all is well.
    """
    if got.dtype.kind != "f":
        off = (got != wanted).astype(np.float64)
        room = np.where(np.any([other != wanted for other in others], axis=0), np.inf, 0.0)
        tolerance = 0.0
    else:
        size = scale(wanted)
        room = np.zeros(wanted.shape)
        with np.errstate(all="ignore"):
            off = np.abs(got.astype(np.float64) - wanted) / size
            same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
            for other in others:
                moved = np.abs(other.astype(np.float64) - wanted) / size
                room = np.maximum(room, np.where(np.isfinite(moved), SLACK * moved, 0.0))
                same |= (got == other) | ~(np.isfinite(got) | np.isfinite(other))
        off = np.where(same, 0.0, np.where(np.isnan(off), np.inf, off))
    wrong = off > tolerance + room
    among = wanted.size if stepped else np.count_nonzero(room > tolerance)
    fine = bool(np.count_nonzero(wrong) <= FEW * among)
    judged = off[~wrong if fine else wrong]
    return float(np.max(judged, initial=0.0, where=np.isfinite(judged) | (not fine))), fine


def scale(wanted: np.ndarray) -> float:
    """Return the largest finite number of an array, without its sign; 1 where there is none."""
    return float(np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0.0)) or 1.0


def _moved_run(rng: np.random.Generator, graph: Graph, sample: Arrays, most: int) -> Arrays:
    given = {name: _moved(rng, array, most) for name, array in sample.items()}
    return interpreter.run_wide(
        graph,
        given,
        stored=lambda array: _moved(rng, array, most),
        rounded=lambda array: _rounded(rng, array, most),
    )


def _moved(rng: np.random.Generator, array: np.ndarray, most: int) -> np.ndarray:
    """Move numbers of float32 that are not exact in a few bits."""
    if array.dtype != np.float32:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)
    return _step(rng, array, (bits & _SHORT) != 0, most).astype(np.float32)


def _rounded(rng: np.random.Generator, array: np.ndarray, most: int) -> np.ndarray:
    """Round numbers of float64 to float32; move those that are not exact in it."""
    if array.dtype != np.float64:
        return array
    with np.errstate(all="ignore"):
        single = array.astype(np.float32)
    return _step(rng, single, single != array, most)


def _step(rng: np.random.Generator, array: np.ndarray, where: np.ndarray, most: int) -> np.ndarray:
    """Return float32 as float64, moved by a few units in the last place where that is asked for."""
    wide = array.astype(np.float64)
    count = rng.integers(-most, most, array.shape, dtype=np.int8, endpoint=True)
    with np.errstate(all="ignore"):
        step = count * np.spacing(np.abs(array)).astype(np.float64)
        moved = (wide + step).astype(np.float32).astype(np.float64)
    return np.where(where & np.isfinite(wide), moved, wide)


def _as_fp16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def _as_bf16(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array).view(np.uint32).astype(np.int64)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000  # ties to even
    return nearest.astype(np.uint32).view(np.float32).reshape(array.shape)
