"""From a graph to a program: where each value lies, in which order steps run, in how much memory.

A program serves tiles of a fixed number of samples. Two walks over the graph: the first decides how
values are cut over lanes and which halos windows need, and puts a `Relayout` where neighbours do
not agree; the second gives every value its strides and its place in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from secateur.compiler import lookahead
from secateur.compiler.graph import (
    EMPTY,
    Graph,
    Node,
    Tensor,
    fresh,
    unlike,
    unsupported,
    with_start,
)
from secateur.compiler.kernels import C_TYPES, Halo, Kernel, Machine, find
from secateur.compiler.layout import LINE, PLAIN, Cut, Layout, packed


@dataclass(frozen=True)
class Home:
    """Which memory a value is in.

    Attributes:
        kind: "arena", "input", "output", or "staged": in the arena, one place for each sample.
        index: of the input or output.
        root: the value that owns the buffer; views name another value here.
        offset: bytes from the arena's start, once planned.
        sample: bytes from one sample's place to the next, of what is staged.
    """

    kind: str
    root: str
    index: int = 0
    offset: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Planned:
    """One step.

    Attributes:
        node: what it computes.
        kernel: emits it.
        constants: layouts of inputs that are packed constants.
        scratch: names the memory that it works in beside its values, or nothing.
    """

    node: Node
    kernel: Kernel
    constants: Mapping[int, Layout] = field(default_factory=dict)
    scratch: str = ""


@dataclass(frozen=True)
class Program:
    """What is emitted: steps in order, and where everything is.

    Attributes:
        batch: samples of a tile.
        steps: in order. looped: how many of the first ones run once for every sample.
        layouts, homes: by value name. halos: of values that have one.
        types: by value name, those of relayouts included.
        arena: bytes. staged: its first bytes, where looped steps leave what others read.
        batched: whether axis 0 of inputs and outputs counts samples.
    """

    batch: int
    steps: tuple[Planned, ...]
    looped: int
    layouts: Mapping[str, Layout]
    homes: Mapping[str, Home]
    halos: Mapping[str, Halo]
    types: Mapping[str, Tensor]
    arena: int
    batched: bool
    staged: int = 0


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
    graph = lookahead.marked(graph)
    first = _Cuts(graph, machine, cut, batched)
    for node in graph.nodes:
        first.visit(node)
    first.finish()
    part = _lay_out(graph, machine, first)
    return Program(
        batch,
        part.steps,
        0,
        part.layouts,
        part.homes,
        first.halos,
        first.types,
        part.arena,
        batched,
    )


def plan_mixed(one: Graph, many: Graph, machine: Machine, split: int) -> Program:
    """Plan a program of many samples whose first nodes run sample by sample.

    Where planes are large, a single sample fills the lanes, and its values stay in the caches,
    which those of many samples at once do not. What later nodes need of the first ones is staged,
    one place for each sample.

    Args:
        one: the graph of one sample.
        many: of as many samples as a tile holds, a multiple of the lanes; its nodes are the same.
        machine: the target.
        split: how many of the first nodes run sample by sample.
    """
    batch = many.types[many.inputs[0]].shape[0]
    kept = {v for node in many.nodes[split:] for v in node.inputs} | set(many.outputs)
    boundary = [v for node in many.nodes[:split] for v in node.outputs if v in kept]
    looped = unlike([*one.types, *many.types])
    head = with_start(lookahead.marked(one).with_(nodes=one.nodes[:split], outputs=()), looped)
    walk = _Cuts(head, machine, PLAIN, True)
    for node in head.nodes:
        walk.visit(node)
    stage = {v: walk.stage(looped + v) for v in boundary}
    loop = _lay_out(head, machine, walk, staged=set(stage.values()))
    start = 0
    staged: dict[str, Layout] = {}
    homes: dict[str, Home] = {}
    for value, name in stage.items():
        layout, itemsize = loop.layouts[name], many.types[value].dtype.itemsize
        sample = -(-layout.elements * itemsize // LINE) * LINE
        loop.homes[name] = replace(loop.homes[name], offset=start, sample=sample)
        strides = (sample // itemsize, *layout.strides[1:])
        staged[value] = replace(layout, shape=many.types[value].shape, strides=strides)
        homes[value] = Home("arena", value, offset=start)
        start += sample * batch
    tail = many.with_(nodes=many.nodes[split:])
    cut = Cut.of({0: (machine.lanes, batch // machine.lanes)})
    rest = _Cuts(tail, machine, cut, True, {v: layout.cut for v, layout in staged.items()})
    for node in tail.nodes:
        rest.visit(node)
    rest.finish()
    main = _lay_out(tail, machine, rest, layouts=staged, homes=homes)
    return Program(
        batch,
        (*loop.steps, *main.steps),
        len(loop.steps),
        {**loop.layouts, **main.layouts},
        {
            **_moved(loop.homes, start),
            **_moved(main.homes, start),
            **{v: replace(homes[h.root]) for v, h in main.homes.items() if h.root in homes},
        },
        {**walk.halos, **rest.halos},
        {**walk.types, **rest.types},
        start + max(loop.arena, main.arena),
        True,
        start,
    )


def _moved(homes: Mapping[str, Home], start: int) -> dict[str, Home]:
    return {
        name: replace(home, offset=home.offset + start) if home.kind == "arena" else home
        for name, home in homes.items()
    }


class _Cuts:
    """The first walk."""

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        cut: Cut,
        batched: bool,
        staged: Mapping[str, Cut] = EMPTY,
    ) -> None:
        self.graph, self.machine, self.batch_cut = graph, machine, cut
        self.batched = batched
        self.types = dict(graph.types)
        self.cuts: dict[str, Cut] = dict.fromkeys([*graph.inputs, *graph.constants], PLAIN)
        self.nodes: list[tuple[Node, dict[int, Cut]]] = []
        self.halos: dict[str, Halo] = {}
        self.cuts.update(staged)
        self.external = {*graph.inputs, *staged}  # uncut, and memory without halos
        self.moved: dict[tuple[str, Cut, float | None], str] = {}
        self.names = set(graph.types) | {node.name for node in graph.nodes}

    def visit(self, node: Node) -> None:
        kernel = find(node)
        for name in filter(None, (*node.inputs, *node.outputs)):
            if (dtype := self.types[name].dtype.name) not in C_TYPES:
                raise unsupported(node, f"it works on {dtype}; store the model in float32")
        # an input of the program comes in cut; whoever cannot use that asks for another
        cuts = [
            self.batch_cut if name in self.external else self.cuts.get(name, PLAIN)
            for name in node.inputs
        ]
        batch = bool(self.batch_cut.axes)
        given = kernel.counts and node.inputs[0] in self.graph.inputs
        if given:
            cuts[0] = PLAIN
            node = replace(node, attributes={**node.attributes, "samples": int(self.batched)})
        wanted, outs = kernel.wanted(node, self.types, cuts, self.machine, batch)
        settled = [
            (cut if want is None else want) if name else PLAIN
            for name, cut, want in zip(node.inputs, cuts, wanted, strict=True)
        ]
        inputs, packed_constants = list(node.inputs), {}
        for i, (name, want) in enumerate(zip(node.inputs, settled, strict=True)):
            if name in self.graph.constants:
                packed_constants[i] = want
            elif given and i == 0:
                continue
            elif name and (want != self.cuts[name] or (batch and name in self.graph.inputs)):
                # the caller's arrays may hold fewer samples than a tile: they are always copied
                inputs[i] = self.relayout(name, want)
        halos = kernel.halo(node, self.types, settled, outs) if kernel.halo else []
        for i, halo in enumerate(halos):
            if halo is not None and node.inputs[i]:
                inputs[i] = self.with_halo(inputs[i], settled[i], halo)
                packed_constants.pop(i, None)  # a constant with a halo is a copy
        self.nodes.append((replace(node, inputs=tuple(inputs)), packed_constants))
        self.cuts.update({o: c for o, c in zip(node.outputs, outs, strict=True) if o})
        if given:  # as if it came from outside
            self.external.update(node.outputs)

    def relayout(self, name: str, cut: Cut, padding: float | None = None) -> str:
        key = (name, cut, padding)
        if key not in self.moved:
            new = fresh(self.names, f"{name}@{len(self.moved)}")
            self.names.add(new)
            samples = int(self.batched and name in self.graph.inputs)
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

    def stage(self, name: str) -> str:
        """Copy a value as it is, to where it is staged; return the copy's name."""
        new = fresh(self.names, f"{name}@staged")
        self.names.add(new)
        self.nodes.append((Node("Relayout", new, (name,), (new,)), {}))
        self.types[new], self.cuts[new] = self.types[name], self.cuts[name]
        return new

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


