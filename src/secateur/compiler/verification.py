"""Is the engine right? It is compared with the reference before it is handed over.

The reference computes in float64, so that what it gives does not depend on the order of sums or on
how a function is approximated. Where float32 itself cannot give that (a network that subtracts
large numbers, rounds, or compares), an engine may be as far off as the same arithmetic in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from secateur.compiler import interpreter, onnx_inputs, samples
from secateur.compiler.graph import Graph
from secateur.compiler.network import Network
from secateur.errors import CompileError, UsageError

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference between engine and reference, relative to the largest output."""

SLACK = 8.0
"""How many times as far off as float32 by itself an engine may be: it rounds elsewhere."""

Arrays = Mapping[str, np.ndarray]


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
        CompileError: the network is batched, but two samples together give something else than
            one after the other, so that a batch cannot be cut into tiles; or there is not enough
            memory.
    """
    graph, pair = network.reference, network.pair
    rng = np.random.default_rng(0)
    drawn = [_sample(rng, graph, mixed=mixed) for mixed in (False, True)]
    known = Truth(tuple(x for x, _ in drawn), tuple(y for _, y in drawn))
    if pair is not None:
        _check_apart(graph, pair, known)
    return known


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


def _check_apart(graph: Graph, pair: Graph, known: Truth) -> None:
    """See that two samples together give what each gives alone."""
    inputs = {v: _together(known.samples, v) for v in graph.inputs}
    both = interpreter.run(pair, inputs)
    names = list(zip(graph.outputs, pair.outputs, strict=True))
    for mine, its in names:
        shape = known.wanted[0][mine].shape
        if not shape or both[its].shape != (2 * shape[0], *shape[1:]):
            raise _mixes(graph, f"output {mine!r} does not begin with the batch")

    def mixed() -> list[str]:
        return [
            mine
            for mine, its in names
            if _difference(both[its], _together(known.wanted, mine)) > TOLERANCE["fp32"]
        ]

    if mixed():  # or ill-conditioned
        both = interpreter.run_wide(pair, inputs)
    for mine in mixed():
        raise _mixes(graph, f"output {mine!r} of a sample depends on the others")


def verify(network: Network, known: Truth, run: Callable[[Arrays], Any], values: str) -> float:
    """Compare an engine with the reference.

    Args:
        network: what was compiled.
        known: of the reference.
        run: the engine: {input: array} -> output, or a tuple of them.
        values: how its weights are stored, which decides the tolerance.

    Returns:
        the largest difference, relative to the largest output.

    Raises:
        CompileError: it is above the tolerance; says by how much, in which output.
    """
    graph, batch = network.reference, network.programs[-1].batch
    rounded: list[tuple[Arrays, ...]] = []
    worst = 0.0
    # one sample; some, that do not fill a tile; a full tile and more, by a large part and a small
    counts = sorted({2, 3, batch + batch // 2 + 1, batch + 2}) if network.batched else ()
    for order in ([0], [1], *([k % 2 for k in range(count)] for count in counts)):
        outputs = run({v: _together([known.samples[k] for k in order], v) for v in graph.inputs})
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for name, got in zip(graph.outputs, outputs, strict=True):
            wanted = _together([known.wanted[k] for k in order], name)
            off, allowed = _difference(got, wanted), TOLERANCE[values]
            if off > allowed:
                rounded = rounded or _rounded(graph, known, values)
                others = [_together([arrays[k] for k in order], name) for arrays in rounded]
                allowed += SLACK * max(_error(x, wanted) for x in others)
                off = _difference(got, wanted, others)
            worst = max(worst, off)
            if off > allowed:
                raise CompileError(
                    f"the compiled engine differs from the reference by {off:.1e} in output "
                    f"{name!r} of a batch of {len(order)}, more than {allowed:.0e}: nothing "
                    "was written; please report this network"
                )
    return worst


def _rounded(graph: Graph, known: Truth, values: str) -> list[tuple[Arrays, ...]]:
    """Return what rounding alone makes of the outputs: in float32, and of stored weights."""
    found: list[tuple[Arrays, ...]] = []
    found.append(tuple(interpreter.run(graph, sample) for sample in known.samples))
    if values != "fp32":
        stored = _as_fp16 if values == "fp16" else _as_bf16
        found.append(tuple(interpreter.run_wide(graph, x, stored) for x in known.samples))
    return found


def _as_fp16(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def _as_bf16(array: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(array).view(np.uint32).astype(np.int64)
    nearest = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000  # ties to even
    return nearest.astype(np.uint32).view(np.float32).reshape(array.shape)


def _together(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """Return arrays of several samples as one; a single one as it is (it may be a scalar)."""
    arrays = [part[name] for part in parts]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _mixes(graph: Graph, how: str) -> CompileError:
    shapes = " ".join(
        onnx_inputs.option(v, ",".join(map(str, (16, *graph.types[v].shape[1:]))))
        for v in graph.inputs
    )
    return CompileError(
        f"the samples of a batch meet in this network ({how}), so that it cannot be run in parts; "
        f"fix the batch, for example {shapes}"
    )


def _difference(got: np.ndarray, wanted: np.ndarray, others: Sequence[np.ndarray] = ()) -> float:
    """Return the largest difference of two arrays, relative to the largest finite value wanted.

    Args:
        got: what is judged.
        wanted: in float64, where it is a number.
        others: what rounding alone may make of `wanted`. Where one of them is another integer, or
            is no finite number, `got` may be so, too.
    """
    if got.shape != wanted.shape:
        return np.inf
    with np.errstate(all="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        for other in others:
            if got.dtype.kind == "f":
                same |= (got == other) | ~(np.isfinite(got) | np.isfinite(other))
            else:
                same |= other != wanted
        if got.dtype.kind != "f":
            return float(np.max(~same, initial=0))
        off = np.abs(got.astype(np.float64) - wanted)
        worst = float(np.max(np.where(same, 0.0, off), initial=0.0)) / _scale(wanted)
    return worst if not np.isnan(worst) else np.inf


def _error(other: np.ndarray, wanted: np.ndarray) -> float:
    """Return how far off rounding alone is, where it gives finite numbers."""
    if wanted.dtype.kind != "f":
        return 0.0
    with np.errstate(all="ignore"):
        off = np.abs(other.astype(np.float64) - wanted)
    return float(np.max(off[np.isfinite(off)], initial=0.0)) / _scale(wanted)


def _scale(wanted: np.ndarray) -> float:
    return float(np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0.0)) or 1.0
