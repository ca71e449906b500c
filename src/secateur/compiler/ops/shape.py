"""Values laid out anew: other shapes, other orders of axes, joined, cut and repeated.

What an operator asks for (axes, sizes, a target shape) is resolved by one public function each,
which inference, the reference and kernels share.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.rules import INDICES, Operands

Shape = tuple[int, ...]


def _values(arrays: Arrays, index: int) -> Shape | None:
    """Return a list of integers given as an array, or None where it is absent."""
    found = arrays[index] if index < len(arrays) else None
    return None if found is None else tuple(int(value) for value in found.reshape(-1))


def _given(node: Node, operands: Operands, index: int, name: str) -> Shape | None:
    """Return a list of integers given as a constant operand, or None where it is absent."""
    found = rules.optional(node, operands, index, name, INDICES)
    return None if found is None else rules.integers(node, found, name)


def _needed(node: Node, operands: Operands, index: int, name: str) -> Shape:
    """Return a list of integers given as a constant operand that must be there."""
    return rules.integers(node, rules.operand(node, operands, index, name, INDICES), name)


def reshaped(node: Node, shape: Shape, target: Sequence[int]) -> Shape:
    """Return the shape that Reshape gives: 0 copies an extent, one -1 takes what is left."""
    result = list(target)
    copies = [place for place, extent in enumerate(target) if extent == 0]
    if not node.get("allowzero", 0):
        if any(place >= len(shape) for place in copies):
            raise unsupported(node, f"shape {tuple(target)} copies an axis that {shape} lacks")
        result = [shape[place] if place in copies else e for place, e in enumerate(target)]
    if result.count(-1) == 1:
        rest = prod(extent for extent in result if extent != -1)
        if rest <= 0 or prod(shape) % rest:
            raise unsupported(node, f"a value of shape {shape} cannot take the shape {target}")
        result[result.index(-1)] = prod(shape) // rest
    if min(result, default=0) < 0 or prod(result) != prod(shape):
        raise unsupported(node, f"a value of shape {shape} cannot take the shape {tuple(target)}")
    return tuple(result)


def _infer_reshape(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    data = rules.operand(node, operands, 0, "data")
    target = _needed(node, operands, 1, "shape")
    return (Tensor(data.dtype, reshaped(node, data.shape, target)),)


def _reshape(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (x.reshape(reshaped(node, x.shape, _values(arrays, 1) or ())),)


def flattened(node: Node, shape: Shape) -> Shape:
    """Return the two extents that Flatten gives."""
    axis = node.get("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise unsupported(node, f"axis {axis} of a value of {len(shape)} axes")
    axis = axis + len(shape) if axis < 0 else axis
    return (prod(shape[:axis]), prod(shape[axis:]))


def _infer_flatten(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "input")
    return (Tensor(x.dtype, flattened(node, x.shape)),)


def _flatten(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (x.reshape(flattened(node, x.shape)),)


def permutation(node: Node, rank: int) -> Shape:
    """Return, for each axis of Transpose's output, the axis of the input that it is."""
    order = tuple(node.get("perm", range(rank)[::-1]))
    if sorted(order) != list(range(rank)):
        raise unsupported(node, f"perm={order} of a value of {rank} axes")
    return order


def _infer_transpose(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 1)
    x = rules.operand(node, operands, 0, "data")
    return (Tensor(x.dtype, tuple(x.shape[a] for a in permutation(node, len(x.shape)))),)


