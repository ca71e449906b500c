"""Holds a graph to its promises. It runs after every pass; a failure is a defect of secateur."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from secateur.compiler.graph import Graph, Node
from secateur.compiler.passes import shapes
from secateur.errors import CompileError


def check(graph: Graph, after: str = "the reader") -> None:
    """Check a graph whose values all have types.

    Every value is made once and before it is read, names are unique, outputs exist, constants
    are read-only, and every type is what the operators infer.

    Args:
        graph: without `If` nodes, that is after `fold`.
        after: the pass that made it; the error names it.

    Raises:
        CompileError: a promise is broken.
    """
    if fault := next(_faults(graph), None):
        raise CompileError(
            f"the graph is wrong after {after}: {fault}; this is a defect of secateur: report it"
        )


def _faults(graph: Graph) -> Iterator[str]:
    yield from _twice("node", [node.name for node in graph.nodes])
    made = [*graph.inputs, *graph.constants]
    made += [name for node in graph.nodes for name in node.outputs if name]
    yield from _twice("value", made)
    yield from _twice("output", graph.outputs)
    for name, array in graph.constants.items():
        if array.flags.writeable:
            yield f"constant {name!r} can be written to"
    if missing := [name for name in made if name not in graph.types]:
        yield f"value {missing[0]!r} has no type"
        return
    defined = {*graph.inputs, *graph.constants}
    for node in graph.nodes:
        if unknown := [name for name in node.inputs if name and name not in defined]:
            yield f"node {node} reads {unknown[0]!r}, which nothing before it makes"
            return
        yield from _mistyped(graph, node)
        defined.update(filter(None, node.outputs))
    for name in graph.outputs:
        if name not in defined:
            yield f"output {name!r} is not made"


def _twice(kind: str, names: Collection[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{kind} {name!r} is there twice"
        seen.add(name)


def _mistyped(graph: Graph, node: Node) -> Iterator[str]:
    for name, tensor in zip(
        node.outputs, shapes.infer(node, graph.types, graph.constants), strict=True
    ):
        if name and graph.types[name] != tensor:
            had = graph.types[name]
            yield (
                f"{name!r} of node {node} is {tensor.dtype} {list(tensor.shape)}, "
                f"and was said to be {had.dtype} {list(had.shape)}"
            )
