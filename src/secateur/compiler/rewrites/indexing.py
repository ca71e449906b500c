"""Elements picked and placed by positions: all of it becomes rows of a matrix, by their number."""

from __future__ import annotations

from math import prod

import numpy as np

from secateur.compiler.graph import Node, UndecidedError, unsupported
from secateur.compiler.ops import Operand, rules
from secateur.compiler.ops.cast import ELEMENT_TYPES, element_type
from secateur.compiler.rewrites import Builder

Shape = tuple[int, ...]

_INT64 = next(number for number, dtype in ELEMENT_TYPES.items() if dtype == np.int64)


def _signed(build: Builder, value: str) -> str:
    """Return integers as int64."""
    return value if build.dtype(value) == np.int64 else build.add("Cast", value, to=_INT64)


def _from_the_front(build: Builder, indices: str, extents: str) -> str:
    """Return indices counted from the front: those below 0 count from the back."""
    below = build.add("Less", indices, build.constant(0, np.int64))
    return build.add("Where", below, build.add("Add", indices, extents), indices)


def _within(build: Builder, indices: str, extents: Shape | int) -> str:
    """Return indices counted from the front; one outside its axis is the nearest inside."""
    front = _from_the_front(build, indices, build.constant(extents, np.int64))
    last = build.constant(np.maximum(np.asarray(extents, np.int64) - 1, 0))
    return build.add("Max", build.add("Min", front, last), build.constant(0, np.int64))


def _check(node: Node, indices: Operand, extents: Shape) -> None:
    """Refuse known indices [..., axes] that lie outside the extents of their axes."""
    value, outside = indices.value, np.asarray(extents, np.int64)
    if 0 in extents and 0 not in indices.shape:
        raise unsupported(node, f"indices for axes of extents {extents}, which hold nothing")
    if value is not None and ((value < -outside) | (value >= outside)).any():
        raise unsupported(node, f"an index lies outside axes of extents {extents}")


def _tuples(node: Node, indices: Operand, shape: Shape, first: int) -> Shape:
    """Return the extents of the axes, from `first` on, that the last axis of indices picks from."""
    count = indices.shape[-1] if indices.shape else 0
    if not 1 <= count <= len(shape) - first:
        raise unsupported(
            node, f"indices of shape {indices.shape} for {len(shape) - first} axes of {shape}"
        )
    picked = shape[first : first + count]
    _check(node, indices, picked)
    return picked


def _numbered(build: Builder, indices: str, extents: Shape) -> str:
    """Return index tuples [..., axes] as numbers of rows: places in row-major order."""
    steps = [prod(extents[k + 1 :]) for k in range(len(extents))]
    places = build.add(
        "Mul", _within(build, _signed(build, indices), extents), build.constant(steps, np.int64)
    )
    return build.add("ReduceSum", places, build.constant([-1], np.int64), keepdims=0)


def _gather_nd(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 2, 2)
    data = rules.operand(node, build.operands(), 0, "data")
    indices = rules.operand(node, build.operands(), 1, "indices", rules.INDICES)
    batch = node.get("batch_dims", 0)
    most = min(len(data.shape), len(indices.shape))
    if not 0 <= batch < most or data.shape[:batch] != indices.shape[:batch]:
        raise unsupported(
            node, f"batch_dims={batch} for data of {data.shape} and indices of {indices.shape}"
        )
    extents = _tuples(node, indices, data.shape, batch)
    rows = _numbered(build, node.inputs[1], extents)
    if batch:  # each part of the batch has its own rows, one part after the other
        ones = (1,) * (len(indices.shape) - 1 - batch)
        part = build.add(
            "Mul",
            build.places(prod(data.shape[:batch])),
            build.constant(prod(extents), np.int64),
        )
        rows = build.add("Add", rows, build.reshape(part, (*data.shape[:batch], *ones)))
    after = batch + len(extents)
    table = build.reshape(node.inputs[0], (prod(data.shape[:after]), *data.shape[after:]))
    return (build.add("Gather", table, rows, axis=0),)


def _updated(node: Node, build: Builder) -> tuple[Operand, Operand, Operand]:
    """Return data, indices and updates of a Scatter operator."""
    operands = build.operands()
    rules.arity(node, operands, 3, 3)
    data = rules.operand(node, operands, 0, "data")
    indices = rules.operand(node, operands, 1, "indices", rules.INDICES)
    updates = rules.operand(node, operands, 2, "updates")
    rules.same_dtype(node, data, updates)
    return data, indices, updates


def _placed(node: Node, build: Builder, rows: str, count: int, width: int) -> tuple[str, ...]:
    """Return the data with rows of the updates in it, by their numbers."""
    shape = build.shape(node.inputs[0])
    places = prod(build.shape(rows))
    result = build.add(
        "ScatterRows",
        build.reshape(node.inputs[0], (count, width)),
        build.reshape(rows, (places,)),
        build.reshape(node.inputs[2], (places, width)),
        reduction=node.get("reduction", "none"),
    )
    return (build.reshape(result, shape),)


def _scatter_nd(node: Node, build: Builder) -> tuple[str, ...]:
    data, indices, updates = _updated(node, build)
    extents = _tuples(node, indices, data.shape, 0)
    rest = data.shape[len(extents) :]
    if updates.shape != (*indices.shape[:-1], *rest):
        raise unsupported(
            node,
            f"updates of shape {updates.shape} for indices of {indices.shape} and "
            f"data of {data.shape}",
        )
    rows = _numbered(build, node.inputs[1], extents)
    return _placed(node, build, rows, prod(extents), prod(rest))


