"""A network made ready for code: read, simplified, planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path

from secateur.compiler import (
    apart,
    choice,
    declared,
    fixed_batch,
    halves,
    memory,
    onnx_reader,
    passes,
    rows,
)
from secateur.compiler.fixed_inputs import Value
from secateur.compiler.graph import EMPTY, Graph
from secateur.compiler.kernels import Machine
from secateur.compiler.passes import unused_rows
from secateur.compiler.plan import Program, plan, plan_mixed
from secateur.errors import CompileError, UsageError

MOST_ARENA = 256 * 2**20
"""Bytes: a program of many samples that would need more scratch memory is left out; one sample
after the other is then as good, because its values fit the caches."""

MOST_FIXED = 1024
"""Samples of a batch that the file fixes, to be cut into them; of more, it may count anything."""

MOST_COMPARED = 2**26
"""Numbers of all values together: a batch that the file fixes is compared with its samples whole
where it has no more, else a part of it. Its reference would take minutes; and what makes samples
meet is told by operators, too (see `meeting`)."""

SEVERAL = 3
"""Samples of the graph that shows what a batch does: more than two, so that what treats the first
two alike is seen, too."""


@dataclass(frozen=True)
class Network:
    """A network made ready for code: read, simplified, planned.

    Attributes:
        reference: the graph of one sample as it was read, with shapes; the truth.
        graphs: after the passes, one for each program.
        programs: ascending by batch.
        batched: whether samples can be told apart, so that a batch is cut into tiles.
        fixed: how many samples a call has, where the file says so and they can be told apart; 0
            where the caller chooses.
        sparse: by layer, vectors of sums of a tile that skips its zeros; 0 where they stay.
        machine: vectors of the target.
        several: as `reference`, of `SEVERAL` samples; None where the network is not batched.
        loads: by program, what a tile costs; empty where it is not known.
        rows: how many rows of an output belong to each sample, where it is not one; `graphs` have
            them on an axis of their own.
        whole: the graph as it was read, of `fixed` samples, or of fewer where that would be many
            numbers; None where `fixed` is 0.
    """

    reference: Graph
    graphs: tuple[Graph, ...]
    programs: tuple[Program, ...]
    batched: bool
    sparse: Mapping[str, int]
    machine: Machine
    several: Graph | None = None
    loads: tuple[choice.Load, ...] = ()
    rows: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    fixed: int = 0
    whole: Graph | None = None


def prepare(
    source: Path | bytes,
    machine: Machine,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, Value] = EMPTY,
    whole: bool = False,
) -> Network:
    """Read a network, simplify it, and plan its programs; float16 becomes float32.

    Args:
        source: an ONNX file or its content.
        machine: vectors of the target.
        input_shapes, fixed: see `onnx_reader.read`.
        whole: run a batch that the file fixes as one piece, because its samples meet.
    """

    def read(batch: int) -> onnx_reader.Model:
        model = onnx_reader.read(source, input_shapes=input_shapes, fixed=fixed, batch=batch)
        return replace(model, graph=halves.widened(model.graph))

    first = read(1)
    known = passes.apply(first.graph, passes.PASSES[:1])
    declared.warn(known, first.declared)
    if first.batched:
        return _network(lambda n: passes.apply(read(n).graph, passes.PASSES[:1]), machine)
    count = fixed_batch.samples_of(known)
    if 0 < count <= MOST_FIXED and not whole:
        try:
            cut = _network(partial(fixed_batch.of_samples, known), machine, count)
            compared = fixed_batch.of_samples(known, min(count, _compared(cut.reference)))
            memory.check(compared)
        except (CompileError, UsageError):  # or its samples cannot be told apart
            pass
        else:
            return replace(cut, fixed=count, whole=compared)
    return _network(lambda _: known, machine, batched=False)


def _compared(one: Graph) -> int:
    """Return how many samples are compared together, at most; see `MOST_COMPARED`."""
    numbers = sum(t.size for name, t in one.types.items() if name not in one.constants)
    return max(2 * SEVERAL, MOST_COMPARED // max(1, numbers))


def _refuse_numbers(graph: Graph) -> None:
    """Refuse to cut a batch whose samples are numbered in an output."""
    for node in graph.nodes:
        if node.op == unused_rows.SOURCE:
            raise apart.mixes(graph, f"node {node} gives the boxes of all, and numbers of images")


def _network(
    of: Callable[[int], Graph], machine: Machine, most: int = MOST_FIXED, *, batched: bool = True
) -> Network:
    """Plan the programs of a network.

    Args:
        of: gives the graph of any number of samples.
        machine: the target.
        most: samples of a call.
        batched: whether there can be more than one.
    """
    reference = of(1)
    memory.check(reference)
    several: Graph | None = None
    own: Mapping[str, int] = EMPTY
    if batched:
        _refuse_numbers(reference)
        several = of(SEVERAL)
        own = rows.of_a_sample(reference, several, SEVERAL)
    graphs = [passes.apply(rows.split(reference, own))]
    programs = [plan(graphs[0], machine, batch=1, lanes=False, batched=batched)]
    if batched:
        many = machine.lanes * min(_samples_a_lane(graphs[0]), -(-most // machine.lanes))
        graph = passes.apply(rows.split(of(many), own))
        program = of_many(graphs[0], graph, machine, many)
        if program is not None and program.arena <= MOST_ARENA:
            graphs.append(graph)
            programs.append(program)
    sparse, loads = _chosen(graphs[0], programs, machine)
    if len(programs) > 1 and not choice.gains(programs, loads):
        graphs, programs = graphs[:1], programs[:1]
        sparse, loads = _chosen(graphs[0], programs, machine)
    return Network(
        reference,
        tuple(graphs),
        tuple(programs),
        batched,
        sparse,
        machine,
        several,
        loads,
        own,
    )


def _chosen(
    graph: Graph, programs: Sequence[Program], machine: Machine
) -> tuple[dict[str, int], tuple[choice.Load, ...]]:
    """Return which layers skip zeros, and what each program then costs."""
    sparse = choice.sparse(graph, programs, machine)
    return sparse, tuple(choice.load(graph, program, sparse, machine) for program in programs)


def of_many(one: Graph, many: Graph, machine: Machine, batch: int) -> Program | None:
    """Plan the program of many samples; None where running one after the other is as good."""
    split = _split(one, machine)
    alike = [n.name for n in one.nodes[:split]] == [n.name for n in many.nodes[:split]]
    if split == len(one.nodes):
        return None
    if split and alike and batch == machine.lanes:
        return plan_mixed(one, many, machine, split)
    return plan(many, machine, batch=batch, lanes=True, batched=True)


def _split(graph: Graph, machine: Machine) -> int:
    """Return how many of the first nodes work on planes large enough for one sample to fill tiles.

    A tile is sixteen vectors of positions. Planes that get small stay small.
    """
    large, found = 16 * machine.lanes, False
    for k, node in enumerate(graph.nodes):
        shape = graph.types[node.output].shape
        if len(shape) < 4 or prod(shape[2:]) < large:
            return k if found else 0
        found = found or node.op in choice.CONVOLUTIONS
    return len(graph.nodes)


def _samples_a_lane(graph: Graph) -> int:
    """Return how many samples share a lane: more than one where layers have a single position.

    A multiply-add of one vector costs as much in fetching the weight as in arithmetic.
    """
    most = 1
    for node in graph.nodes:
        if node.op in (*choice.LAYERS, *choice.INTEGER):
            shape = graph.types[node.outputs[0]].shape
            channels = shape[1] if node.op in choice.CONVOLUTIONS else shape[-1]
            most = max(most, graph.types[node.outputs[0]].size // max(1, channels))
    return 4 if most == 1 else 1
