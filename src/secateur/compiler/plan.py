"""From a graph to a program: where each value lies, in which order steps run, in how much memory.

A program serves tiles of a fixed number of samples. Two walks over the graph: the first decides how
values are cut over lanes and which halos windows need, and puts a `Relayout` where neighbours do
not agree; the second gives every value its strides and its place in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from secateur.compiler.graph import Graph, Node, Tensor, fresh
from secateur.compiler.kernels import Halo, Kernel, Machine, carried, find
from secateur.compiler.layout import LINE, PLAIN, Cut, Layout, packed


@dataclass(frozen=True)
class Home:
    """Which memory a value is in.

    Attributes:
        kind: "arena", "weights", "input" or "output".
        index: of the input or output.
        root: the value that owns the buffer; views name another value here.
        offset: bytes from the arena's start, once planned.
    """

    kind: str
    root: str
    index: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Planned:
    """One step: a node and the kernel that emits it; inputs may be packed constants."""

    node: Node
    kernel: Kernel
    constants: Mapping[int, Layout] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """What is emitted: steps in order, and where everything is.

    Attributes:
        batch: samples of a tile. cut: how inputs are cut (PLAIN: not at all).
        steps: in order. layouts, homes: by value name. halos: of values that have one.
        types: by value name, those of relayouts included.
        arena: bytes.
        batched: whether axis 0 of inputs and outputs counts samples.
    """

    batch: int
    steps: tuple[Planned, ...]
    layouts: Mapping[str, Layout]
    homes: Mapping[str, Home]
    halos: Mapping[str, Halo]
    types: Mapping[str, Tensor]
    arena: int
    batched: bool


def plan(graph: Graph, machine: Machine, *, batch: int, lanes: bool, batched: bool) -> Program:
    """Plan a program.

    Args:
        graph: shapes are of `batch` samples.
        machine: the target.
        batch: samples of a tile.
        lanes: put samples side by side in the lanes (batch is then a multiple of them).
        batched: whether axis 0 of inputs and outputs counts samples.
    """
    cut = Cut.of({0: (machine.lanes, batch // machine.lanes)}) if lanes else PLAIN
    first = _Cuts(graph, machine, cut, batched)
    for node in graph.nodes:
        first.visit(node)
    first.finish()
    return _lay_out(graph, machine, first, batch=batch, batched=batched)


class _Cuts:
    """The first walk."""

    def __init__(self, graph: Graph, machine: Machine, cut: Cut, batched: bool) -> None:
        self.graph, self.machine, self.batch_cut = graph, machine, cut
        self.batched = batched
        self.types = dict(graph.types)
        self.cuts: dict[str, Cut] = dict.fromkeys([*graph.inputs, *graph.constants], PLAIN)
        self.nodes: list[tuple[Node, dict[int, Cut]]] = []
        self.halos: dict[str, Halo] = {}
        self.external = set(graph.inputs)  # memory that is not ours: no halos
        self.moved: dict[tuple[str, Cut, float | None], str] = {}
        self.names = set(graph.types) | {node.name for node in graph.nodes}

    def visit(self, node: Node) -> None:
        kernel = find(node)
        cuts = [self.cuts.get(name, PLAIN) for name in node.inputs]
        if self.batch_cut.axes:
            # an input of the program comes in cut; whoever cannot use that asks for another
            cuts = [
                self.batch_cut if name in self.external else cut
                for name, cut in zip(node.inputs, cuts, strict=True)
            ]
        batch = bool(self.batch_cut.axes)
        if kernel.cuts:
            wanted, outs = kernel.cuts(node, self.types, cuts, self.machine, batch)
        else:
            assert kernel.carry is not None
            wanted, out = carried(node, self.types, cuts, kernel.carry(node, self.types))
            outs = [out] * len(node.outputs)
        inputs, packed_constants, settled = list(node.inputs), {}, []
        for i, name in enumerate(node.inputs):
            if not name:
                settled.append(PLAIN)
                continue
            want = cuts[i] if wanted[i] is None else wanted[i]
            assert want is not None
            settled.append(want)
            if name in self.graph.constants:
                packed_constants[i] = want
            elif want != self.cuts[name]:
                inputs[i] = self.relayout(name, want)
        halos = kernel.halo(node, self.types, settled, outs) if kernel.halo else []
        for i, halo in enumerate(halos):
            if halo is not None and node.inputs[i]:
                inputs[i] = self.with_halo(inputs[i], settled[i], halo)
                packed_constants.pop(i, None) if inputs[i] != node.inputs[i] else None
        self.nodes.append((replace(node, inputs=tuple(inputs)), packed_constants))
        self.cuts.update({o: c for o, c in zip(node.outputs, outs, strict=True) if o})

    def relayout(self, name: str, cut: Cut, padding: float | None = None) -> str:
        key = (name, cut, padding)
        if key not in self.moved:
            new = fresh(self.names, f"{name}@{len(self.moved)}")
            self.names.add(new)
            samples = int(self.batched and name in self.external)
            node = Node("Relayout", new, (name,), (new,), {"samples": samples})
            self.nodes.append((node, {}))
            self.types[new], self.cuts[new] = self.types[name], cut
            self.moved[key] = new
        return self.moved[key]

    def with_halo(self, name: str, cut: Cut, halo: Halo) -> str:
        if (
            name in self.external
            or name in self.graph.constants
            or (name in self.halos and self.halos[name].padding != halo.padding)
        ):
            name = self.relayout(name, cut, halo.padding)
        old = self.halos.get(name, halo)
        self.halos[name] = Halo(
            tuple(map(max, old.before, halo.before)),
            tuple(map(max, old.after, halo.after)),
            halo.padding,
        )
        return name

    def finish(self) -> None:
        """Bring every output into the caller's order."""
        for index, name in enumerate(self.graph.outputs):
            final = fresh(self.names, f"{name}@out{index}")
            self.names.add(final)
            node = Node(
                "Relayout",
                final,
                (name,),
                (final,),
                {"output": index, "samples": int(self.batched)},
            )
            self.nodes.append((node, {0: PLAIN} if name in self.graph.constants else {}))
            self.types[final], self.cuts[final] = self.types[name], PLAIN


