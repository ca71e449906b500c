"""Is the engine right? It is compared with the reference before it is handed over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.compiler import interpreter
from secateur.compiler.graph import Graph
from secateur.errors import CompileError

if TYPE_CHECKING:
    from secateur.compiler.pipeline import Network

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference between engine and reference, relative to the largest output."""


def verify(network: Network, run: Callable[[Mapping[str, np.ndarray]], Any], values: str) -> float:
    """Compare an engine with the reference on random inputs.

    Args:
        network: what was compiled.
        run: the engine: {input: array} -> output, or a tuple of them.
        values: how its weights are stored, which decides the tolerance.

    Returns:
        the largest difference, relative to the largest output.

    Raises:
        CompileError: it is above the tolerance; says by how much, in which output.
    """
    graph = network.reference
    # a full tile, a part of one, and one by one: each way that a batch can be run
    counts = [1]
    if network.batched:
        counts.append(max(2, network.programs[-1].batch // 2 + 1))
    rng = np.random.default_rng(0)
    worst = 0.0
    for count in counts:
        samples = [{v: random(rng, graph, v) for v in graph.inputs} for _ in range(min(count, 3))]
        wanted = [interpreter.run(graph, sample) for sample in samples]
        order = [k % len(samples) for k in range(count)]
        if network.batched:
            given = {v: np.concatenate([samples[k][v] for k in order]) for v in graph.inputs}
        else:
            given = samples[0]
        outputs = run(given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for name, got in zip(graph.outputs, outputs, strict=True):
            for at, k in enumerate(order):
                mine = got[at : at + 1] if network.batched else got
                off = _difference(mine, wanted[k][name])
                worst = max(worst, off)
                if off <= TOLERANCE[values]:
                    continue
                if count > 1 and len(samples) > 1:
                    raise mixes(graph, f"output {name!r} of a sample depends on the others")
                raise CompileError(
                    f"the compiled engine differs from the reference by {off:.1e} in output "
                    f"{name!r}, more than {TOLERANCE[values]:.0e}: nothing was written; please "
                    "report this network"
                )
    return worst


def mixes(graph: Graph, how: str) -> CompileError:
    """Return the error for a network whose batch cannot be cut into parts."""
    shapes = " ".join(
        f"--input-shape {v}={','.join(map(str, (16, *graph.types[v].shape[1:])))}"
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
