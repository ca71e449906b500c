"""Layers between levels of 8 bits are computed in integers, on quads.

A layer whose inputs are dequantised levels, and whose weights are whole numbers times a step of
their output channel, becomes one on quads. What quantises its result, and an activation that only
cuts off, become part of it. Whatever is left in float32 is reached by `ToQuads` and `FromQuads`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.passes import grids, means, tables
from secateur.compiler.passes.building import Building
from secateur.compiler.passes.grids import Grid

EXACT = 2**31 - 1
"""Largest sum that int32 holds."""

LARGEST = 2.0**90
"""Largest scale, and factor: no product of it overflows in float32 (sums have 31 bits)."""

_WINDOW = frozenset({"dilations", "group", "pads", "strides"})

_ENDS = {"": (-np.inf, np.inf), "Relu": (0.0, np.inf)}
"""Activations that only cut off, and where; `Clip` is one, too."""


def run(graph: Graph) -> Graph:
    """Return the graph with quads wherever layers can work on them.

    Args:
        graph: after `fuse`; its values all have types.
    """
    if not any(node.op == "Dequantize" for node in graph.nodes):
        return graph
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.visit(node)
    return walk.made()


def with_whole_biases(graph: Graph) -> Graph:
    """Return the graph, still in floats, with biases as `run` counts them: in whole sums.

    What a file has as floats is at most half a sum away, which moves some levels by one. So this is
    what engines are compared with, too.

    Args:
        graph: after `fuse`; its values all have types.
    """
    walk, nodes = _Walk(graph), list[Node]()
    for node in graph.nodes:
        if node.op == "Dequantize":
            walk.visit(node)
        x, w, b = (*node.inputs, "", "", "")[:3]
        known = None
        if node.op in ("FusedConv", "FusedLinear") and b and x in walk.levels:
            known = walk._sums(node, walk.levels[x][1], w, b)
        if known is None:
            nodes.append(node)
            continue
        whole, bias, steps = known
        rows = whole.reshape(len(whole), -1).sum(axis=1, dtype=np.int64)
        offset = (bias + walk.levels[x][1].zero * rows) * steps
        made = walk.constant(f"{b} whole", offset.astype(np.float32))
        nodes.append(replace(node, inputs=(x, w, made, *node.inputs[3:])))
    return graph.with_(nodes=tuple(nodes), constants=walk.constants, types=walk.types)


class _Walk(Building):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.readers = graph.consumers()
        self.levels: dict[str, tuple[str, Grid]] = {}  # number -> the levels it stands for
        self.quads: dict[tuple[str, int], str] = {}  # (levels, axis of channels) -> quads
        self.source: dict[str, tuple[str, Grid]] = {}  # levels -> number that was quantised, how
        self.taken: dict[str, tuple[str, int]] = {}  # levels that there are as quads alone
        self.looked_up: set[str] = set()  # numbers whose levels come from a table of others

    def visit(self, node: Node) -> None:
        if node.op == "Quantize":
            (x,), (q,) = node.inputs, node.outputs
            self.source[q] = x, Grid.of(node, self.types[q].dtype)
            if q not in self.taken and not self._table(node):
                self.nodes.append(node)
            return
        if node.op == "Dequantize":
            self._dequantize(node)
            return
        lower = {
            "FusedConv": self._layer, "FusedLinear": self._layer, "Add": self._add,
            "MaxPool": self._pool, "GlobalMaxPool": self._pool, "Concat": self._concat,
            "AveragePool": self._mean, "GlobalAveragePool": self._mean, "ReduceMean": self._mean,
            "Flatten": self._reshape, "Reshape": self._reshape,
        }.get(node.op)  # fmt: skip
        if lower is None or not lower(node):
            self.nodes.append(node)

    def _dequantize(self, node: Node) -> None:
        (q,), (number,) = node.inputs, node.outputs
        grid = Grid.of(node, self.types[q].dtype)
        if _normal(np.array(grid.scale)):
            self.levels[number] = q, grid
        if q not in self.taken:
            self.nodes.append(node)
            return
        name, axis = self.taken[q]
        self._from(name, number, axis, grid)

    def _from(self, quads: str, number: str, axis: int, grid: Grid) -> None:
        channels = self.types[number].shape[axis]
        form = {"axis": axis, "channels": channels, "scale": grid.scale, "zero": grid.zero}
        self.put(Node("FromQuads", self.name(f"{number} levels"), (quads,), (number,), form))

    def _as_quads(self, number: str, axis: int) -> str:
        """Return the quads of a number that stands for levels; they are made if they must be."""
        q, grid = self.levels[number]
        if q in self.taken and self.taken[q][1] == axis:
            return self.taken[q][0]
        if (q, axis) not in self.quads:
            source, its = self.source.get(q, (number, grid))
            if q in self.taken or its != grid:
                source = number  # it is on the grid: levels stay what they are
            made = self.value(f"{q} quads")
            form = {"axis": axis, "scale": grid.scale, "zero": grid.zero}
            self.put(Node("ToQuads", self.name(made), (source,), (made,), form))
            self.quads[q, axis] = made
        return self.quads[q, axis]

    def _quantized(self, value: str) -> tuple[Grid, list[str]] | None:
        """Return the grid that a number is rounded to, and the levels, if nobody else reads it."""
        readers = self.readers.get(value, ())
        if not readers or value in self.graph.outputs:
            return None
        first = readers[0]
        if any(r.op != "Quantize" or r.attributes != first.attributes for r in readers):
            return None
        levels = [r.outputs[0] for r in readers]
        for q in levels:
            its = self.readers.get(q, ())
            if q in self.graph.outputs or any(n.op != "Dequantize" for n in its):
                return None
        return Grid.of(first, grids.quantized_type(first)), levels

    def _ends(self, node: Node, grid: Grid) -> dict[str, int] | None:
        """Return the ends of an activation as levels; None where it does more than cut off."""
        kind = node.get("activation", "")
        if kind == "Clip":
            low, high = node.get("alpha"), node.get("beta")
        elif kind in _ENDS:
            low, high = _ENDS[kind]
        else:
            return None
        if not low <= high:
            return None
        ends = {"low": grid.level(low) if low > -np.inf else 0}
        return ends | {"high": grid.level(high) if high < np.inf else 255, "out_zero": grid.zero}

    def _give(self, node: Node, levels: list[str], axis: int) -> None:
        """Add a node whose output are quads, which are all that there is of these levels."""
        self.put(node)
        self.taken |= dict.fromkeys(levels, (node.outputs[0], axis))

    def _layer(self, node: Node) -> bool:
        x, w, b, r = (*node.inputs, "", "")[:4]
        if x not in self.levels:
            return False
        conv = node.op == "FusedConv"
        axis = 1 if conv else len(self.types[x].shape) - 1
        known = self._sums(node, self.levels[x][1], w, b)
        if known is None:
            return False
        whole, bias, steps = known
        kept = {k: v for k, v in node.attributes.items() if k in _WINDOW}
        zero = {"zero": self.levels[x][1].zero} if conv else {}
        op = "QuadConv" if conv else "QuadLinear"
        inputs = (
            self._as_quads(x, axis),
            self.constant(f"{w} whole", whole),
            self.constant(f"{w} sums", bias),
        )
        y = node.outputs[0]
        goal = self._quantized(y)
        ends = self._ends(node, goal[0]) if goal else None
        shared = [self.levels[r][1].scale] if r in self.levels else []
        if (
            goal is None
            or ends is None
            or (r and not shared)
            or not _normal(np.array([*steps, *shared]) / goal[0].scale)
        ):
            factor = self.constant(f"{w} factors", steps.astype(np.float32))
            attributes = {**kept, **zero, **activation(node), "quads": 0}
            self.put(Node(op, node.name, (*inputs, factor, r), (y,), attributes))
            return True
        grid, levels = goal
        factors = (steps / grid.scale).astype(np.float32)
        attributes = {**kept, **zero, **ends, "quads": 1}
        if r:
            its = self.levels[r][1]
            attributes |= {"res_zero": its.zero, "res_factor": _short(its.scale / grid.scale)}
        residual = self._as_quads(r, axis) if r else ""
        factor = self.constant(f"{w} factors", factors)
        made = self.value(f"{levels[0]} quads")
        self._give(
            Node(op, node.name, (*inputs, factor, residual), (made,), attributes), levels, axis
        )
        return True

    def _sums(
        self, node: Node, grid: Grid, w: str, b: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return whole weights, int32 biases, and what a sum is worth (float64), by output."""
        found = grids.of_layer(node, self.constants[w])
        if found is None:
            return None
        whole, step = found
        steps = step.astype(np.float64) * grid.scale
        rows = whole.reshape(len(whole), -1).astype(np.float64)
        offset = self.constants[b].astype(np.float64) if b else np.zeros(len(rows))
        silent = ~rows.any(axis=1) & (offset != 0)  # any step is right: one that the bias lies on
        steps[silent] = 2.0 ** (np.frexp(offset[silent])[1] - 24)
        with np.errstate(all="ignore"):
            bias = np.rint(offset / steps) - grid.zero * rows.sum(axis=1)
        most = np.abs(bias) + 255 * np.abs(rows).sum(axis=1)
        if not (most <= EXACT).all() or not _normal(steps):
            return None
        return whole, bias.astype(np.int32), steps

    def _add(self, node: Node) -> bool:
        a, b = node.inputs
        if a not in self.levels or b not in self.levels or self.types[a] != self.types[b]:
            return False
        rank, last, y = len(self.types[a].shape), node, node.outputs[0]
        readers = self.readers.get(y, ())
        if len(readers) == 1 and readers[0].op == "Activation" and y not in self.graph.outputs:
            last = readers[0]
            y = last.outputs[0]
        goal = self._quantized(y)
        ends = self._ends(last, goal[0]) if goal else None
        if goal is None or ends is None or rank < 2:
            return False
        grid, levels = goal
        axes = [self.taken[q][1] for q, _ in (self.levels[a], self.levels[b]) if q in self.taken]
        axis = axes[0] if axes else 1
        its = [self.levels[v][1] for v in (a, b)]
        if not _normal(np.array([g.scale for g in its]) / grid.scale):
            return False
        attributes: dict[str, Any] = {
            "zeros": tuple(g.zero for g in its),
            "factors": tuple(_short(g.scale / grid.scale) for g in its),
            **ends,
        }
        made = self.value(f"{levels[0]} quads")
        inputs = self._as_quads(a, axis), self._as_quads(b, axis)
        self._give(Node("QuadAdd", node.name, inputs, (made,), attributes), levels, axis)
        return last is node

    def _moved(self, node: Node, given: list[str]) -> tuple[int, list[str]] | None:
        """Return (axis, levels) of what only moves levels, from and to quads of one grid."""
        if any(v not in self.levels or self.levels[v][0] not in self.taken for v in given):
            return None
        goal = self._quantized(node.outputs[0])
        axes = {self.taken[self.levels[v][0]][1] for v in given}
        if goal is None or len(axes) > 1 or any(self.levels[v][1] != goal[0] for v in given):
            return None
        return axes.pop(), goal[1]

    def _planes(self, number: str) -> bool:
        """Whether a number's levels are quads, or are made of numbers as soon as the number is."""
        if number not in self.levels:
            return False
        q, grid = self.levels[number]
        return (
            self.taken[q][1] == 1 if q in self.taken else self.source.get(q, ("",))[1:] == (grid,)
        )

    def _pool(self, node: Node) -> bool:
        x = node.inputs[0]
        goal = self._quantized(node.outputs[0])
        if goal is None or not self._planes(x) or self.levels[x][1] != goal[0]:
            return False
        if node.op == "GlobalMaxPool":
            node = replace(node, attributes={"kernel_shape": self.types[x].shape[2:]})
        made = self.value(f"{goal[1][0]} quads")
        quads = self._as_quads(x, 1)
        self._give(replace(node, op="QuadMaxPool", inputs=(quads,), outputs=(made,)), goal[1], 1)
        return True

    def _mean(self, node: Node) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        goal = self._quantized(y)
        form = None
        if self._planes(x):
            form = means.form(self.graph, node, self.levels[x][1], goal[0] if goal else None)
        if form is None or not _normal(means.factors(form, self.types[x].shape[2:])):
            return False
        made = self.value(f"{y} quads") if goal else y
        flat = len(self.types[y].shape) == 2
        pooled = self.value(f"{y} pooled") if flat else made
        inputs = (self._as_quads(x, 1),)
        self.put(Node("QuadAveragePool", node.name, inputs, (pooled,), form))
        if flat:
            self._flatten(node, pooled, made)
        if goal:
            self.taken |= dict.fromkeys(goal[1], (made, 1))
        return True

    def _flatten(self, node: Node, plane: str, made: str) -> None:
        """Give a plane of one position, [N, C, 1, 1], as [N, C]."""
        target = np.array(self.types[plane].shape[:2], np.int64)
        inputs = plane, self.constant(f"{node.name} shape", target)
        name = self.name(f"{node.name} flat")
        self.put(Node("Reshape", name, inputs, (made,), {"allowzero": 1}))

    def _concat(self, node: Node) -> bool:
        moved = self._moved(node, list(node.inputs))
        axis = node.get("axis", 0) % len(self.types[node.outputs[0]].shape)
        if moved is None or (
            axis == moved[0] and any(self.types[v].shape[axis] % 4 for v in node.inputs[:-1])
        ):
            return False
        quads = tuple(self._as_quads(v, moved[0]) for v in node.inputs)
        made = self.value(f"{moved[1][0]} quads")
        self._give(Node("Concat", node.name, quads, (made,), {"axis": axis}), moved[1], moved[0])
        return True

    def _reshape(self, node: Node) -> bool:
        """A plane of one position, [N, C, 1, 1] to [N, C]."""
        x, y = node.inputs[0], node.outputs[0]
        moved = self._moved(node, [x])
        before, after = self.types[x].shape, self.types[y].shape
        if moved is None or moved[0] != 1 or before[:2] != after or set(before[2:]) - {1}:
            return False
        made = self.value(f"{moved[1][0]} quads")
        self._flatten(node, self._as_quads(x, 1), made)
        self.taken |= dict.fromkeys(moved[1], (made, 1))
        return True

    def _table(self, node: Node) -> bool:
        """Levels that depend, element by element, on other levels alone are looked up."""
        y, q = node.inputs[0], node.outputs[0]
        goal = self._quantized(y)
        found = None
        for known in (self.levels.keys(), self.levels.keys() - self.looked_up):
            found = found or tables.source(self.graph, self.constants, y, known)
        if goal is None or found is None or self.levels[found][0] not in self.taken:
            return False
        axis = self.taken[self.levels[found][0]][1]
        table = tables.table(self.graph, self.constants, node, found, self.levels[found][1])
        made = self.value(f"{q} quads")
        inputs = self._as_quads(found, axis), self.constant(f"{node.name} table", table)
        self._give(Node("QuadTable", self.name(made), inputs, (made,)), goal[1], axis)
        for levels in goal[1]:
            self.looked_up |= {n.outputs[0] for n in self.readers.get(levels, ())}
        return True


def activation(node: Node) -> dict[str, Any]:
    """Return the attributes of what follows a layer's numbers."""
    return {k: node.get(k, v) for k, v in (("activation", ""), ("alpha", 0.0), ("beta", 0.0))}


def _normal(factors: np.ndarray) -> bool:
    """Whether products of factors and sums neither overflow nor lose digits in float32."""
    return bool((factors >= np.finfo(np.float32).tiny).all() and (factors <= LARGEST).all())


def _short(factor: float) -> float:
    """Return a factor rounded to 16 bits, so that its product with a level is exact in float32."""
    mantissa, exponent = np.frexp(factor)
    return float(np.ldexp(np.rint(mantissa * 2**16), int(exponent) - 16))