def _scatter_elements(node: Node, build: Builder) -> tuple[str, ...]:
    data, indices, updates = _updated(node, build)
    rank = len(data.shape)
    axis = rules.axis(node, node.get("axis", 0), rank)
    fits = len(indices.shape) == rank and all(
        a == axis or mine <= its
        for a, (mine, its) in enumerate(zip(indices.shape, data.shape, strict=True))
    )
    if not fits or updates.shape != indices.shape:
        raise unsupported(
            node,
            f"indices of shape {indices.shape} and updates of {updates.shape} for "
            f"data of {data.shape}",
        )
    _check(node, indices, data.shape[axis : axis + 1])
    own = build.constant(0, np.int64)  # what the places along the other axes add
    for a, extent in enumerate(indices.shape):
        if a != axis:
            step = build.constant(prod(data.shape[a + 1 :]), np.int64)
            places = build.add("Mul", build.places(extent, rank - 1 - a), step)
            own = build.add("Add", own, places)
    picked = _within(build, _signed(build, node.inputs[1]), data.shape[axis])
    along = build.add("Mul", picked, build.constant(prod(data.shape[axis + 1 :]), np.int64))
    rows = build.add("Add", along, own)
    return _placed(node, build, rows, prod(data.shape), 1)


def _one_hot(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 3, 3)
    indices = rules.operand(node, operands, 0, "indices", rules.NUMBERS)
    given = rules.operand(node, operands, 1, "depth", rules.NUMBERS)
    values = rules.operand(node, operands, 2, "values")
    depth = int(rules.scalar(node, given, "depth"))
    axis = rules.axis(node, node.get("axis", -1), len(indices.shape) + 1)
    if values.shape != (2,) or not 0 <= depth <= rules.LIMIT:
        raise unsupported(node, f"a depth of {depth} and values of shape {values.shape}")
    front = _from_the_front(build, _signed(build, node.inputs[0]), build.constant(depth, np.int64))
    picked = build.add("Unsqueeze", front, build.constant([axis], np.int64))
    off, on = build.several("Split", node.inputs[2], outputs=2, axis=0)
    return (build.add("Where", _hits(build, picked, depth, axis), on, off),)


def _hits(build: Builder, picked: str, depth: int, axis: int) -> str:
    """Return where the places along an axis are those that are picked; it has extent 1 there."""
    behind = len(build.shape(picked)) - 1 - axis
    return build.add("Equal", picked, build.places(depth, behind))


def _hard_max(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 1, 1)
    x = rules.operand(node, build.operands(), 0, "input", rules.FLOATS)
    axis = rules.axis(node, node.get("axis", -1), len(x.shape))
    largest = build.add("ArgMax", node.inputs[0], axis=axis, keepdims=1)
    on, off = (build.constant(number, x.dtype) for number in (1, 0))
    return (build.add("Where", _hits(build, largest, x.shape[axis], axis), on, off),)


def _compress(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 2, 2)
    data = rules.operand(node, build.operands(), 0, "input")
    condition = rules.operand(node, build.operands(), 1, "condition", rules.BOOL)
    if condition.value is None:
        raise UndecidedError(node, "how much it keeps", condition.name, "cut the model before it")
    axis, source = node.get("axis"), node.inputs[0]
    if axis is None:
        source, axis, extent = build.reshape(source, (prod(data.shape),)), 0, prod(data.shape)
    else:
        axis = rules.axis(node, axis, len(data.shape))
        extent = data.shape[axis]
    if len(condition.shape) != 1 or condition.shape[0] > extent:
        raise unsupported(node, f"a condition of {condition.shape} for an axis of {extent}")
    kept = build.constant(np.flatnonzero(condition.value), np.int64)
    return (build.add("Gather", source, kept, axis=axis),)


def _eye_like(node: Node, build: Builder) -> tuple[str, ...]:
    rules.arity(node, build.operands(), 1, 1)
    x = rules.operand(node, build.operands(), 0, "input")
    if len(x.shape) != 2:
        raise unsupported(node, f"an input of shape {x.shape}; it needs rows and columns")
    dtype = element_type(node, node.get("dtype")) if "dtype" in node.attributes else x.dtype
    rows, columns = x.shape
    diagonal = build.constant(node.get("k", 0), np.int64)
    on = build.add(
        "Equal", build.add("Add", build.places(rows, 1), diagonal), build.places(columns)
    )
    return (build.add("Where", on, build.constant(1, dtype), build.constant(0, dtype)),)


def _reverse_sequence(node: Node, build: Builder) -> tuple[str, ...]:
    operands = build.operands()
    rules.arity(node, operands, 2, 2)
    x = rules.operand(node, operands, 0, "input")
    lengths = rules.operand(node, operands, 1, "sequence_lens", rules.INDICES)
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    if {time, batch} != {0, 1} or len(x.shape) < 2 or lengths.shape != (x.shape[batch],):
        raise unsupported(
            node,
            f"time_axis={time}, batch_axis={batch} and lengths of {lengths.shape} for "
            f"an input of {x.shape}",
        )
    ones = (1,) * (len(x.shape) - 2)
    steps = build.places(x.shape[time], len(x.shape) - 1 - time)
    of_each = build.reshape(
        _signed(build, node.inputs[1]),
        (1, x.shape[batch], *ones) if time == 0 else (x.shape[batch], 1, *ones),
    )
    turned = build.add("Sub", build.add("Sub", of_each, build.constant(1, np.int64)), steps)
    picked = build.add("Where", build.add("Less", steps, of_each), turned, steps)
    everywhere = build.add("Expand", picked, build.constant(x.shape, np.int64))
    return (build.add("GatherElements", node.inputs[0], everywhere, axis=time),)


REWRITES = {
    "Compress": _compress,
    "EyeLike": _eye_like,
    "GatherND": _gather_nd,
    "Hardmax": _hard_max,
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
