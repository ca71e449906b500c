"""The whole way from a network to an engine, readable top to bottom."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur import __version__
from secateur.compiler import choice, emit, interpreter, onnx_reader, passes
from secateur.compiler.graph import EMPTY, Graph
from secateur.compiler.kernels import Machine
from secateur.compiler.plan import Program, plan
from secateur.errors import CompileError, UsageError

VALUES = ("fp32", "fp16", "bf16")
"""How the values of weights may be stored."""

MOST_ARENA = 256 * 2**20
"""Bytes: a program of many samples that would need more scratch memory is left out; one sample
after the other is then as good, because its values fit the caches."""

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference between engine and reference, relative to the largest output."""


@dataclass(frozen=True)
class Network:
    """A network made ready for code: read, simplified, planned.

    Attributes:
        reference: the graph of one sample as it was read, with shapes; the truth.
        graphs: after the passes, one for each program.
        programs: ascending by batch.
        batched: whether the number of samples is chosen at run time.
        sparse: by layer, whether it skips zeros.
        machine: vectors of the target.
    """

    reference: Graph
    graphs: tuple[Graph, ...]
    programs: tuple[Program, ...]
    batched: bool
    sparse: Mapping[str, bool]
    machine: Machine


def prepare(
    source: Path | bytes,
    machine: Machine,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, np.ndarray] = EMPTY,
    sparse: Mapping[str, bool] = EMPTY,
) -> Network:
    """Read a network, simplify it, and plan its programs.

    Args:
        source: an ONNX file or its content.
        machine: vectors of the target.
        input_shapes, fixed: see `onnx_reader.read`.
        sparse: decisions that are already made, by layer; the others are made by cost.
    """
    options = {"input_shapes": input_shapes, "fixed": fixed}
    first = onnx_reader.read(source, **options, batch=1)
    reference = passes.apply(first.graph, passes.PASSES[:1])
    graphs = [passes.apply(first.graph)]
    programs = [plan(graphs[0], machine, batch=1, lanes=False, batched=first.batched)]
    if first.batched:
        many = machine.lanes * _samples_a_lane(graphs[0])
        batch = onnx_reader.read(source, **options, batch=many)
        graph = passes.apply(batch.graph)
        program = plan(graph, machine, batch=many, lanes=True, batched=True)
        if program.arena <= MOST_ARENA:
            graphs.append(graph)
            programs.append(program)
    decisions = {**choice.sparse(graphs[0], programs, machine), **sparse}
    return Network(
        reference, tuple(graphs), tuple(programs), first.batched, decisions, machine
    )


def _samples_a_lane(graph: Graph) -> int:
    """Return how many samples share a lane: more than one where layers have a single position.

    A multiply-add of one vector costs as much in fetching the weight as in arithmetic.
    """
    most = 1
    for node in graph.nodes:
        if node.op in choice.LAYERS:
            shape = graph.types[node.outputs[0]].shape
            channels = shape[1] if node.op == "FusedConv" else shape[-1]
            most = max(most, graph.types[node.outputs[0]].size // max(1, channels))
    return 4 if most == 1 else 1


def source_of(network: Network, name: str, *, values: str = "fp32", origin: bytes = b"") -> emit.Source:
    """Write the C of a network.

    Raises:
        UsageError: unknown kind of values.
    """
    if values not in VALUES:
        raise UsageError(f"values are stored as {', '.join(VALUES)}, not {values!r}")
    graph, first = network.graphs[0], network.programs[0]
    info = {
        "name": name,
        "secateur": __version__,
        "batched": network.batched,
        "values": values,
        "origin": hashlib.sha256(origin).hexdigest(),
        "inputs": [_described(graph, v, first) for v in graph.inputs],
        "outputs": [_described(graph, v, first) for v in graph.outputs],
        "batches": [p.batch for p in network.programs],
    }
    return emit.emit(
        graph, network.programs, network.machine, sparse=network.sparse, info=info, values=values
    )


def _described(graph: Graph, value: str, program: Program) -> dict[str, Any]:
    tensor = graph.types[value]
    shape = list(tensor.shape[1:] if program.batched else tensor.shape)
    return {"name": value, "dtype": tensor.dtype.name, "shape": shape}


def verify(
    network: Network,
    run: Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, ...]],
    values: str,
) -> float:
    """Compare an engine with the reference on random inputs.

    Args:
        network: what was compiled.
        run: the engine: {input: array} -> outputs.
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
        samples = [
            {v: _random(rng, graph, v) for v in graph.inputs} for _ in range(min(count, 3))
        ]
        wanted = [interpreter.run(graph, sample) for sample in samples]
        order = [k % len(samples) for k in range(count)]
        if network.batched:
            given = {v: np.concatenate([samples[k][v] for k in order]) for v in graph.inputs}
        else:
            given = samples[0]
        for name, got in zip(graph.outputs, run(given), strict=True):
            for at, k in enumerate(order):
                mine = got[at : at + 1] if network.batched else got
                worst = max(worst, _difference(name, mine, wanted[k][name], TOLERANCE[values]))
    return worst


def _random(rng: np.random.Generator, graph: Graph, value: str) -> np.ndarray:
    tensor = graph.types[value]
    if tensor.dtype.kind == "f":
        return rng.standard_normal(tensor.shape).astype(tensor.dtype)
    if tensor.dtype.kind == "b":
        return rng.random(tensor.shape) < 0.5
    # token ids, class numbers, masks: 0 and 1 are valid for all of them
    return rng.integers(0, 2, tensor.shape).astype(tensor.dtype)


def _difference(name: str, got: np.ndarray, wanted: np.ndarray, tolerance: float) -> float:
    if got.dtype.kind != "f":
        worst = float(np.max(got != wanted, initial=0))
    else:
        scale = float(np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0.0)) or 1.0
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        worst = float(np.max(np.where(same, 0.0, np.abs(got - wanted)), initial=0.0)) / scale
    if not worst <= tolerance:
        raise CompileError(
            f"the compiled engine differs from the reference by {worst:.1e} in output {name!r}, "
            f"more than {tolerance:.0e}: nothing was written; please report this network"
        )
    return worst
