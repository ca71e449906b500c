"""Rows placed into a matrix by numbers that are known at run time.

A number outside the matrix counts as the nearest one inside: what it writes is then wrong, but
where it may.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.expressions import wrapped

_MEETINGS = {
    "none": "u",
    "add": "{}v + {}u",
    "mul": "{}v * {}u",
    "max": "SEC_MAXIMUM(v, u)",
    "min": "SEC_MINIMUM(v, u)",
}
"""What becomes of `v` in the data when `u` of the updates is placed there."""


def _plain(node: Node, _types: Types) -> list[Carry | None]:
    return [None for _ in node.inputs]


def _emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _step: Step) -> str:
    """Share the rows of the data: each thread goes through all numbers, in order, for its own."""
    data, indices, updates = inputs
    y, body = outputs[0], Body()
    assert data is not None
    assert indices is not None
    assert updates is not None
    rows, width = y.layout.shape
    if not prod(y.layout.shape):
        return ""
    text = _MEETINGS[node.get("reduction", "none")]
    text = wrapped(y.dtype, text) if "{}" in text else text
    body.line(f"const {y.c} *x = {data.ref};")
    body.line(f"const {indices.c} *index = {indices.ref};")
    body.line(f"const {y.c} *w = {updates.ref}; {y.c} *y = {y.ref}; (void)w; (void)index;")
    body.line(f"const long from = sec_share({rows}, t, T), end = sec_share({rows}, t + 1, T);")
    body.line(
        f"for (long r = from; r < end; r++) for (long c = 0; c < {width}; c++) "
        f"y[{y.at(['r', 'c'])}] = x[{data.at(['r', 'c'])}];"
    )
    body.open(f"for (long m = 0; m < {indices.layout.shape[0]}; m++)")
    body.line(f"const int64_t k = index[{indices.at(['m'])}];")
    body.line(f"const long r = SEC_LEAST(k < 0 ? 0 : k, {rows - 1}L);")
    body.line("if (r < from || r >= end) continue;")
    body.open(f"for (long c = 0; c < {width}; c++)")
    body.line(f"const {y.c} v = y[{y.at(['r', 'c'])}], u = w[{updates.at(['m', 'c'])}]; (void)v;")
    body.line(f"y[{y.at(['r', 'c'])}] = {text};")
    body.close(2)
    return body.text()


KERNELS = (Kernel(("ScatterRows",), _emit, carry=_plain),)
