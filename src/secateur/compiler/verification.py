"""Is the engine right? It is compared with the reference before it is handed over.

The reference computes in float64, so that what it gives does not depend on the order of sums or on
how a function is approximated. Where float32 itself cannot give that (a network that subtracts
large numbers, rounds, or compares), an element may be as far off as small
changes of the numbers move it: see `conditioning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.compiler import apart, choice, conditioning, interpreter, passes, samples
from secateur.compiler.graph import Graph
from secateur.compiler.network import SEVERAL, Network
from secateur.compiler.passes import integers
from secateur.errors import CompileError, UsageError

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference between engine and reference, relative to the largest output."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """What an engine is given at once.

    Attributes:
        samples: {input: array} of one sample each.
        order: which of them make the batch; one may come several times.
    """

    samples: tuple[Arrays, ...]
    order: tuple[int, ...]

    def together(self, arrays: Sequence[Arrays], name: str) -> np.ndarray:
        """Return an array of the batch, from that of each of the samples."""
        return _together([arrays[k] for k in self.order], name)

    def given(self) -> dict[str, np.ndarray]:
        """Return the batch as an engine takes it."""
        return {name: self.together(self.samples, name) for name in self.samples[0]}


class DifferenceError(CompileError):
    """An engine that differs from the reference, for this batch."""

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


@dataclass(frozen=True)
class Truth:
    """What the reference gives for a few random samples.

    Attributes:
        samples: {input: array} of one sample each, of several scales.
        wanted: {output: array} of each, of float64 where the network has float32.
    """

    samples: tuple[Arrays, ...]
    wanted: tuple[Arrays, ...]


def truth(network: Network) -> Truth:
    """Run the reference on random inputs.

    Raises:
        CompileError: the network is batched, but several samples together give something else
            than one after the other, or than the network as it was read, so that a batch cannot be
            cut into tiles; or there is not enough memory.
    """
    graph, several = network.reference, network.several
    rng = np.random.default_rng(0)
    count = 2 if several is None else SEVERAL
    drawn = [_sample(rng, graph, mixed=k == 1) for k in range(count)]
    known = Truth(tuple(x for x, _ in drawn), tuple(y for _, y in drawn))
    if several is not None:
        apart.check(graph, several, known.samples, known.wanted)
    if network.whole is not None:
        batch = network.whole.types[network.whole.inputs[0]].shape[0]
        order = _order(rng, batch, SEVERAL)
        apart.check_whole(network.whole, [drawn[k][0] for k in order], [drawn[k][1] for k in order])
    return known


def truth_of(network: Network, own: Sequence[Arrays]) -> Truth:
    """Run the reference on samples of the caller's own.

    Raises:
        UsageError: they hold a position that is none.
        CompileError: there is not enough memory.
    """
    return Truth(tuple(own), tuple(interpreter.run_wide(network.reference, x) for x in own))


def _sample(rng: np.random.Generator, graph: Graph, *, mixed: bool) -> tuple[Arrays, Arrays]:
    """Return a sample and what the reference gives, not NaN alone where that can be had."""
    sample: Arrays = samples.draw(rng, graph, mixed=mixed)
    try:
        wanted = interpreter.run_wide(graph, sample)
    except UsageError:  # a position that the graph computes from integers, and that is none
        sample = samples.zeros_and_ones(rng, graph)
        wanted = interpreter.run_wide(graph, sample)
    if _nans(wanted) > 0.5:  # roots and logarithms, perhaps
        positive = {name: np.abs(x) if x.dtype.kind == "f" else x for name, x in sample.items()}
        other = interpreter.run_wide(graph, positive)
        if _nans(other) < _nans(wanted):
            return positive, other
    return sample, wanted


def _nans(arrays: Arrays) -> float:
    return max((float(np.isnan(a).mean()) for a in arrays.values() if a.size), default=0.0)


def verify(
    network: Network,
    known: Truth,
    run: Callable[[Arrays], Any],
    values: str,
    *,
    own: bool = False,
) -> float:
    """Compare an engine with the reference.

    Args:
        network: what was compiled.
        known: of the reference.
        run: the engine: {input: array} -> output, or a tuple of them.
        values: how its weights are stored, which decides the tolerance.
        own: the samples are the caller's, to be taken in their order, each once.

    Returns:
        the largest difference, relative to the largest output.

    Raises:
        DifferenceError: it is above the tolerance; says by how much, in which output.
    """
    graph = network.reference
    stepped = conditioning.steps(graph)
    rounded: list[tuple[Arrays, ...]] = []
    more = _rounded(network, known, values)
    worst = 0.0
    count = len(known.samples)
    for order in _in_turn(network, count) if own else _orders(network, count):
        batch = Batch(known.samples, tuple(order))
        outputs = run(batch.given())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for name, got in zip(graph.outputs, outputs, strict=True):
            wanted = batch.together(known.wanted, name)
            off, allowed = _difference(got, wanted), TOLERANCE[values]
            fine = off <= allowed
            # other roundings take as long as all else: only as many as it takes
            while not fine and got.shape == wanted.shape:
                others = [batch.together(arrays, name) for arrays in rounded]
                if others:
                    off, fine = conditioning.judge(got, wanted, others, allowed, stepped=stepped)
                if not fine:
                    if (another := next(more, None)) is None:
                        break
                    rounded.append(another)
            if not fine:
                raise DifferenceError(
                    f"the compiled engine differs from the reference by {off:.1e} in output "
                    f"{name!r} of a batch of {len(order)}{' of yours' if own else ''}, more than "
                    f"{allowed:.0e} and what rounding explains: nothing was written",
                    batch,
                )
            worst = max(worst, off)
    return worst


def _rounded(network: Network, known: Truth, values: str) -> Iterator[tuple[Arrays, ...]]:
    """Yield what rounding may make of the outputs of all samples, several times."""
    graph, drawn = network.reference, known.samples
    yield from conditioning.runs(graph, drawn, values)
    if not any(node.op in choice.INTEGER for node in network.graphs[0].nodes):
        return
    floats = passes.in_floats(graph)
    whole = integers.with_whole_biases(floats)
    yield tuple(interpreter.run_wide(whole, sample) for sample in drawn)
    rounded = tuple(_shaped(interpreter.run(network.graphs[0], x), known) for x in drawn)
    plain = conditioning.unrounded(floats)
    freely = [interpreter.run_wide(plain, sample) for sample in drawn]
    # an engine has the levels of these integers; but they must be right themselves
    if conditioning.as_levels_fall(rounded, known.wanted, freely):
        yield rounded


def _shaped(arrays: Arrays, known: Truth) -> Arrays:
    """Return outputs of a sample in the shapes of the reference: rows may have an axis."""
    return {name: array.reshape(known.wanted[0][name].shape) for name, array in arrays.items()}


def _orders(network: Network, distinct: int) -> Iterator[list[int]]:
    """Yield which samples make a batch, for several batches.

    No part at the end of a batch is as one at its beginning, so that an engine that reads its
    samples from elsewhere in the batch, by any distance, gives something else.
    """
    batch = network.programs[-1].batch
    batch = batch if batch > 1 else network.machine.lanes
    rng = np.random.default_rng(0)
    if network.fixed:
        yield from (_order(rng, network.fixed, distinct) for _ in range(2))
        return
    yield from ([k] for k in range(2))
    if not network.batched:
        return
    # some that do not fill a tile; a full tile and more, by a few, and by so many that they have a
    # tile of their own, if any number has
    for count in sorted({2, 3, batch + 2, 2 * batch - 1}):
        yield _order(rng, count, distinct)


def _in_turn(network: Network, count: int) -> Iterator[list[int]]:
    """Yield which samples make a batch, where each is to be run in its place."""
    if network.fixed:
        yield from (list(range(k, k + network.fixed)) for k in range(0, count, network.fixed))
        return
    yield list(range(count))
    if count > 1:
        yield [0]


def _order(rng: np.random.Generator, count: int, distinct: int) -> list[int]:
    """Return which of a few samples make a batch, without a period."""
    order = [0] * count
    while any(order[k:] == order[: count - k] for k in range(1, count)):
        order = [int(k) for k in rng.integers(0, distinct, count)]
    return order


def _together(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """Return arrays of several samples as one; a single one as it is (it may be a scalar)."""
    arrays = [part[name] for part in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference of two arrays, relative to the largest finite value wanted.

    Args:
        got: what is judged.
        wanted: in float64, where it is a number.
    """
    if got.shape != wanted.shape:
        return np.inf
    if got.dtype.kind != "f":
        return float(np.max(got != wanted, initial=0))
    with np.errstate(all="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        off = np.abs(got.astype(np.float64) - wanted)
        worst = float(np.max(np.where(same, 0.0, off), initial=0.0)) / conditioning.scale(wanted)
    return worst if not np.isnan(worst) else np.inf
