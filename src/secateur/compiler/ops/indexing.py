"""Parts of a value picked by position, and values padded around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operand, Operator, rules
from secateur.compiler.ops.rules import INDICES, Operands
from secateur.compiler.ops.shape import Shape
from secateur.errors import UsageError

MODES = ("constant", "edge", "reflect", "wrap")


def slices(node: Node, shape: Shape, given: Sequence[Shape | None]) -> tuple[range, ...]:
    """Return, for each axis, the positions that Slice takes.

    Args:
        node: for errors.
        shape: of the data.
        given: starts, ends, axes, steps; None where absent.
    """
    starts, ends = given[0] or (), given[1] or ()
    axes = tuple(range(len(starts))) if given[2] is None else given[2]
    steps = (1,) * len(starts) if given[3] is None else given[3]
    if len({len(starts), len(ends), len(axes), len(steps)}) > 1 or 0 in steps:
        raise unsupported(node, f"starts {starts}, ends {ends}, axes {axes}, steps {steps}")
    taken = [range(extent) for extent in shape]
    for axis, *bounds in zip(rules.axes(node, axes, len(shape)), starts, ends, steps, strict=True):
        taken[axis] = _positions(shape[axis], *bounds)
    return tuple(taken)


def _positions(extent: int, start: int, end: int, step: int) -> range:
    """Clamp as ONNX does: unlike Python's, an end far below 0 stays below 0."""
    start, end = (bound + extent if bound < 0 else bound for bound in (start, end))
    if step > 0:
        return range(min(max(start, 0), extent), min(max(end, 0), extent), step)
    return range(min(max(start, 0), extent - 1), min(max(end, -1), extent - 1), step)


def _infer_slice(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 3, 5)
    data = rules.operand(node, operands, 0, "data")
    given: list[Shape | None] = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        found = rules.optional(node, operands, index, name, INDICES)
        given.append(None if found is None else rules.integers(node, found, name))
    return (Tensor(data.dtype, tuple(map(len, slices(node, data.shape, given)))),)


