"""Runs a graph with the numpy references: slow, and the truth that engines are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secateur.compiler.graph import Graph, Tensor
from secateur.compiler.ops import find
from secateur.compiler.passes import shapes
from secateur.errors import UsageError


def run(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the outputs of a graph.

    Values that no later node reads are freed on the way.

    Args:
        graph: without `If` nodes, that is after `fold`. Where it carries the type of a value,
            the value must have it.
        inputs: an array of the right dtype and shape for each input, by name.

    Returns:
        The outputs by name, in the graph's order.

    Raises:
        UsageError: inputs are missing, unknown, or of another dtype or shape.
        CompileError: an operator is not supported, or gives something else than was inferred.
    """
    _check_inputs(graph, inputs)
    values: dict[str, np.ndarray] = {**graph.constants, **inputs}
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    kept = {*graph.outputs, *graph.constants}
    for index, node in enumerate(graph.nodes):
        arrays = tuple(values[name] if name else None for name in node.inputs)
        with np.errstate(all="ignore"):
            results = find(node).reference(node, arrays)
        for name, array in zip(node.outputs, results, strict=False):
            if name in graph.types:
                shapes.check(node, (array,), (graph.types[name],))
            if name and (name in last or name in kept):
                values[name] = array
        for name in {*node.inputs} - kept:
            if name and last[name] == index:
                del values[name]
    return {name: values[name] for name in graph.outputs}


def _check_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> None:
    if sorted(inputs) != sorted(graph.inputs):
        raise UsageError(
            f"the network takes inputs {', '.join(graph.inputs) or 'none'}, "
            f"not {', '.join(inputs) or 'none'}"
        )
    for name, array in inputs.items():
        wanted = graph.types[name]
        if Tensor(array.dtype, array.shape) != wanted:
            raise UsageError(
                f"input {name!r} takes {wanted.dtype} {list(wanted.shape)}, "
                f"not {array.dtype} {list(array.shape)}"
            )
