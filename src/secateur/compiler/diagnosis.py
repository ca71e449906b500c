"""Where an engine differs from the reference: the first step whose values are wrong.

Either a pass has made another network, which the numpy references of both show; or a kernel or the
plan is wrong, which engines show that give the values of all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.compiler import choice, conditioning, interpreter, network, passes, rows, verification
from secateur.compiler.graph import EMPTY, Graph, Node
from secateur.compiler.kernels import C_TYPES
from secateur.compiler.network import Network
from secateur.compiler.plan import plan
from secateur.compiler.runtime import Engine
from secateur.compiler.verification import Arrays, Batch, DifferenceError
from secateur.errors import printable

MOST_BYTES = 2**28
"""Of values that are looked at together, as float64, over the whole batch."""

Make = Callable[[Network], Engine]
"""Builds the engine of a network."""


@dataclass(frozen=True)
class Place:
    """Where values differ first.

    Attributes:
        what: the step, or the pass and its step.
        value: which of its values.
        error: largest absolute difference of an element, which NaN and infinity make infinite.
        largest: the largest finite number that is wanted there, without its sign.
    """

    what: str
    value: str
    error: float
    largest: float

    def __str__(self) -> str:
        return (
            f"{self.what}, whose value {self.value!r} is off by up to {self.error:.2g} where its "
            f"largest number is {self.largest:.2g}"
        )


def told(compiled: Network, batch: Batch, values: str, make: Make) -> str:
    """Return a part of a sentence that says where an engine differs, as `first_difference`."""
    try:
        found = first_difference(compiled, batch, values, make)
    except Exception as error:  # whatever it is: that the engine differs is what has to be told
        return f"where it arises could not be found ({printable(str(error))})"
    if found is None:
        return "no step is wrong where each step's values are kept"
    return f"it arises in {found}"


def first_difference(compiled: Network, batch: Batch, values: str, make: Make) -> Place | None:
    """Return the first step whose values differ from what the reference gives.

    Args:
        compiled: the network whose engine differs.
        batch: for which it does.
        values: how weights are stored, which decides the tolerance.
        make: builds engines.

    Returns:
        None where every step gives what it should as soon as its values are kept.

    Raises:
        CompileError: an engine cannot be built, or there is not enough memory.
    """
    return _of_passes(compiled, batch, values) or _of_steps(compiled, batch, values, make)


# Passes.


def _of_passes(compiled: Network, batch: Batch, values: str) -> Place | None:
    known = verification.truth_of(compiled, batch.samples)
    each = Batch(batch.samples, tuple(range(len(batch.samples))))
    whole = replace(compiled, fixed=len(batch.samples))  # one call has all of them

    def agrees(graph: Graph) -> bool:
        made = [
            {v: array.reshape(wanted[v].shape) for v, array in _run(graph, sample).items()}
            for sample, wanted in zip(batch.samples, known.wanted, strict=True)
        ]
        outputs = tuple(each.together(made, v) for v in graph.outputs)
        try:
            verification.verify(whole, known, lambda _: outputs, values, own=True)
        except DifferenceError:
            return False
        return True

    if agrees(compiled.graphs[0]):
        return None
    before = rows.split(compiled.reference, compiled.rows)
    for name, run in passes.PASSES:
        after = passes.apply(before, ((name, run),))
        if not agrees(after):
            return _of_pass(name, before, after, batch, values)
        before = after
    return None


def _of_pass(name: str, before: Graph, after: Graph, batch: Batch, values: str) -> Place:
    """Return the first value that a pass has changed, of those that it left their names."""
    kept = [v for v in _values(after) if v in before.types and before.types[v] == after.types[v]]
    outputs = [v for v in after.outputs if v not in kept]
    olds, news = (
        [_run(graph.with_(outputs=tuple(kept)), sample) for sample in batch.samples]
        for graph in (before, after)
    )
    for value in kept:
        wanted, got = (batch.together(arrays, value) for arrays in (olds, news))
        if not _fine(got, wanted, (), values, stepped=False):
            what = f"the pass {name!r} at {_maker(after, value)}"
            return Place(what, value, *_sizes(got, wanted))
    return Place(f"the pass {name!r}", (outputs or [*after.outputs])[0], np.inf, np.inf)


# Steps.


def _of_steps(compiled: Network, batch: Batch, values: str, make: Make) -> Place | None:
    probes = [v for v in _values(compiled.graphs[0]) if _can_be_output(compiled, v)]
    for several in _chunks(compiled.graphs[0], probes, len(batch.order)):
        if found := _compared(compiled, several, batch, values, make):
            return found
    # a value may be right only where it is kept: one at a time, by bisection
    low, high, found = 0, len(probes) - 1, None
    while low <= high:
        middle = (low + high) // 2
        here = _compared(compiled, [probes[middle]], batch, values, make)
        found, low, high = (here, low, middle - 1) if here else (found, middle + 1, high)
    return found


def _compared(
    compiled: Network, probes: Sequence[str], batch: Batch, values: str, make: Make
) -> Place | None:
    """Return the first of some values that differs in an engine that gives them."""
    asked = _giving(compiled, probes)
    (graph, *_) = asked.graphs
    right = [_run(graph, sample) for sample in batch.samples]
    stepped = conditioning.steps(graph)
    others: list[tuple[Any, ...]] = []
    if not _integers(graph):
        others = list(conditioning.runs(graph, batch.samples, values))
    with make(asked) as engine:
        made = engine(batch.given())
    for value, got in zip(probes, made if isinstance(made, tuple) else (made,), strict=True):
        wanted = batch.together(right, value)
        moved = [batch.together(arrays, value) for arrays in others]
        if not _fine(got, wanted, moved, values, stepped=stepped):
            what = f"step {_maker(graph, value)}"
            return Place(what, value, *_sizes(got, wanted))
    return None


def _giving(compiled: Network, probes: Sequence[str]) -> Network:
    """Return a network of the same steps that gives some of their values, for any batch."""
    last = max(_position(compiled.graphs[0], value) for value in probes)
    graphs = tuple(
        graph.with_(
            nodes=graph.nodes[: 1 + max(_position(graph, v) for v in probes)],
            outputs=tuple(probes),
        )
        for graph in compiled.graphs
    )
    kept = {node.name for node in compiled.graphs[0].nodes[: last + 1]}
    machine = compiled.machine
    programs = [plan(graphs[0], machine, batch=1, lanes=False, batched=compiled.batched)]
    for graph, program in zip(graphs[1:], compiled.programs[1:], strict=True):
        many = network.of_many(graphs[0], graph, machine, program.batch)
        programs += [many] if many else []
    return replace(
        compiled,
        graphs=graphs[: len(programs)],
        programs=tuple(programs),
        sparse={name: most for name, most in compiled.sparse.items() if name in kept},
        loads=compiled.loads[: len(programs)],
        rows=EMPTY,
        fixed=0,
        whole=None,
    )


def _can_be_output(compiled: Network, value: str) -> bool:
    """Whether an engine can give a value: in every program it begins with the samples."""
    for graph, program in zip(compiled.graphs, compiled.programs, strict=True):
        tensor = graph.types.get(value)
        if tensor is None or tensor.dtype.name not in C_TYPES or tensor.value is not None:
            return False
        if compiled.batched and tensor.shape[:1] != (program.batch,):
            return False
    first = compiled.graphs[0].types[value].shape
    return all(graph.types[value].shape[1:] == first[1:] for graph in compiled.graphs)


def _chunks(graph: Graph, probes: Sequence[str], samples: int) -> Iterator[list[str]]:
    """Yield values in order, as many at once as the memory may take."""
    several: list[str] = []
    left = MOST_BYTES
    for value in probes:
        size = 8 * samples * graph.types[value].size
        if several and size > left:
            yield several
            several, left = [], MOST_BYTES
        several.append(value)
        left -= size
    if several:
        yield several


# Both.


def _values(graph: Graph) -> list[str]:
    return [value for node in graph.nodes for value in node.outputs if value]


def _position(graph: Graph, value: str) -> int:
    return next(k for k, node in enumerate(graph.nodes) if value in node.outputs)


def _maker(graph: Graph, value: str) -> Node:
    return graph.nodes[_position(graph, value)]


def _integers(graph: Graph) -> bool:
    return any(node.op in choice.INTEGER for node in graph.nodes)


def _run(graph: Graph, sample: Arrays) -> dict[str, np.ndarray]:
    """Return a graph's outputs in float64; in float32 where layers are in integers."""
    return (interpreter.run if _integers(graph) else interpreter.run_wide)(graph, sample)


def _fine(
    got: np.ndarray, wanted: np.ndarray, others: Sequence[np.ndarray], values: str, *, stepped: bool
) -> bool:
    if got.shape != wanted.shape:
        return False
    others = others or [wanted]
    return conditioning.judge(got, wanted, others, verification.TOLERANCE[values], stepped=stepped)[
        1
    ]


def _sizes(got: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Return the largest difference, and the largest number wanted."""
    if got.shape != wanted.shape or not wanted.size:
        return np.inf, conditioning.scale(wanted)
    with np.errstate(all="ignore"):
        one, other = got.astype(np.float64), wanted.astype(np.float64)
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        off = np.where(same, 0.0, np.abs(one - other))
    return float(np.max(np.where(np.isnan(off), np.inf, off))), conditioning.scale(other)
