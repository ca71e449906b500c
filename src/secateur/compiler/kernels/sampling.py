"""Values between the pixels of an image: GridSample, all channels of a place together."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Carry, Kernel, Place, Step, Types
from secateur.compiler.kernels.expressions import literal
from secateur.compiler.kernels.nest import shared
from secateur.compiler.ops.sampling import FAR, SHARPNESS, TAPS


def _plain(node: Node, _types: Types) -> list[Carry | None]:
    return [None for _ in node.inputs]


def _emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], _s: Step) -> str:
    x, grid = inputs
    y, body = outputs[0], Body()
    assert x is not None
    assert grid is not None
    if not prod(y.layout.shape):
        return ""
    taps, channels = TAPS[node.get("mode", "linear")], x.layout.shape[1]
    rank = len(x.layout.shape) - 2
    names = ["n", *(f"o{k}" for k in range(rank))]
    extents = [y.layout.shape[0], *y.layout.shape[2:]]
    body.line(f"const {x.c} *x = {x.ref};")
    body.line(f"const {grid.c} *grid = {grid.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    opened = shared(body, extents, names, 16 + channels * taps**rank)
    for k in range(rank):
        _axis(body, node, x, grid, names, k)
    body.open(f"for (long c = 0; c < {channels}; c++)")
    body.line(f"{y.c} sum = 0;")
    for k in range(rank):
        body.open(f"for (int i{k} = 0; i{k} < {taps}; i{k}++)")
    where = " + ".join(f"at{k}[i{k}]" for k in range(rank))
    there = " & ".join(f"in{k}[i{k}]" for k in range(rank))
    weight = " * ".join(f"w{k}[i{k}]" for k in range(rank))
    source = x.at(["n", "c", *("0",) * rank])
    body.line(f"sum += ({there} ? x[{source} + {where}] : 0) * ({weight});")
    body.close(rank)
    body.line(f"y[{y.at(['n', 'c', *names[1:]])}] = sum;")
    body.close(1 + opened)
    return body.text()


def _axis(body: Body, node: Node, x: Place, grid: Place, names: Sequence[str], axis: int) -> None:
    """Write which pixels along an axis a place is made of, at what offsets, by what weights."""
    taps, align = TAPS[node.get("mode", "linear")], bool(node.get("align_corners", 0))
    rank, padding = len(names) - 1, node.get("padding_mode", "zeros")
    extent, stride = x.layout.shape[2 + axis], x.layout.strides[2 + axis]
    kind, f = grid.c, "f" if grid.c == "float" else ""

    def number(value: float) -> str:
        return literal(value, grid.dtype)

    seen = f"grid[{grid.at([*names, str(rank - 1 - axis)])}]"
    place = (
        f"({seen} + {number(1)}) / {number(2)} * {number(extent - 1)}"
        if align
        else f"(({seen} + {number(1)}) * {number(extent)} - {number(1)}) / {number(2)}"
    )
    k = axis
    body.line(f"const {kind} place{k} = {place};")
    rounding = f"rint{f}" if taps == 1 else f"floor{f}"
    body.line(f"const {kind} base{k} = {rounding}(place{k}), d{k} = place{k} - base{k};")
    far = number(FAR)
    near = f"fabs{f}(base{k}) < {far} ? (long)base{k} : -(long){far}"
    body.line(f"const long first{k} = ({near}) - {int(taps == 4)}; (void)d{k};")
    weights = ", ".join(f"({x.c})({text})" for text in _weights(f"d{k}", taps, number))
    body.line(f"const {x.c} w{k}[{taps}] = {{{weights}}};")
    body.line(f"long at{k}[{taps}]; int in{k}[{taps}];")
    body.open(f"for (int i = 0; i < {taps}; i++)")
    body.line(f"long p = first{k} + i;")
    zeros = padding == "zeros"
    body.line(f"in{k}[i] = {f'p >= 0 && p < {extent}' if zeros else '1'};")
    if padding == "reflection":
        turn = max(2 * (extent - 1), 1) if align else 2 * extent
        body.line(f"p = (p % {turn}L + {turn}L) % {turn}L;")
        body.line(f"p = p < {extent} ? p : {turn - (not align)}L - p;")
    body.line(f"at{k}[i] = SEC_LEAST(p < 0 ? 0 : p, {extent - 1}L) * {stride}L;")
    body.close()


def _weights(d: str, taps: int, number: object) -> list[str]:
    """Return the weight of each pixel, as `ops.sampling` has it."""
    assert callable(number)
    if taps == 1:
        return ["1"]
    if taps == 2:
        return [f"{number(1)} - {d}", d]
    a = SHARPNESS

    def outer(t: str) -> str:
        return (
            f"(({number(a)} * ({t}) - {number(5 * a)}) * ({t}) + {number(8 * a)}) * ({t}) - "
            f"{number(4 * a)}"
        )

    def inner(t: str) -> str:
        return f"({number(a + 2)} * ({t}) - {number(a + 3)}) * ({t}) * ({t}) + {number(1)}"

    one, two = number(1), number(2)
    return [outer(f"{d} + {one}"), inner(d), inner(f"{one} - {d}"), outer(f"{two} - {d}")]


KERNELS = (Kernel(("GridSample",), _emit, carry=_plain),)
