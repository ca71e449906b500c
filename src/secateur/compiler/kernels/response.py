"""Local response normalization: a window of channels around each, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.elementwise import order
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.nest import Axis, at, merged, shared, spread
from secateur.compiler.ops.normalization import response_window

WIDTH = 64
"""Positions that are summed together."""


def _carry(node: Node, types: Types) -> list[Carry | None]:
    rank = len(types[node.inputs[0]].shape)
    return [{a: a for a in range(rank) if a != 1}]


def _emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step) -> str:
    x, y, body = inputs[0], outputs[0], Body()
    assert x is not None
    if not prod(y.layout.shape):
        return ""
    rank, channels = len(x.layout.shape), x.layout.shape[1]
    axes, lanes = spread(y.layout, [(x.layout, {a: a for a in range(rank)})])
    plane = merged([*(axes[a] for a in y.layout.order if a > 1), *lanes])
    run = plane.pop() if plane else Axis(1, (0, 0))
    loops = [axes[0], axes[1], *plane]
    names = ["n", "c", *(f"k{n}" for n in range(len(plane)))]
    before, after = response_window(node)
    opened = shared(body, [a.extent for a in loops], names, 16 * run.extent)
    source = at(names, [axes[0], Axis(0, (0, 0)), *plane], 1)
    body.line(f"const {x.c} *in = {x.ref} + {source};")
    body.line(f"{y.c} *out = {y.ref} + {at(names, loops, 0)};")
    body.line(f"const long first = c < {before} ? 0 : c - {before};")
    body.line(f"const long last = SEC_LEAST(c + {after}, {channels - 1}L);")
    body.open(f"for (long from = 0; from < {run.extent}; from += {WIDTH})")
    body.line(f"const int count = SEC_LEAST({WIDTH}L, {run.extent}L - from);")
    body.line(f"{x.c} sum[{WIDTH}] = {{0}};")
    element = f"[(from + j)*{run.steps[1]}L + {{}}*{axes[1].steps[1]}L]"
    body.open("for (long k = first; k <= last; k++) for (int j = 0; j < count; j++)")
    body.line(f"const {x.c} v = in{element.format('k')};")
    body.line("sum[j] += v * v;")
    body.close()
    number = [
        literal(value, y.dtype)
        for value in (node.get("alpha", 1e-4) / node.get("size"), node.get("bias", 1.0))
    ]
    body.open("for (int j = 0; j < count; j++)")
    body.line(f"const {x.c} base = {number[1]} + {number[0]} * sum[j];")
    power = _power(node.get("beta", 0.75), y.dtype)
    body.line(f"out[(from + j)*{run.steps[0]}L] = in{element.format('c')} / {power};")
    body.close(2 + opened)
    return body.text()


def _power(beta: float, dtype: np.dtype[np.generic]) -> str:
    """Return C of `base` to a power: roots where that is the usual three quarters, or a half."""
    f = "f" if dtype == np.float32 else ""
    root = f"sqrt{f}(base)"
    if beta == 0.75:
        return f"({root} * sqrt{f}({root}))"
    return {0.5: root, 1.0: "base"}.get(beta, f"pow{f}(base, {literal(beta, dtype)})")


KERNELS = (Kernel(("LRN",), _emit, carry=_carry, order=order),)