def _transpose(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (x.transpose(permutation(node, x.ndim)),)


def squeezed(node: Node, shape: Shape, axes: Shape | None) -> Shape:
    """Return a shape without some axes of extent 1, by default without all of them."""
    if axes is None:
        return tuple(extent for extent in shape if extent != 1)
    gone = rules.axes(node, axes, len(shape))
    if any(shape[axis] != 1 for axis in gone):
        raise unsupported(node, f"it removes axes {gone} of shape {shape}, not all of extent 1")
    return tuple(extent for axis, extent in enumerate(shape) if axis not in gone)


def _infer_squeeze(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 2)
    x = rules.operand(node, operands, 0, "data")
    return (Tensor(x.dtype, squeezed(node, x.shape, _given(node, operands, 1, "axes"))),)


def _squeeze(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (x.reshape(squeezed(node, x.shape, _values(arrays, 1))),)


def unsqueezed(node: Node, shape: Shape, axes: Shape) -> Shape:
    """Return a shape with new axes of extent 1 at given places of the result."""
    rank = len(shape) + len(axes)
    new = rules.axes(node, axes, rank)
    old = iter(shape)
    return tuple(1 if axis in new else next(old) for axis in range(rank))


def _infer_unsqueeze(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "data")
    return (Tensor(x.dtype, unsqueezed(node, x.shape, _needed(node, operands, 1, "axes"))),)


def _unsqueeze(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (x.reshape(unsqueezed(node, x.shape, _values(arrays, 1) or ())),)


def _infer_expand(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "input")
    target = _needed(node, operands, 1, "shape")
    return (Tensor(x.dtype, rules.broadcast(node, x.shape, target)),)


def _expand(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x = rules.array(arrays, 0)
    return (np.broadcast_to(x, rules.broadcast(node, x.shape, _values(arrays, 1) or ())),)


def _infer_tile(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "input")
    repeats = _needed(node, operands, 1, "repeats")
    if len(repeats) != len(x.shape) or min(repeats, default=0) < 0:
        raise unsupported(node, f"repeats {repeats} of a value of shape {x.shape}")
    return (Tensor(x.dtype, tuple(e * r for e, r in zip(x.shape, repeats, strict=True))),)


def _tile(_: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    return (np.tile(rules.array(arrays, 0), _values(arrays, 1) or ()),)


def _infer_concat(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, max(len(operands), 1))
    found = [rules.operand(node, operands, i, f"inputs[{i}]") for i in range(len(operands))]
    shapes = [operand.shape for operand in found]
    axis = rules.axis(node, node.get("axis"), len(shapes[0]))
    if len({(len(shape), shape[:axis], shape[axis + 1 :]) for shape in shapes}) > 1:
        raise unsupported(node, f"shapes {shapes} do not fit together along axis {axis}")
    total = sum(shape[axis] for shape in shapes)
    shape = (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
    return (Tensor(rules.same_dtype(node, *found), shape),)


def _concat(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    return (np.concatenate([a for a in arrays if a is not None], axis=node.get("axis")),)


def split_sizes(node: Node, extent: int, given: Shape | None) -> Shape:
    """Return the extents that Split cuts an axis into.

    Args:
        node: gives `num_outputs`, and how many outputs there are.
        extent: of the axis.
        given: the split input; None where it is absent: equal parts, of which the last is smaller.
    """
    count = len(node.outputs)
    if given is None:
        each = -(-extent // count)
        given = (each,) * (count - 1) + (extent - each * (count - 1),)
    if count != node.get("num_outputs", count) or count != len(given):
        raise unsupported(node, f"it has {count} outputs")
    if min(given) < 0 or sum(given) != extent:
        raise unsupported(node, f"it cuts an axis of {extent} into {given}")
    return given


def _infer_split(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 2)
    x = rules.operand(node, operands, 0, "input")
    axis = rules.axis(node, node.get("axis", 0), len(x.shape))
    sizes = split_sizes(node, x.shape[axis], _given(node, operands, 1, "split"))
    return tuple(Tensor(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in sizes)


def _split(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, axis = rules.array(arrays, 0), node.get("axis", 0)
    sizes = split_sizes(node, x.shape[axis], _values(arrays, 1))
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


def _block(node: Node, operands: Operands) -> tuple[Operand, int]:
    """Check what DepthToSpace and SpaceToDepth take; return the image and the block's side."""
    rules.arity(node, operands, 1, 1)
    x, side = rules.operand(node, operands, 0, "input"), node.get("blocksize", 0)
    if len(x.shape) != 4 or side < 1 or node.get("mode", "DCR") not in ("DCR", "CRD"):
        raise unsupported(
            node, f"shape {x.shape}, blocksize {side}, mode {node.get('mode', 'DCR')}"
        )
    return x, side


def _infer_to_space(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x, side = _block(node, operands)
    n, c, h, w = x.shape
    if c % side**2:
        raise unsupported(node, f"{c} channels do not make blocks of {side} by {side}")
    return (Tensor(x.dtype, (n, c // side**2, h * side, w * side)),)


def _infer_to_depth(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    x, side = _block(node, operands)
    n, c, h, w = x.shape
    if h % side or w % side:
        raise unsupported(node, f"an image of {h} by {w} has no blocks of {side} by {side}")
    return (Tensor(x.dtype, (n, c * side**2, h // side, w // side)),)


def _to_space(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, side = rules.array(arrays, 0), node.get("blocksize")
    n, c, h, w = x.shape
    depth = c // side**2
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, side, side, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, depth, side, side, h, w).transpose(0, 1, 4, 2, 5, 3)
    return (parts.reshape(n, depth, h * side, w * side),)


def _to_depth(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, side = rules.array(arrays, 0), node.get("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // side, side, w // side, side)
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return (parts.transpose(order).reshape(n, c * side**2, h // side, w // side),)


_OF_BLOCKS = frozenset({"blocksize", "mode"})

OPERATORS = (
    Operator("Concat", _infer_concat, _concat, frozenset({"axis"})),
    Operator("DepthToSpace", _infer_to_space, _to_space, _OF_BLOCKS),
    Operator("Expand", _infer_expand, _expand),
    Operator("Flatten", _infer_flatten, _flatten, frozenset({"axis"})),
    Operator("Reshape", _infer_reshape, _reshape, frozenset({"allowzero"})),
    Operator("SpaceToDepth", _infer_to_depth, _to_depth, _OF_BLOCKS),
    Operator("Split", _infer_split, _split, frozenset({"axis", "num_outputs"})),
    Operator("Squeeze", _infer_squeeze, _squeeze),
    Operator("Tile", _infer_tile, _tile),
    Operator("Transpose", _infer_transpose, _transpose, frozenset({"perm"})),
    Operator("Unsqueeze", _infer_unsqueeze, _unsqueeze),
)
