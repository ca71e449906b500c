"""Is the engine right? It is compared with the reference before it is handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.compiler import interpreter, onnx_inputs
from secateur.compiler.graph import Graph
from secateur.errors import CompileError

if TYPE_CHECKING:
    from secateur.compiler.pipeline import Network

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference between engine and reference, relative to the largest output."""


@dataclass(frozen=True)
class Truth:
    """What the reference gives for a few random samples.

    Attributes:
        samples: {input: array} of one sample each; two where the network is batched.
        wanted: {output: array} of each.
    """

    samples: tuple[Mapping[str, np.ndarray], ...]
    wanted: tuple[Mapping[str, np.ndarray], ...]


def truth(network: Network) -> Truth:
    """Run the reference on random inputs.

    Raises:
        CompileError: the network is batched, but two samples together give something else than
            one after the other, so that a batch cannot be cut into tiles.
    """
    graph, pair = network.reference, network.pair
    rng = np.random.default_rng(0)
    samples = tuple(
        {v: random(rng, graph, v) for v in graph.inputs} for _ in range(2 if pair else 1)
    )
    wanted = tuple(interpreter.run(graph, sample) for sample in samples)
    if pair is not None:
        both = interpreter.run(pair, {v: _together(samples, v) for v in graph.inputs})
        for mine, its in zip(graph.outputs, pair.outputs, strict=True):
            shape = wanted[0][mine].shape
            if not shape or both[its].shape != (2 * shape[0], *shape[1:]):
                raise _mixes(graph, f"output {mine!r} does not begin with the batch")
            if _difference(both[its], _together(wanted, mine)) > TOLERANCE["fp32"]:
                raise _mixes(graph, f"output {mine!r} of a sample depends on the others")
    return Truth(samples, wanted)


def verify(
    network: Network, known: Truth, run: Callable[[Mapping[str, np.ndarray]], Any], values: str
) -> float:
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
    worst = 0.0
    # one sample; some, that do not fill a tile; a full tile and more, by a large part and a small
    counts = sorted({1, 2, 3, batch + batch // 2 + 1, batch + 2}) if network.batched else (1,)
    for count in counts:
        order = [k % len(known.samples) for k in range(count)]
        outputs = run({v: _together([known.samples[k] for k in order], v) for v in graph.inputs})
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for name, got in zip(graph.outputs, outputs, strict=True):
            off = _difference(got, _together([known.wanted[k] for k in order], name))
            worst = max(worst, off)
            if off > TOLERANCE[values]:
                raise CompileError(
                    f"the compiled engine differs from the reference by {off:.1e} in output "
                    f"{name!r} of a batch of {count}, more than {TOLERANCE[values]:.0e}: nothing "
                    "was written; please report this network"
                )
    return worst


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


def random(rng: np.random.Generator, graph: Graph, value: str) -> np.ndarray:
    """Return a random array for an input of a graph."""
    tensor = graph.types[value]
    if tensor.dtype.kind == "f":
        return rng.standard_normal(tensor.shape).astype(tensor.dtype)
    if tensor.dtype.kind == "b":
        return rng.random(tensor.shape) < 0.5
    # token ids, class numbers, masks: 0 and 1 are valid for all of them
    return rng.integers(0, 2, tensor.shape).astype(tensor.dtype)


def _difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference of two arrays, relative to the largest finite value wanted."""
    if got.shape != wanted.shape:
        return np.inf
    if got.dtype.kind != "f":
        return float(np.max(got != wanted, initial=0))
    scale = float(np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        worst = float(np.max(np.where(same, 0.0, np.abs(got - wanted)), initial=0.0)) / scale
    return worst if not np.isnan(worst) else np.inf
