"""Runs a graph with the numpy references: slow, and the truth that engines are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor
from secateur.compiler.ops import find
from secateur.compiler.ops.cast import ELEMENT_TYPES
from secateur.compiler.passes import shapes
from secateur.errors import CompileError, UsageError

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}


def run(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    rounded: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Compute the outputs of a graph.

    Values that no later node reads are freed on the way.

    Args:
        graph: without `If` nodes, that is after `fold`. Where it carries the type of a value,
            the value must have it.
        inputs: an array of the right dtype and shape for each input, by name.
        rounded: what becomes of the results of a node; by default they stay as they are.

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
        results = _results(graph, node, arrays)
        if rounded is not None:
            results = tuple(rounded(array) for array in results)
        for name, array in zip(node.outputs, results, strict=False):
            if name in graph.types:
                shapes.check(node, (array,), (graph.types[name],))
            if name and (name in last or name in kept):
                values[name] = array
        for name in {*node.inputs} - kept:
            if name and last[name] == index:
                del values[name]
    return {name: values[name] for name in graph.outputs}


def _results(
    graph: Graph, node: Node, arrays: tuple[np.ndarray | None, ...]
) -> tuple[np.ndarray, ...]:
    try:
        with np.errstate(all="ignore"):
            return find(node).reference(node, arrays)
    except MemoryError as error:
        sizes = [list(array.shape) for array in arrays if array is not None]
        raise CompileError(
            f"node {node} takes more memory than there is, for inputs of shapes {sizes}: compile "
            "on a larger machine, or for smaller inputs (input_shapes=, --input-shape)"
        ) from error


def run_wide(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    stored: Callable[[np.ndarray], np.ndarray] | None = None,
    rounded: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Compute the outputs of a graph of float32 in float64, from the same inputs.

    Args:
        graph, inputs: as for `run`.
        stored: what storing makes of a constant of float32; by default nothing.
        rounded: as for `run`.

    Returns:
        As `run`; outputs that are float32 there are float64.

    Raises:
        UsageError, CompileError: as `run`.
    """
    _check_inputs(graph, inputs)
    constants = {
        name: widened(stored(array) if stored and array.dtype == SINGLE else array)
        for name, array in graph.constants.items()
    }
    given = {name: widened(array) for name, array in inputs.items()}
    types = {name: Tensor(array.dtype, array.shape) for name, array in given.items()}
    nodes = tuple(replace(n, attributes=_wide_attributes(n)) for n in graph.nodes)
    return run(Graph(nodes, graph.inputs, graph.outputs, constants, types), given, rounded)


def widened(array: np.ndarray) -> np.ndarray:
    """Return an array of float32 as float64, and any other as it is."""
    return array.astype(DOUBLE) if array.dtype == SINGLE else array


def _wide_attributes(node: Node) -> dict[str, Any]:
    found = {
        name: widened(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    if node.op in ("Cast", "Dequantize") and found.get("to") == _NUMBERS[SINGLE]:
        found["to"] = _NUMBERS[DOUBLE]
    if node.op == "ConstantOfShape":
        found.setdefault("value", np.zeros(1, DOUBLE))
    return found


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