def _slice(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, *rest = (*arrays, None, None)[:5]
    assert x is not None
    for axis, taken in enumerate(
        slices(node, x.shape, [None if a is None else tuple(a.tolist()) for a in rest])
    ):
        x = x.take(np.arange(taken.start, taken.stop, taken.step), axis)
    return (x,)


def pads(
    node: Node, shape: Shape, given: Sequence[int], axes: Shape | None
) -> tuple[tuple[int, int], ...]:
    """Return how many elements Pad adds before and after each axis; negative ones are removed.

    Args:
        node: gives the mode.
        shape: of the data.
        given: all that come before, then all that come after.
        axes: which axes they are for; None for all.
    """
    chosen = tuple(range(len(shape))) if axes is None else rules.axes(node, axes, len(shape))
    if len(given) != 2 * len(chosen):
        raise unsupported(node, f"pads {tuple(given)} for {len(chosen)} axes")
    widths = [(0, 0)] * len(shape)
    for axis, before, after in zip(chosen, given[: len(chosen)], given[len(chosen) :], strict=True):
        widths[axis] = (before, after)
    mode = node.get("mode", "constant")
    for extent, (before, after) in zip(shape, widths, strict=True):
        left = extent + min(before, 0) + min(after, 0)
        source = left - 1 if mode == "reflect" else left
        if left < 0 or (mode != "constant" and max(before, after) > 0 and source < 1):
            raise unsupported(node, f"pads {tuple(given)} of a value of shape {shape}")
        if mode == "reflect" and max(before, after) > source:
            raise unsupported(node, f"reflections {tuple(given)} wider than the shape {shape}")
    return tuple(widths)


def _infer_pad(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 2, 4)
    if node.get("mode", "constant") not in MODES:
        raise unsupported(node, f"mode={node.get('mode')}")
    data = rules.operand(node, operands, 0, "data")
    given = rules.operand(node, operands, 1, "pads", INDICES)
    value = rules.optional(node, operands, 2, "constant_value")
    axes = rules.optional(node, operands, 3, "axes", INDICES)
    if value is not None:
        rules.same_dtype(node, data, value)
        rules.scalar(node, value, "constant_value")
    widths = pads(
        node,
        data.shape,
        rules.integers(node, given, "pads"),
        None if axes is None else rules.integers(node, axes, "axes"),
    )
    shape = tuple(extent + sum(width) for extent, width in zip(data.shape, widths, strict=True))
    return (Tensor(data.dtype, shape),)


def _pad(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, given, value, axes = (*arrays, None, None)[:4]
    assert x is not None
    assert given is not None
    widths = pads(node, x.shape, given.tolist(), None if axes is None else tuple(axes.tolist()))
    x = x[
        tuple(
            slice(max(-before, 0), extent - max(-after, 0))
            for extent, (before, after) in zip(x.shape, widths, strict=True)
        )
    ]
    added = [(max(before, 0), max(after, 0)) for before, after in widths]
    mode = node.get("mode", "constant")
    if mode != "constant":
        return (np.pad(x, added, mode),)
    fill = x.dtype.type(0) if value is None else value.reshape(())
    return (np.pad(x, added, constant_values=fill),)


def _indexed(node: Node, operands: Operands) -> tuple[Operand, Operand, int]:
    """Check what the Gather operators take; return data, indices and the axis."""
    rules.arity(node, operands, 2, 2)
    data = rules.operand(node, operands, 0, "data")
    indices = rules.operand(node, operands, 1, "indices", INDICES)
    axis = rules.axis(node, node.get("axis", 0), len(data.shape))
    value, extent = indices.value, data.shape[axis]
    if value is not None and value.size and not -extent <= value.min() <= value.max() < extent:
        raise unsupported(node, f"an index lies outside the axis of {extent} that it picks from")
    return data, indices, axis


def _within(node: Node, indices: np.ndarray, extent: int) -> np.ndarray:
    """Return indices counted from the front."""
    if indices.size and not -extent <= indices.min() <= indices.max() < extent:
        raise UsageError(f"node {node}: an index lies outside the {extent} entries to pick from")
    return np.where(indices < 0, indices + extent, indices)


def _infer_gather(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    data, indices, axis = _indexed(node, operands)
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return (Tensor(data.dtype, shape),)


def _gather(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, axis = rules.array(arrays, 0), node.get("axis", 0)
    indices = _within(node, rules.array(arrays, 1), x.shape[axis])
    return (np.asarray(x.take(indices, axis)),)


def _infer_gather_elements(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    data, indices, axis = _indexed(node, operands)
    fits = len(indices.shape) == len(data.shape) and all(
        picked <= extent or place == axis
        for place, (picked, extent) in enumerate(zip(indices.shape, data.shape, strict=True))
    )
    if not fits:
        raise unsupported(node, f"indices of shape {indices.shape} for data of {data.shape}")
    return (Tensor(data.dtype, indices.shape),)


def _gather_elements(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, axis = rules.array(arrays, 0), node.get("axis", 0) % rules.array(arrays, 0).ndim
    indices = _within(node, rules.array(arrays, 1), x.shape[axis])
    part = tuple(
        slice(None) if place == axis else slice(picked)
        for place, picked in enumerate(indices.shape)
    )
    return (np.take_along_axis(x[part], indices, axis),)


def _infer_triangle(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    rules.arity(node, operands, 1, 2)
    x = rules.operand(node, operands, 0, "input")
    diagonal = rules.optional(node, operands, 1, "k", INDICES)
    if diagonal is not None:
        rules.scalar(node, diagonal, "k")
    if len(x.shape) < 2:
        raise unsupported(node, f"its input has the shape {x.shape}, and no rows and columns")
    return (Tensor(x.dtype, x.shape),)


def _triangle(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    x, diagonal = (*arrays, None)[:2]
    assert x is not None
    places = np.arange(x.shape[-1]) - np.arange(x.shape[-2])[:, None]
    k = 0 if diagonal is None else int(diagonal.item())
    kept = places >= k if node.get("upper", 1) else places <= k
    return (np.where(kept, x, x.dtype.type(0)),)


OPERATORS = (
    Operator("Gather", _infer_gather, _gather, frozenset({"axis"})),
    Operator("GatherElements", _infer_gather_elements, _gather_elements, frozenset({"axis"})),
    Operator("Pad", _infer_pad, _pad, frozenset({"mode"})),
    Operator("Slice", _infer_slice, _slice),
    Operator("Trilu", _infer_triangle, _triangle, frozenset({"upper"})),
)