@dataclass(frozen=True)
class _Part:
    steps: tuple[Planned, ...]
    layouts: dict[str, Layout]
    homes: dict[str, Home]
    arena: int


def _lay_out(
    graph: Graph,
    machine: Machine,
    first: _Cuts,
    *,
    staged: Collection[str] = (),
    layouts: Mapping[str, Layout] = EMPTY,
    homes: Mapping[str, Home] = EMPTY,
) -> _Part:
    """The second walk; `layouts` and `homes` are those of values that are there already."""
    layouts, homes = dict(layouts), {v: replace(h, kind="there") for v, h in homes.items()}
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
        view = _view(node, kernel, first, layouts)
        if view is not None:
            out, home = node.outputs[0], homes[node.inputs[0]]
            layouts[out], homes[out] = view, Home(home.kind, home.root, home.index)
            continue
        ins = [constants.get(i) or layouts.get(name) for i, name in enumerate(node.inputs)]
        index = node.get("output", -1)
        for out in filter(None, node.outputs):
            kind = "output" if index >= 0 else "staged" if out in staged else "arena"
            tensor, cut, order = first.types[out], first.cuts[out], None
            if kind == "arena" and kernel.order:
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
        scratch = ""
        if kernel.scratch:
            # by the value, whose names are apart in the two parts of a mixed program
            scratch = fresh(first.types, f"{next(filter(None, node.outputs), node.name)}@scratch")
            size = kernel.scratch(node, first.types, machine)
            first.types[scratch] = Tensor(np.dtype(np.uint8), (size,))
            layouts[scratch], homes[scratch] = packed((size,)), Home("arena", scratch)
        steps.append(Planned(node, kernel, constants, scratch))
        if not kernel.fills:
            steps += [_filling(out, first.halos[out]) for out in node.outputs if out in first.halos]
    homes, arena = _allocate(steps, layouts, homes, first.types)
    return _Part(tuple(steps), layouts, homes, arena)


def _view(node: Node, kernel: Kernel, first: _Cuts, layouts: Mapping[str, Layout]) -> Layout | None:
    """Return the layout of a node's output in the memory of its input, or None.

    An output that has a halo, or is to be cut in another way, needs memory of its own.
    """
    if not kernel.view or len(node.outputs) != 1 or node.outputs[0] in first.halos:
        return None
    source = layouts.get(node.inputs[0])
    view = kernel.view(node, first.types, source) if source is not None else None
    return view if view is not None and view.cut == first.cuts[node.outputs[0]] else None


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
        for name in (*step.node.inputs, *step.node.outputs, step.scratch):
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
