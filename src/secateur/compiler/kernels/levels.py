"""Between numbers, levels of 8 bits, and quads: `Quantize`, `ToQuads`, and what works on levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.elementwise import carry as same_axes
from secateur.compiler.kernels.elementwise import order, pointwise
from secateur.compiler.kernels.expressions import floating
from secateur.compiler.kernels.nest import Axis, Pointer, Run, each, spread
from secateur.compiler.layout import Cut, Layout

WEIGHT = 8
"""Cost of a quad, in additions."""


def _ends(low: int, high: int, zero: int) -> str:
    return f"{floating(low - zero)}, {floating(high - zero)}, {zero}"


def _quantize(node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    info = np.iinfo(out.dtype.name)
    steps = f"x0 / {floating(node.get('scale'))}"
    return f"({out.c})sec_level1({steps}, {_ends(info.min, info.max, node.get('zero'))})"


def _dequantize(node: Node, _inputs: Sequence[Place | None], _out: Place) -> str:
    return f"((float)x0 - {floating(node.get('zero'))}) * {floating(node.get('scale'))}"


def _quantize_by(_node: Node, _inputs: Sequence[Place | None], out: Place) -> str:
    info = np.iinfo(out.dtype.name)
    ends = ", ".join(f"{floating(end)} - (float)x2" for end in (info.min, info.max))
    return f"({out.c})sec_level1(x0 / x1, {ends}, x2)"


def _dequantize_by(_node: Node, _inputs: Sequence[Place | None], _out: Place) -> str:
    return "((float)x0 - (float)x2) * x1"


def _sum(node: Node, _inputs: Sequence[Place | None], _out: Place) -> str:
    zeros, factors = (", ".join(map(floating, node.get(k))) for k in ("zeros", "factors"))
    ends = _ends(node.get("low"), node.get("high"), node.get("out_zero"))
    return f"sec_quad_sum(x0, x1, (sec_sum){{{{{zeros}}}, {{{factors}}}, {ends}}})"


def _table(_node: Node, inputs: Sequence[Place | None], _out: Place) -> str:
    table = inputs[1]
    assert table is not None
    return f"sec_quad_table(x0, {table.ref})"


def _tables(_node: Node, inputs: Sequence[Place | None], _out: Place) -> Run:
    table = inputs[1]
    assert table is not None
    return Run(f"sec_quad_tables(py, p0, n, {table.ref});", (1, 1))


def _first_alone(node: Node, types: Types) -> list[Carry | None]:
    rank = len(types[node.outputs[0]].shape)
    return [{a: a for a in range(rank)}, *[None] * (len(node.inputs) - 1)]


def _but_channels(node: Node, types: Types) -> list[Carry | None]:
    """Any axis but that of the channels, of which a quad holds four."""
    rank = len(types[node.outputs[0]].shape)
    return [{a: a for a in range(rank) if a != node.get("axis")}, None, None][: len(node.inputs)]


def _as_input(
    _node: Node, _types: Types, layouts: Sequence[Layout | None], _cut: Cut
) -> Sequence[int] | None:
    return layouts[0].order if layouts[0] else None


def _loops(lead: Place, other: Place, axis: int, *, wide: str) -> tuple[list[Axis], list[Axis]]:
    """Return loops over quads and their lanes; pointers: the lead, and the other value.

    Args:
        lead: what is written.
        other: what is read.
        axis: of the channels; it is not cut.
        wide: "lead" or "other": which of them has four channels where the other has a quad.
    """
    rank = len(lead.layout.shape)
    axes, lanes = spread(lead.layout, [(other.layout, {a: a for a in range(rank) if a != axis})])
    first, second = lead.layout.strides[axis], other.layout.strides[axis]
    quads = min(lead.layout.shape[axis], other.layout.shape[axis])
    steps = (4 * first, second) if wide == "lead" else (first, 4 * second)
    axes[axis] = Axis(quads, steps)
    return axes, lanes


def to_quads(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    """Read four channels for each quad; those beyond the last one are 0."""
    x, y, axis = inputs[0], outputs[0], node.get("axis")
    assert x is not None
    body = Body()
    axes, lanes = _loops(y, x, axis, wide="other")
    grid = _grid(body, node, inputs)
    outside = node.get("samples") and x.layout.shape[0] > 1
    if outside:  # the caller's array, which has so many samples
        body.open("for (size_t s = 0; s < f->count; s++)")
        axes[0] = Axis(1, (0, 0))
    begin, write = (
        f"{place.ref} + s * {place.layout.strides[0]}" if outside else place.ref for place in (x, y)
    )
    whole, rest = divmod(x.layout.shape[axis], 4)
    stride = x.layout.strides[axis]
    for first, extent, count in ((0, whole, 4), (whole, 1, rest)):
        if not extent or not count:
            continue
        loops = list(axes)
        loops[axis] = Axis(extent, axes[axis].steps)
        ordered = [*(loops[a] for a in y.layout.order), *lanes]
        ordered = [Axis(a.extent, (a.steps[0], *[a.steps[1]] * count)) for a in ordered]
        sources: list[Pointer | None] = [
            Pointer(x.c, f"{begin} + {(4 * first + k) * stride}L") for k in range(count)
        ]
        target = Pointer(y.c, f"{write} + {first * y.layout.strides[axis]}L")
        four = ", ".join([*(f"x{k}" for k in range(count)), *["0.0f"] * (4 - count)])
        side = Run(f"sec_quads_of(py, p0, n, {grid});", (1, 4)) if stride == 1 else None
        run = side if count == 4 else None
        each(body, ordered, target, sources, f"sec_quad_of({four}, {grid})", weight=WEIGHT, run=run)
    if outside:
        body.close()
    return body.text()


def _grid(body: Body, node: Node, inputs: Sequence[Place | None]) -> str:
    """Return C of a `sec_grid`."""
    if len(inputs) == 1:
        ends = _ends(0, 255, node.get("zero"))
        return f"(sec_grid){{{floating(node.get('scale'))}, {ends}}}"
    scale, zero = inputs[1:]
    assert scale is not None
    assert zero is not None
    body.line(f"const float scale = *{scale.ref};")
    body.line(f"const int zero = *{zero.ref};")
    return "(sec_grid){scale, 0.0f - (float)zero, 255.0f - (float)zero, zero}"


def from_quads(
    node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    """Write one of four channels after the other."""
    x, y, axis = inputs[0], outputs[0], node.get("axis")
    assert x is not None
    body = Body()
    axes, lanes = _loops(y, x, axis, wide="lead")
    channels, stride = y.layout.shape[axis], y.layout.strides[axis]
    zero, scale = floating(node.get("zero")), floating(node.get("scale"))
    for k in range(min(4, channels)):
        loops = list(axes)
        loops[axis] = Axis((channels - k + 3) // 4, axes[axis].steps)
        ordered = [*(loops[a] for a in y.layout.order), *lanes]
        target = Pointer(y.c, f"{y.ref} + {k * stride}L")
        text = f"((float)sec_byte1(sec_words(x0), {k}) - {zero}) * {scale}"
        each(body, ordered, target, [Pointer.to(x)], text, weight=2)
    return body.text()


def dynamic_grid(
    _node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step
) -> str:
    """Write scale and zero point of what lies between two ends and 0."""
    high, low = inputs
    assert high is not None
    assert low is not None
    scale, zero = outputs
    body = Body()
    body.open("if (t == 0)")
    body.line(f"const float high = *{high.ref}, low = *{low.ref};")
    body.line("const float least = low < 0 || low != low ? low : 0.0f;")
    body.line("const float range = (high > 0 || high != high ? high : 0.0f) - least;")
    body.line("const float step = range / 255.0f, scale = step == 0 ? 1.0f : step;")
    body.line(f"*{scale.ref} = scale;")
    body.line(f"*{zero.ref} = (uint8_t)sec_level1(-least / scale, 0.0f, 255.0f, 0);")
    body.close()
    return body.text()


def quad_terms(
    _node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step
) -> str:
    """Write what a layer on quads needs to know of its input's scale and zero point.

    Where words hold levels less 128 (see `c/levels.h`), so are offsets for these.
    """
    scale, zero, rows, steps = inputs
    assert scale is not None
    assert zero is not None
    assert rows is not None
    assert steps is not None
    assert steps.constant is not None
    body = Body()
    body.line(f"const float scale = *{scale.ref};")
    body.line(f"const int32_t zero = *{zero.ref};")
    # as bits: they must not be rounded with the weights
    bits = f"(const float *){step.weights.pointer(steps.constant.view(np.int32))}"
    axes = [Axis(steps.layout.shape[0], (1, 1))]
    offsets, factors = map(Pointer.to, outputs)
    each(body, axes, offsets, [Pointer.to(rows)], "x0 * (SEC_MOVED - zero)")
    each(body, axes, factors, [Pointer("float", bits)], "x0 * scale")
    return body.text()


def _plain(node: Node, _types: Types) -> list[Carry | None]:
    return [None] * len(node.inputs)


KERNELS = (
    Kernel(("QuantizeBy",), pointwise(_quantize_by, weight=2), carry=same_axes, order=order),
    Kernel(("DequantizeBy",), pointwise(_dequantize_by, weight=2), carry=same_axes, order=order),
    Kernel(("DynamicGrid",), dynamic_grid, carry=_plain),
    Kernel(("QuadTerms",), quad_terms, carry=_plain),
    Kernel(("Quantize",), pointwise(_quantize, weight=2), carry=same_axes, order=order),
    Kernel(("Dequantize",), pointwise(_dequantize, weight=2), carry=same_axes, order=order),
    Kernel(("QuadAdd",), pointwise(_sum, weight=WEIGHT), carry=same_axes, order=order),
    Kernel(
        ("QuadTable",),
        pointwise(
            _table, lambda shapes, rank: [{a: a for a in range(rank)}, None], WEIGHT, _tables
        ),
        carry=_first_alone,
        order=order,
    ),
    Kernel(("ToQuads",), to_quads, carry=_but_channels, order=_as_input, counts=True),
    Kernel(("FromQuads",), from_quads, carry=_but_channels, order=_as_input),
)
