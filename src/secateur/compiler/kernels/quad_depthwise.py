"""Depthwise convolutions on quads; see `c/quad_depthwise.h`."""

from __future__ import annotations

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Machine, Place, Step
from secateur.compiler.kernels.depthwise import planes


def fits(node: Node, weight: np.ndarray) -> bool:
    """Whether a `QuadConv` is one of these."""
    return bool(node.get("group", 1) == len(weight) > 1 and weight.shape[1] == 1)


def _words(weight: np.ndarray) -> np.ndarray:
    """Return weights, int8 [channels, 1, high, wide], as `sec_quad_windows` has them, int32."""
    channels, _, high, wide = weight.shape
    fours = -(-wide // 4)
    padded = np.zeros((channels, high, 4 * fours), np.int8)
    padded[:, :, :wide] = weight[:, 0]
    quads = padded.reshape(channels // 4, 4, high, fours, 4).transpose(0, 2, 3, 1, 4)
    return np.ascontiguousarray(quads).view("<i4")[..., 0].astype(np.int32)


def _rows(high: int, machine: Machine) -> int:
    """Return how many outputs, one below the other, are done at once: four sums for each."""
    most = 4 if machine.registers >= 32 else 2
    return min(high, most)


def write(
    body: Body,
    node: Node,
    weight: np.ndarray,
    bias: str,
    places: tuple[Place, Place, Place | None],
    step: Step,
) -> tuple[str, str]:
    """Write a layer from `in`, with the residual `res` or null, to `out`; `levels` is in scope.

    Args:
        weight: int8 [channels, 1, ...], one or two spatial axes.
        bias: C, a pointer to the bias of every channel.
        places: input, output, residual.

    Returns:
        C: the quads that this thread does, from and to.
    """
    x, y, _ = places
    plane = planes(node, weight.shape[2:], places)
    quads, (high, wide) = len(weight) // 4, plane.kernel
    body.line(plane.shape)
    p = step.weights.pointer
    packed = _words(weight.reshape(len(weight), 1, high, wide))
    body.line(
        f"const sec_quad_windows w = {{{quads}, {high}, {wide}, {x.layout.strides[1]}, "
        f"{plane.inputs[0]}, {plane.steps[1] * plane.inputs[1]}, {plane.strides[0]}, "
        f"{plane.steps[0]}, {p(packed)}, {bias}, levels}};"
    )
    opened = body.loops(y.layout.blocks[:1], ["n"], shared=False)
    if y.layout.lanes > 1:
        rows = _rows((1, *y.layout.blocks[2:])[-2], step.machine)
        body.line(f"sec_quad_windows_layer(&w, &g, {plane.sample}, t, T, {rows});")
    else:
        body.line(f"sec_quad_windows_plain(&w, &g, {plane.sample}, t, T, {len(weight)});")
    body.close(opened)
    return f"(long)sec_share({quads}, t, T)", f"(long)sec_share({quads}, t + 1, T)"
