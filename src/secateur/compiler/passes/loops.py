"""Loops whose number of turns is known: their bodies one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from secateur.compiler.graph import Graph, Node, UndecidedError, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.rewrites import Builder

MOST_NODES = 50_000
"""Nodes that the turns of a loop may have together: a small file can ask for any number."""

Visit = Callable[[Node], None]
"""Takes a node in, as the pass does that meets it."""


def _copied(nodes: Iterable[Node], names: dict[str, str], build: Builder) -> Iterator[Node]:
    """Yield nodes of a body for one more turn; `names` gets the new names of their values."""
    for node in nodes:
        for output in filter(None, node.outputs):
            names[output] = build.name(output)
        attributes = {
            key: _branch(value, names, build) if isinstance(value, Graph) else value
            for key, value in node.attributes.items()
        }
        yield replace(
            node,
            name=build.name(node.name),
            inputs=tuple(names.get(value, value) for value in node.inputs),
            outputs=tuple(names.get(value, value) for value in node.outputs),
            attributes=attributes,
        )


def _branch(graph: Graph, names: dict[str, str], build: Builder) -> Graph:
    inner = dict(names) | {value: build.name(value) for value in graph.inputs}
    nodes = tuple(_copied(graph.nodes, inner, build))
    return graph.with_(
        nodes=nodes,
        inputs=tuple(inner[value] for value in graph.inputs),
        outputs=tuple(inner.get(value, value) for value in graph.outputs),
    )


def _turn(body: Graph, given: Iterable[str], build: Builder, visit: Visit) -> list[str]:
    """Take the body in once more, with these values as its inputs; return its outputs."""
    names = dict(zip(body.inputs, given, strict=True))
    for node in _copied(body.nodes, names, build):
        visit(node)
    return [names.get(value, value) for value in body.outputs]


def _count(graph: Graph) -> int:
    inner = (a for node in graph.nodes for a in node.attributes.values())
    return max(1, len(graph.nodes)) + sum(_count(g) for g in inner if isinstance(g, Graph))


def _limit(node: Node, turns: int) -> None:
    if turns * _count(node.attributes["body"]) > MOST_NODES:
        raise unsupported(
            node,
            f"its {turns} turns make more than {MOST_NODES:,} nodes; export the model without "
            "this loop, or for shorter inputs",
        )


def _known(node: Node, build: Builder, value: str, name: str) -> Any:
    """Return a number that must be known, or None where it is absent."""
    if not value:
        return None
    if build.types[value].value is None:
        raise UndecidedError(
            node,
            f"its {name}",
            value,
            "export the model so that it does not: an engine has a fixed number of steps",
        )
    return rules.scalar(node, build.operand(value), name)


def _loop(node: Node, build: Builder, visit: Visit) -> list[str]:
    body: Graph = node.attributes["body"]
    limit, condition, *carried = (*node.inputs, "", "")[: max(2, len(node.inputs))]
    kept = len(carried)
    if len(body.inputs) != 2 + kept or len(body.outputs) < 1 + kept:
        raise unsupported(node, "its body does not take and give what it carries")
    turns, going = _known(node, build, limit, "number of turns"), True
    if condition:
        going = bool(_known(node, build, condition, "condition"))
    collected: list[list[str]] = [[] for _ in body.outputs[1 + kept :]]
    done = 0
    while going and (turns is None or done < turns):
        _limit(node, done + 1)
        now = [build.constant(done, np.int64), build.constant(True)]
        again, *made = _turn(body, [*now, *carried], build, visit)
        going = bool(_known(node, build, again, "condition"))
        carried = made[:kept]
        for values, value in zip(collected, made[kept:], strict=True):
            values.append(value)
        done += 1
    wanted = node.outputs[kept:]
    stacks = [
        _stacked(node, build, values, 0) if name else ""
        for values, name in zip(collected, wanted, strict=False)
    ]
    return [*carried, *stacks]


def _stacked(node: Node, build: Builder, values: list[str], axis: int) -> str:
    if not values:
        raise unsupported(node, "it has no turns, so that the shape of an output is not known")
    axes = build.constant([axis], np.int64)
    return build.add("Concat", *(build.add("Unsqueeze", v, axes) for v in values), axis=axis)


def _scan(node: Node, build: Builder, visit: Visit) -> list[str]:
    body: Graph = node.attributes["body"]
    count = node.get("num_scan_inputs", 0)
    kept = len(node.inputs) - count
    if not 0 < count <= len(node.inputs) or len(body.inputs) != len(node.inputs):
        raise unsupported(node, "its body does not take its inputs")
    carried, scanned = list(node.inputs[:kept]), node.inputs[kept:]
    given = len(body.outputs) - kept
    axes = [
        rules.axis(node, axis, len(build.shape(value)))
        for axis, value in zip(node.get("scan_input_axes", (0,) * count), scanned, strict=True)
    ]
    extents = {build.shape(value)[axis] for axis, value in zip(axes, scanned, strict=True)}
    backwards = node.get("scan_input_directions", (0,) * count)
    if len(extents) != 1 or len(backwards) != count or given < 0:
        raise unsupported(node, f"it goes over axes of extents {sorted(extents)}")
    (turns,) = extents
    _limit(node, turns)
    collected: list[list[str]] = [[] for _ in range(given)]
    for turn in range(turns):
        seen = [
            build.add("Gather", value, build.constant(turns - 1 - turn if back else turn, np.int64),
                      axis=axis)
            for value, axis, back in zip(scanned, axes, backwards, strict=True)
        ]  # fmt: skip
        made = _turn(body, [*carried, *seen], build, visit)
        carried = made[:kept]
        for values, value in zip(collected, made[kept:], strict=True):
            values.append(value)
    outs, turned = (
        node.get(f"scan_output_{what}", (0,) * given) for what in ("axes", "directions")
    )
    stacks = []
    for values, axis, back in zip(collected, outs, turned, strict=True):
        rank = len(build.shape(values[0])) + 1 if values else 1
        ordered = values[::-1] if back else values
        stacks.append(_stacked(node, build, ordered, rules.axis(node, axis, rank)))
    return [*carried, *stacks]


RULES: Mapping[str, Callable[[Node, Builder, Visit], list[str]]] = MappingProxyType(
    {"Loop": _loop, "Scan": _scan}
)
"""Return the value that each output is. The body is the attribute `body`, a graph with inputs."""
