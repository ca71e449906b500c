"""Of boxes that cover one another, the one with the highest score: NonMaxSuppression.

How many boxes are left depends on the network's inputs, and an engine's shapes are fixed. So the
output has as many rows as there can be: first those that ONNX asks for, then rows of `UNUSED`. What
may follow is seen to by `passes.unused_rows`.
"""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.rules import FLOATS, Operands

UNUSED = -1
"""What rows hold that are no box."""


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 5)
    boxes = rules.operand(node, operands, 0, "boxes", FLOATS)
    scores = rules.operand(node, operands, 1, "scores", FLOATS)
    rules.same_dtype(node, boxes, scores)
    if (
        len(boxes.shape) != 3
        or len(scores.shape) != 3
        or boxes.shape[2] != 4
        or (boxes.shape[0], boxes.shape[1]) != (scores.shape[0], scores.shape[2])
    ):
        raise unsupported(node, f"boxes of shape {boxes.shape} and scores of {scores.shape}")
    if node.get("center_point_box", 0) not in (0, 1):
        raise unsupported(node, f"center_point_box={node.get('center_point_box')}")
    most = rules.optional(node, operands, 2, "max_output_boxes_per_class", rules.dtypes("int64"))
    for index, name in ((3, "iou_threshold"), (4, "score_threshold")):
        given = rules.optional(node, operands, index, name, FLOATS)
        if given is not None and given.shape not in ((), (1,)):
            raise unsupported(node, f"its {name} has shape {given.shape}, and is one number")
    batch, classes, count = scores.shape
    return (Tensor(np.dtype(np.int64), (batch * classes * _most(node, most, count), 3)),)


def _most(node: Node, given: Operand | None, count: int) -> int:
    """Return how many boxes of a class there can be; ONNX's default is none at all."""
    if given is None:
        return 0
    return max(0, min(int(rules.scalar(node, given, "max_output_boxes_per_class")), count))


def _reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    """As ONNX Runtime has it: in order of scores, the first of equals first."""
    boxes, scores = rules.array(arrays, 0), rules.array(arrays, 1)
    given, covering, least = (*arrays[2:], None, None, None)[:3]
    batch, classes, count = scores.shape
    most = 0 if given is None else max(0, min(int(given.item()), count))
    limit = 0.0 if covering is None else covering.item()
    rows = []
    for n, k in np.ndindex(batch, classes):
        known = np.flatnonzero(
            scores[n, k] == scores[n, k] if least is None else scores[n, k] > least.item()
        )
        kept: list[int] = []
        for box in known[np.argsort(-scores[n, k, known], kind="stable")]:
            if len(kept) == most:
                break
            if not (_covered(node, boxes[n, box], boxes[n, kept]) > limit).any():
                kept.append(int(box))
        rows += [(n, k, box) for box in kept]
    found = np.full((batch * classes * most, 3), UNUSED, np.int64)
    found[: len(rows)] = np.reshape(rows, (-1, 3))
    return (found,)


def _covered(node: Node, box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the area that a box has in common with others, by what they cover together."""
    low, high = _ends(node, box)
    lower, upper = _ends(node, others)
    with np.errstate(all="ignore"):
        sides = np.minimum(high, upper) - np.maximum(low, lower)
        both = sides[:, 0] * sides[:, 1]
        first, second = (
            (b - a)[..., 0] * (b - a)[..., 1] for a, b in ((low, high), (lower, upper))
        )
        either = first + second - both
        real = (sides > 0).all(1) & (both > 0) & (first > 0) & (second > 0) & (either > 0)
        return np.where(real, both / either, -np.inf)


def _ends(node: Node, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper ends of boxes [..., 2]."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if node.get("center_point_box", 0):
        half = second / 2
        return first - half, first + half
    return np.minimum(first, second), np.maximum(first, second)


OPERATORS = (Operator("NonMaxSuppression", _infer, _reference, frozenset({"center_point_box"})),)
