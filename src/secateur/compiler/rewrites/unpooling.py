"""Where the largest number of each window lies, and windows undone by it."""

from __future__ import annotations

from math import prod

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.ops import rules
from secateur.compiler.ops.convolution import Window
from secateur.compiler.ops.pooling import pool_window
from secateur.compiler.rewrites import Builder

Shape = tuple[int, ...]


def _seen(form: Window, extents: Shape, strides: Shape) -> np.ndarray:
    """Return which places each window sees, int64 [windows, taps].

    A place in the padding is that of the first one inside: it is then never the only largest.

    Args:
        form: the window. extents: of the plane. strides: from a place to the next, by axis.
    """
    places = np.zeros((*form.outputs, 1), np.int64)
    inside = np.ones((*form.outputs, 1), bool)
    for axis, extent in enumerate(extents):
        starts = np.arange(form.outputs[axis]) * form.strides[axis] - form.before[axis]
        at = starts[:, None] + np.arange(form.kernel[axis]) * form.dilations[axis]
        shape = [1] * len(extents)
        shape[axis] = form.outputs[axis]
        at = at.reshape(*shape, 1, form.kernel[axis])
        places = (places[..., None] + at * strides[axis]).reshape(*form.outputs, -1)
        inside = (inside[..., None] & (at >= 0) & (at < extent)).reshape(*form.outputs, -1)
    places, inside = (a.reshape(prod(form.outputs), -1) for a in (places, inside))
    first = np.take_along_axis(places, inside.argmax(1)[:, None], 1)
    return np.where(inside, places, first)


def _max_pool(node: Node, build: Builder) -> tuple[str, ...] | None:
    """Which of its places is the largest, the first of equals, of the windows laid side by side."""
    if not any(node.outputs[1:]):
        return None
    rules.arity(node, build.operands(), 1, 1)
    x = rules.operand(node, build.operands(), 0, "X", rules.NUMBERS)
    samples, channels, *rest = x.shape
    extents = tuple(rest)
    form = pool_window(node, extents)
    rows = tuple(prod(extents[k + 1 :]) for k in range(len(extents)))
    columns = tuple(prod(extents[:k]) for k in range(len(extents)))
    seen = _seen(form, extents, rows)
    counted = _seen(form, extents, columns) if node.get("storage_order", 0) else seen
    flat = build.reshape(node.inputs[0], (samples, channels, prod(extents)))
    beside = build.add("Gather", flat, build.constant(seen, np.int64), axis=2)
    which = build.add("ArgMax", beside, axis=3, keepdims=0)
    windows = build.constant(np.arange(len(seen)) * seen.shape[1], np.int64)
    table = build.constant(counted.reshape(-1), np.int64)
    place = build.add("Gather", table, build.add("Add", which, windows), axis=0)
    planes = np.arange(samples * channels).reshape(samples, channels, 1) * prod(extents)
    indices = build.add("Add", place, build.constant(planes, np.int64))
    indices = build.reshape(indices, (samples, channels, *form.outputs))
    largest = build.add("MaxPool", node.inputs[0], **node.attributes)
    return largest, indices


def _max_unpool(node: Node, build: Builder) -> tuple[str, ...]:
    """Zeros, and each number at its place."""
    operands = build.operands()
    rules.arity(node, operands, 2, 3)
    x = rules.operand(node, operands, 0, "X", rules.FLOATS)
    indices = rules.operand(node, operands, 1, "I", rules.INDICES)
    kernel = tuple(node.get("kernel_shape") or ())
    rank = len(x.shape) - 2
    strides, pads = (
        tuple(node.get(name) or default)
        for name, default in (("strides", (1,) * rank), ("pads", (0,) * 2 * rank))
    )
    if rank < 1 or (len(kernel), len(strides), len(pads)) != (rank, rank, 2 * rank):
        raise unsupported(node, f"kernel_shape={kernel} for an input of {len(x.shape)} axes")
    if indices.shape != x.shape:
        raise unsupported(node, f"indices of shape {indices.shape} for an input of {x.shape}")
    shape = (
        *x.shape[:2],
        *(
            (n - 1) * strides[a] - pads[a] - pads[a + rank] + kernel[a]
            for a, n in enumerate(x.shape[2:])
        ),
    )
    if len(operands) > 2 and operands[2] is not None:
        wanted = rules.operand(node, operands, 2, "output_shape", rules.INDICES).value
        if wanted is None or tuple(wanted.tolist()) != shape:
            raise unsupported(
                node,
                f"an output_shape that is not {list(shape)}, as its windows give: runtimes do not "
                "agree on it; pool planes that the strides divide",
            )
    if min(shape[2:]) < 0:
        raise unsupported(node, f"an output of shape {list(shape)}")
    count, places = prod(shape), prod(x.shape)
    nothing = build.constant(0, x.dtype)
    plane = build.add("Expand", nothing, build.constant((count, 1), np.int64))
    result = build.add(
        "ScatterRows",
        plane,
        build.reshape(node.inputs[1], (places,)),
        build.reshape(node.inputs[0], (places, 1)),
        reduction="none",
    )
    return (build.reshape(result, shape),)


REWRITES = {"MaxPool": _max_pool, "MaxUnpool": _max_unpool}
