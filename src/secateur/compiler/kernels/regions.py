"""Regions of an image brought to a grid: RoiAlign, all channels of a cell together.

The number of an image that there is not counts as the nearest: what is read is then wrong, but
where it may.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.nest import shared
from secateur.compiler.ops.regions import MOST_SAMPLES, Align


def _plain(node: Node, _types: Types) -> list[Carry | None]:
    return [None for _ in node.inputs]


def _align(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step) -> str:
    x, boxes, which = inputs
    y, body, form = outputs[0], Body(), Align.of(node)
    assert x is not None
    assert boxes is not None
    assert which is not None
    if not prod(y.layout.shape):
        return ""
    images, channels = x.layout.shape[:2]
    body.line(f"const {x.c} *x = {x.ref};")
    body.line(f"const {boxes.c} *boxes = {boxes.ref};")
    body.line(f"const {which.c} *which = {which.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    work = 16 + 8 * channels * max(form.samples, 2) ** 2
    opened = shared(body, [y.layout.shape[0], *form.cells], ["r", "i0", "i1"], work)
    body.line(f"const int64_t n = which[{which.at(['r'])}];")
    body.line(f"const {x.c} *image = x + SEC_LEAST(n < 0 ? 0 : n, {images - 1}) * "
              f"{x.layout.strides[0]}L;")  # fmt: skip
    for axis in range(2):
        _region(body, form, x, boxes, axis)
    body.line("int any = 0, beside = 0;")
    body.line(f"{y.c} *cell = y + {y.at(['r', '0', 'i0', 'i1'])};")
    body.line(f"for (long c = 0; c < {channels}; c++) cell[c*{y.layout.strides[1]}L] = 0;")
    for axis in range(2):
        _place(body, x, axis)
    if form.largest:  # beside the image there is 0, once and for all
        body.line("if (!(in0 && in1)) { if (beside) continue; beside = 1; }")
    else:
        body.line("if (!(in0 && in1)) continue;")
    for corner in range(4):
        a, b = divmod(corner, 2)
        body.line(f"const long p{corner} = {'behind' if a else 'before'}0 + "
                  f"{'behind' if b else 'before'}1;")  # fmt: skip
        body.line(f"const {x.c} w{corner} = {'d0' if a else 'e0'} * {'d1' if b else 'e1'};")
    body.open(f"for (long c = 0; c < {channels}; c++)")
    body.line(f"const {x.c} *plane = image + c*{x.layout.strides[1]}L;")
    seen = [f"plane[p{corner}] * w{corner}" for corner in range(4)]
    to = f"cell[c*{y.layout.strides[1]}L]"
    if form.largest:
        for corner, text in enumerate(seen):
            body.line(f"const {x.c} v{corner} = {text};")
        for name, pair in (("upper", "v0, v1"), ("lower", "v2, v3"), ("most", "upper, lower")):
            body.line(f"const {x.c} {name} = SEC_MAXIMUM({pair});")
        body.line(f"{to} = any ? SEC_MAXIMUM({to}, most) : most;")
    else:
        body.line(f"{to} += {' + '.join(seen)};")
    body.close()
    body.line("any = 1;")
    body.close(2)
    if not form.largest:
        body.line(f"const {y.c} share = 1 / ({y.c})(any ? count0 * count1 : 1);")
        body.line(f"if (any) for (long c = 0; c < {channels}; c++) "
                  f"cell[c*{y.layout.strides[1]}L] *= share;")  # fmt: skip
    body.line("(void)any, (void)beside;")
    body.close(opened)
    return body.text()


def _region(body: Body, form: Align, x: Place, boxes: Place, axis: int) -> None:
    """Write where a region begins along an axis, how far apart cells are, and samples of each."""
    kind, f = boxes.c, "f" if boxes.c == "float" else ""

    def number(value: float) -> str:
        return literal(value, boxes.dtype)

    k, cells = axis, form.cells[axis]
    for name, column in (("start", 1 - axis), ("end", 3 - axis)):
        seen = f"boxes[{boxes.at(['r', str(column)])}]"
        body.line(f"const {kind} {name}{k} = {seen} * {number(form.scale)} - {number(form.shift)};")
    size = f"(end{k} - start{k})"
    if form.least is not None:
        size = f"SEC_MAXIMUM({size}, {number(form.least)})"
    body.line(f"const {kind} step{k} = {size} / {number(cells)};")
    if form.samples:
        body.line(f"const long count{k} = {form.samples};")
        return
    body.line(f"const {kind} wanted{k} = ceil{f}(step{k});")
    most = f"wanted{k} < {number(MOST_SAMPLES)} ? (long)wanted{k} : {MOST_SAMPLES}"
    body.line(f"const long count{k} = wanted{k} > 0 ? {most} : 0;")


def _place(body: Body, x: Place, axis: int) -> None:
    """Open the loop over the samples along an axis; write which pixels one is between."""
    k, extent, stride = axis, x.layout.shape[2 + axis], x.layout.strides[2 + axis]
    kind = x.c
    half = literal(0.5, x.dtype)
    body.open(f"for (long q{k} = 0; q{k} < count{k}; q{k}++)")
    body.line(f"const {kind} at{k} = start{k} + ({kind})i{k} * step{k} + "
              f"(({kind})q{k} + {half}) * step{k} / ({kind})count{k};")  # fmt: skip
    body.line(f"const int in{k} = at{k} >= -1 && at{k} <= {extent};")
    inside = f"at{k} < 0 ? 0 : SEC_LEAST(at{k}, ({kind}){extent - 1})"
    body.line(f"const {kind} near{k} = in{k} ? ({inside}) : 0;")
    body.line(f"const long low{k} = (long)near{k};")
    body.line(f"const {kind} d{k} = in{k} ? near{k} - ({kind})low{k} : 0;")
    body.line(f"const {kind} e{k} = in{k} ? 1 - d{k} : 0;")
    body.line(f"const long before{k} = low{k} * {stride}L;")
    body.line(f"const long behind{k} = SEC_LEAST(low{k} + 1, {extent - 1}L) * {stride}L;")


KERNELS = (Kernel(("RoiAlign",), _align, carry=_plain),)
