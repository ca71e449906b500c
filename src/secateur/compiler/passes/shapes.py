"""Every value gets its dtype and its fixed shape."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from secateur.compiler.graph import Graph, Node, Tensor, unsupported
from secateur.compiler.ops import Operand, find
from secateur.compiler.ops.rules import LIMIT
from secateur.errors import CompileError


def infer(
    node: Node, types: Mapping[str, Tensor], constants: Mapping[str, np.ndarray]
) -> tuple[Tensor, ...]:
    """Return the types of a node's outputs, one for each that it names.

    Args:
        node: its operator says what comes out.
        types: of its inputs.
        constants: arrays of the inputs whose value is known.

    Raises:
        CompileError: the operator is not supported, its inputs do not fit together, or an
            output would be huge.
    """
    operator = find(node)
    operands = tuple(
        Operand(types[name].dtype, types[name].shape, constants.get(name), name) if name else None
        for name in node.inputs
    )
    try:
        tensors = operator.infer(node, operands)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What a hostile file can make of attributes and shapes has no end.
        raise unsupported(
            node, f"its inputs or attributes do not fit together ({error})"
        ) from error
    if len(tensors) < len(node.outputs):
        raise unsupported(node, f"it has {len(node.outputs)} outputs, not {len(tensors)}")
    for tensor in tensors:
        # an extent of 0 counts as 1, as in `checked_shape`: numpy refuses what is huge beside it
        elements = math.prod(max(extent, 1) for extent in tensor.shape)
        if min(tensor.shape, default=0) < 0 or elements > LIMIT:
            raise unsupported(node, f"its output would have shape {list(tensor.shape)}")
    return tuple(tensors[: len(node.outputs)])


def run(graph: Graph) -> Graph:
    """Return the graph with the type of every value, found anew from inputs and constants."""
    types = {name: graph.types[name] for name in graph.inputs}
    types |= {name: graph.types[name] for name in graph.constants}
    for node in graph.nodes:
        for name, tensor in zip(node.outputs, infer(node, types, graph.constants), strict=True):
            if name:
                types[name] = tensor
    return graph.with_(types=types)


def check(node: Node, outputs: tuple[np.ndarray, ...], types: tuple[Tensor, ...]) -> None:
    """Compare what a reference computed with what was inferred.

    Raises:
        CompileError: they differ, which is a defect of secateur.
    """
    for array, tensor in zip(outputs, types, strict=False):
        if Tensor(array.dtype, array.shape) != tensor:
            raise CompileError(
                f"node {node} was inferred to give {tensor.dtype} {list(tensor.shape)} and gave "
                f"{array.dtype} {list(array.shape)}; this is a defect of secateur: report it"
            )