def _lay_out(graph: Graph, machine: Machine, first: _Cuts, *, batch: int, batched: bool) -> Program:
    layouts: dict[str, Layout] = {}
    homes: dict[str, Home] = {}
    for index, name in enumerate(graph.inputs):
        layouts[name] = packed(graph.types[name].shape)
        homes[name] = Home("input", name, index)
    steps: list[Planned] = []
    for node, cuts in first.nodes:
        kernel = find(node)
        constants = {
            i: packed(first.types[node.inputs[i]].shape, cut, lanes=machine.lanes)
            for i, cut in cuts.items()
        }
        ins = [
            constants.get(i) or (layouts.get(name) if name else None)
            for i, name in enumerate(node.inputs)
        ]
        if kernel.view and len(node.outputs) == 1 and node.outputs[0] not in first.halos:
            source, out = node.inputs[0], node.outputs[0]
            if source in layouts and "output" not in node.attributes:
                view = kernel.view(node, first.types, layouts[source])
                if view is not None and view.cut == first.cuts[out]:
                    layouts[out] = view
                    homes[out] = Home(homes[source].kind, homes[source].root, homes[source].index)
                    continue
        for k, out in enumerate(node.outputs):
            if not out:
                continue
            kind, tensor, cut = "arena", first.types[out], first.cuts[out]
            index = node.get("output", -1) if k == 0 else -1
            order = None
            if index >= 0:
                kind = "output"
            elif kernel.order:
                order = kernel.order(node, first.types, ins, cut)
            halo = first.halos.get(out)
            layouts[out] = packed(
                tensor.shape,
                cut,
                lanes=machine.lanes,
                order=order,
                before=halo.before if halo else None,
                after=halo.after if halo else None,
                itemsize=tensor.dtype.itemsize,
                tight=kernel.tight,
            )
            homes[out] = Home(kind, out, max(index, 0))
        steps.append(Planned(node, kernel, constants))
        if not kernel.fills:
            steps += [_filling(out, first.halos[out]) for out in node.outputs if out in first.halos]
    homes, arena = _allocate(steps, layouts, homes, first.types)
    return Program(batch, tuple(steps), layouts, homes, first.halos, first.types, arena, batched)


def _filling(name: str, halo: Halo) -> Planned:
    node = Node("Fill", f"{name}@fill", (name,), (), {"padding": halo.padding})
    return Planned(node, find(node))


def _allocate(
    steps: list[Planned],
    layouts: Mapping[str, Layout],
    homes: Mapping[str, Home],
    types: Mapping[str, Tensor],
) -> tuple[dict[str, Home], int]:
    """Place buffers in the arena: the largest first, each at the lowest offset that is free."""
    life: dict[str, list[int]] = {}
    for when, step in enumerate(steps):
        for name in (*step.node.inputs, *step.node.outputs):
            if name in homes and homes[name].kind == "arena":
                life.setdefault(homes[name].root, []).append(when)
    size = {
        name: -(-layouts[name].elements * types[name].dtype.itemsize // LINE) * LINE
        for name in life
    }
    placed: list[tuple[int, int, int, int]] = []  # offset, end, born, dies
    offsets: dict[str, int] = {}
    for name in sorted(life, key=lambda n: (-size[n], min(life[n]), n)):
        born, dies = min(life[name]), max(life[name])
        offset = 0
        for low, high, b, d in sorted(placed):
            if b <= dies and born <= d and offset < high and low < offset + size[name]:
                offset = high
        offsets[name] = offset
        placed.append((offset, offset + size[name], born, dies))
    arena = max((end for _, end, _, _ in placed), default=0)
    return {
        name: replace(home, offset=offsets[home.root]) if home.root in offsets else home
        for name, home in homes.items()
    }, arena
