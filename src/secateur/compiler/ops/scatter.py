"""Rows placed into a matrix by their numbers: what all Scatter operators become."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.rules import ANY, NUMBERS, Operands
from secateur.errors import UsageError

REDUCTIONS = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}
"""How a row of the updates meets the row that is there; None: it takes its place."""


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 3)
    reduction = node.get("reduction", "none")
    if reduction not in REDUCTIONS:
        raise unsupported(node, f"reduction={reduction}")
    allowed = ANY if reduction == "none" else NUMBERS
    data = rules.operand(node, operands, 0, "data", allowed)
    indices = rules.operand(node, operands, 1, "indices", rules.INDICES)
    updates = rules.operand(node, operands, 2, "updates", allowed)
    rules.same_dtype(node, data, updates)
    if len(data.shape) != 2 or updates.shape != (*indices.shape, data.shape[1]):
        raise unsupported(
            node, f"data {data.shape}, indices {indices.shape}, updates {updates.shape}"
        )
    known = indices.value
    if known is not None and ((known < 0) | (known >= data.shape[0])).any():
        raise unsupported(node, f"an index lies outside the {data.shape[0]} rows")
    return (Tensor(data.dtype, data.shape),)


def _reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """Place the rows in order; where a number comes twice, the later one meets the earlier."""
    data, indices, updates = (rules.array(arrays, k) for k in range(3))
    if indices.size and not 0 <= indices.min() <= indices.max() < len(data):
        raise UsageError(f"node {node}: an index lies outside the {len(data)} rows")
    result, function = data.copy(), REDUCTIONS[node.get("reduction", "none")]
    if function is None:
        result[indices] = updates
    else:
        with np.errstate(all="ignore"):
            function.at(result, indices, updates)
    return (result,)


OPERATORS = (Operator("ScatterRows", _infer, _reference, frozenset({"reduction"})),)
