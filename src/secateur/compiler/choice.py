"""Sparse or dense: which kernel a layer gets, by a model of what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.kernels import (
    Machine,
    Place,
    contracted,
    contraction,
    depthwise,
    quad_depthwise,
    quad_layers,
    quad_single,
    single,
    tiles,
)
from secateur.compiler.layout import LINE, Layout
from secateur.compiler.plan import Program

LAYERS = ("FusedConv", "FusedLinear")
"""Operators that have both kernels."""

INTEGER = ("QuadConv", "QuadLinear")
"""Layers on quads."""

CONVOLUTIONS = ("FusedConv", "QuadConv")

MATRIX = 0.25
"""Cost of matrix instructions on full tiles, of what vectors cost: as on Intel's (Sapphire
Rapids). Tiles of fewer words take as long."""

WORD = 6.0
"""Cycles a word of weights that is not zero, where words are taken one by one."""

MEETING, FOREIGN = 750, 11
"""Cycles that threads need to meet, and for a line that lies in another core's cache: as on two
cores of a virtual machine (Zen 5), where both are dear."""

STEP = 150
"""Cycles to begin a step, whatever it does."""

FAR = 6
"""Cycles more for a line that does not stay in the second-level cache until it is read."""

GAIN = 0.97
"""A program of many samples takes no more of what it would take to run them one by one."""


def sparse(graph: Graph, programs: Sequence[Program], machine: Machine) -> dict[str, int]:
    """Choose for every layer, for all programs together, because they share its weights.

    The cost of a layer is that of one sample, summed over the programs.

    Returns:
        by node name, vectors of sums of a tile that skips the layer's zeros; 0 where they stay.
    """
    chosen = sums(graph, machine)
    for node in graph.nodes:
        if node.name in chosen:
            costs = [cost(node, graph, program, machine) for program in programs]
            if sum(s for s, _ in costs) >= sum(d for _, d in costs):
                chosen[node.name] = 0
    return chosen


def sums(graph: Graph, machine: Machine) -> dict[str, int]:
    """Return the usual vectors of sums of a sparse tile, by layer that can skip zeros."""
    return {
        node.name: tiles.sums(prod(graph.types[node.inputs[1]].shape[2:]), machine)
        for node in graph.nodes
        if node.op in (*LAYERS, *INTEGER)
        and graph.types[node.inputs[1]].size
        and not (node.op in INTEGER and _windows(node, graph))
    }


def _windows(node: Node, graph: Graph) -> bool:
    """Whether a layer on quads is depthwise, of which there is a dense kernel alone."""
    return quad_depthwise.fits(node, graph.constants[node.inputs[1]])


def cost(node: Node, graph: Graph, program: Program, machine: Machine) -> tuple[float, float]:
    """Return the cost of a layer in one program, (sparse, dense), in cycles a sample."""
    k = next(k for k, s in enumerate(program.steps) if s.node.name == node.name)
    planned, samples = program.steps[k].node, 1 if k < program.looped else program.batch
    weight, words = graph.constants[node.inputs[1]], node.op in INTEGER
    if words:
        weight = quad_layers.words(weight)
    non_zeros = int(np.count_nonzero(weight))
    x, y = (_place(program, v) for v in (planned.inputs[0], planned.outputs[0]))
    c = contracted.describe(planned, x, weight, y, None)
    *outer, high, wide = (1, 1, *(a.count for a in c.axes))
    times = int(np.prod(outer)) / samples
    outputs = len(weight) // c.groups
    if y.layout.lanes == 1:
        alone = contracted.is_vector(c)
        form = single.form(c.weight, machine) if alone and not words else None
        skipped = form.cycles if form else single.PLAIN * non_zeros
        if words:
            skipped = quad_single.lines(c.weight).cycles if alone else WORD * non_zeros
        # dense weights come no faster than memory gives them
        return skipped * high * wide * times, weight.size * high * wide * times * 0.17
    sparse = tiles.sparse(high, wide, tiles.sums(len(c.taps), machine)).cost * non_zeros
    if depthwise.fits(planned, x, weight):
        tile = depthwise.tile(y.layout, weight.shape[2:], machine)
        sparse += len(weight) * high * wide * depthwise.ROW  # few non-zeros each
        return sparse * times, len(weight) * tile.cost * times
    _, tile = tiles.dense(high, wide, outputs, machine, least=4 if node.get("quads") else 1)
    dense = c.groups * weight[0].size * tile.cost * times
    if words and (deep := contraction.matrix_depth(c, y.layout.lanes, machine)):
        dense *= MATRIX * contraction.DEEPEST / deep
    return sparse * times, dense


@dataclass(frozen=True)
class Load:
    """What a tile of a program costs.

    Attributes:
        cycles: of one thread, more than 0; what they are good for is comparing programs of one
            network.
        alone: whether one thread does the tile as fast as several would.
    """

    cycles: float
    alone: bool


def load(graph: Graph, program: Program, chosen: Mapping[str, int], machine: Machine) -> Load:
    """Return what a tile costs.

    Two threads halve the work, but meet after every step, and half of what a step reads was then
    written by the other core. A core that cannot help is better left to others.
    """
    work, lines, far, meetings = 0.0, 0, 0, 0
    skippable = sums(graph, machine)
    layers = {node.name: node for node in graph.nodes if node.name in skippable}
    for k, planned in enumerate(program.steps):
        node = planned.node
        times = program.batch if k < program.looped else 1
        moved = sum(-(-program.layouts[v].elements * 4 // LINE) for v in node.outputs if v)
        lines += times * moved
        far += moved if times == 1 and program.arena > tiles.SECOND else 0
        meetings += times
        work += STEP * times
        if node.name in layers:
            costs = cost(layers[node.name], graph, program, machine)
            work += program.batch * costs[0 if chosen.get(node.name) else 1]
        else:
            work += 4 * times * moved  # read, compute, write
        if node.op == "MatMul":
            inputs, output = program.types[node.inputs[0]], program.types[node.outputs[0]]
            work += times * output.size * inputs.shape[-1] / machine.lanes
    work = max(1.0, work + FAR * far)
    return Load(work, work / 2 + MEETING * meetings + FOREIGN * lines / 2 > 0.9 * work)


def unknown(programs: Sequence[Program]) -> tuple[Load, ...]:
    """Return what tiles cost where nobody estimated it: four samples each."""
    return tuple(Load(4.0 if k else 1.0, alone=False) for k in range(len(programs)))


def gains(programs: Sequence[Program], loads: Sequence[Load]) -> bool:
    """Return whether the last program, of many samples, gains on running them one by one."""
    alone = programs[-1].batch / programs[0].batch * loads[0].cycles
    return loads[-1].cycles < GAIN * alone


def _place(program: Program, value: str) -> Place:
    layout: Layout = program.layouts[value]
    return Place(program.types[value].dtype, layout, lambda: "")
