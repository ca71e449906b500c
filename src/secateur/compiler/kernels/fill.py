"""Halos: the rows around a value's blocks, from the neighbouring lanes or from the padding.

`Fill` is an operator of the plan: it completes its input in place. Kernels that share their work by
output channel call the same C for their own channels, which saves a barrier.
"""

from __future__ import annotations

from collections.abc import Sequence

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Halo, Kernel, Place, Step
from secateur.compiler.kernels.elementwise import floating
from secateur.compiler.layout import Layout


def call(step: Step, ref: str, place: Place, padding: float, first: str, end: str) -> str:
    """Return C that fills the halo of channels `first`..`end` of a value.

    Args:
        step: that is being written.
        ref: pointer to its first element.
        place: of float32 or quads, [samples, channels, up to three spatial axes].
        padding: what lies beyond the edge.
        first, end: C expressions, channels of one sample.
    """
    layout = place.layout
    rank = len(layout.shape)
    spatial = [_axis(layout, a) for a in range(2, rank)]
    z, y, x = ["(sec_axis){1, 1, 1, 0, 0, 0, 1}"] * (3 - len(spatial)) + spatial
    samples, stride = layout.blocks[0], layout.strides[0]
    base = f"(float *){ref} + n * {stride}L" if samples > 1 else f"(float *){ref}"
    if place.dtype.kind == "f":
        value = floating(padding)
    else:
        value = f"sec_bits(sec_words({int(padding)}u))"
    loop = f"for (long n = 0; n < {samples}; n++) " if samples > 1 else ""
    if layout.lanes == 1:
        name, rest = "sec_fill_plain", f", {z}, {y}, {x}, {value}"
    else:  # one function for planes of one kind: see `spots`
        arguments = "(float *base, long from, long to, long channel)"
        body = f"sec_fill(base, from, to, channel, {z}, {y}, {x}, {value});"
        name, rest = step.function("fill", f"{arguments} {{\n  {body}\n}}"), ""
    return f"{loop}{name}({base}, {first}, {end}, {layout.strides[1]}{rest});"


def _axis(layout: Layout, axis: int) -> str:
    fields = (
        layout.shape[axis],
        layout.grid[axis],
        layout.blocks[axis],
        layout.before[axis],
        layout.after[axis],
        layout.strides[axis],
        layout.lane_strides[axis],
    )
    return f"(sec_axis){{{', '.join(map(str, fields))}}}"


def emit(node: Node, inputs: Sequence[Place | None], _outputs: Sequence[Place], step: Step) -> str:
    """Fill the whole value, its channels shared among the threads."""
    place = inputs[0]
    assert place is not None
    channels = place.layout.blocks[1]
    halo = node.attributes["padding"]
    first, end = (f"sec_share({channels}, {share}, T)" for share in ("t", "t + 1"))
    return call(step, place.ref, place, halo, first, end)


def filler(step: Step, place: Place, halo: Halo | None):  # type: ignore[no-untyped-def]
    """Return what `Step.fill` is for a kernel that writes a place: C for a range of channels."""
    if halo is None:
        return lambda _first, _end: ""
    return lambda first, end: call(step, "out", place, halo.padding, first, end)


KERNELS = (Kernel(ops=("Fill",), emit=emit),)
