"""Pooling over windows, and over whole planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Halo, Kernel, Machine, Place, Step, Types, lane, windows
from secateur.compiler.kernels.elementwise import floating
from secateur.compiler.layout import PLAIN, Cut, Layout, packed
from secateur.compiler.ops import convolution, pooling

GLOBAL = ("GlobalAveragePool", "GlobalMaxPool")

WORDS = ("QuadAveragePool", "QuadMaxPool")
"""Pools of quads."""


def _window(node: Node, spatial: Sequence[int]) -> convolution.Window:
    """Return the window of any pooling node; that of a global one is the plane."""
    if node.op in GLOBAL:
        ones, none = (1,) * len(spatial), (0,) * len(spatial)
        return convolution.Window(tuple(spatial), ones, ones, none, none, ones)
    return pooling.pool_window(node, tuple(spatial))


def everything(form: convolution.Window, spatial: Sequence[int]) -> bool:
    """Whether there is one window, which sees all of the plane."""
    counts = pooling.tap_counts(form, tuple(spatial), padding=False)
    return all(c.tolist() == [n] for c, n in zip(counts, spatial, strict=True))


def _explicit(node: Node, form: convolution.Window) -> Node:
    """Return the node with the pads that it comes to."""
    pads = {"pads": form.before + form.after, "strides": form.strides, "dilations": form.dilations}
    return replace(node, attributes={**node.attributes, **pads})


def _largest(node: Node) -> bool:
    return node.op in ("MaxPool", "GlobalMaxPool", "QuadMaxPool")


def _kind(node: Node) -> str:
    """Return what `pooling.h` is to do."""
    return "SEC_LARGEST_BYTES" if node.op == "QuadMaxPool" else str(int(_largest(node)))


def _vectors(node: Node, dtype: np.dtype[Any]) -> bool:
    """Whether values can lie in lanes as vectors of 32 bits."""
    return dtype == np.float32 or node.op in WORDS


def cuts(
    node: Node, types: Types, given: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Keep samples in the lanes, or cut the plane; a pool of all of it takes any cut of it."""
    x, cut = types[node.inputs[0]], given[0]
    form = _window(node, x.shape[2:])
    if not _vectors(node, x.dtype):
        cut = cut if cut.within({0, 1}) else PLAIN
        return [cut], [cut]
    if everything(form, x.shape[2:]):
        if cut.within({0, 1}):
            return [cut], [cut]
        if node.op == "QuadMaxPool":
            return [PLAIN], [PLAIN]
        return [cut if cut.within(set(range(2, len(x.shape)))) else PLAIN], [PLAIN]
    node = _explicit(node, form)
    wanted, out = windows.spatial_cuts(node, types, cut, machine, batch, form.kernel)
    return [wanted], [out]


def halo(node: Node, types: Types, given: Sequence[Cut], outs: Sequence[Cut]) -> list[Halo | None]:
    """Where the plane is cut: rows of the neighbours. Else windows are clipped at the border."""
    x, spatial = types[node.inputs[0]], types[node.inputs[0]].shape[2:]
    form = _window(node, spatial)
    vectors = _vectors(node, x.dtype)
    if not vectors or given[0].within({0, 1}) or everything(form, spatial):
        return [None]
    node = _explicit(node, form)
    padding = float("-inf") if _largest(node) and node.op != "QuadMaxPool" else 0.0
    found = windows.window_halo(
        windows.window(node, form.kernel), types, node, given[0], outs[0], padding
    )
    full = pooling.tap_counts(form, spatial, padding=False)
    inside = all((count == k).all() for count, k in zip(full, form.kernel, strict=True))
    if found and inside and not any(found.before) and not any(found.after):
        return [None]  # only outputs that nobody wants see what fills the blocks
    return [found]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write loops over rows of windows, or over whole channels."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    spatial = x.layout.shape[2:]
    form = _window(node, spatial)
    divisors = np.ones((1,) * len(spatial))
    if node.op == "AveragePool":
        divisors = pooling.pool_divisors(node, form, spatial)
    elif node.op == "GlobalAveragePool":
        divisors = divisors * prod(spatial)
    if _vectors(node, x.dtype) and x.layout.lanes > 1:
        whole = everything(form, spatial)
        return (_whole if whole else _rows)(node, x, y, form, divisors, step)
    return _elements(node, x, y, form, divisors)


def pool_axes(rows: Sequence[Sequence[Any]]) -> str:
    """Return the arguments z, y, x; axes that there are not have one position."""
    rest = [(1, 1, 1, 1, 0, 0, 0, 0, 0)] * (3 - len(rows))
    return ", ".join(f"(sec_pool_axis){{{', '.join(map(str, r))}}}" for r in (*rest, *rows))


def _rows(
    node: Node, x: Place, y: Place, form: convolution.Window, divisors: np.ndarray, step: Step
) -> str:
    rank = len(form.kernel)
    clipped = x.layout.cut.within({0, 1})
    table, strides, lanes = _factors(divisors, y.layout, clipped, step)
    axes = pool_axes([
        (
            y.layout.blocks[2 + k], form.kernel[k], form.strides[k], form.dilations[k],
            x.layout.shape[2 + k] if clipped else 0, form.before[k],
            x.layout.strides[2 + k], y.layout.strides[2 + k], strides[k],
        )
        for k in range(rank)
    ])  # fmt: skip
    names = ["n", "c", *["z", "y", "x"][3 - rank :]]
    body = Body()
    body.line(f"const float *in = (const float *){x.ref};")
    body.line(f"float *out = (float *){y.ref};")
    opened = body.loops(y.layout.blocks[:-1], names[:-1])
    index = ["n", "c", *("0",) * rank]
    factor = floating(float(np.float32(1 / divisors.flat[0])))
    body.line(
        f"sec_pool_row(in + {x.at(index)}, out + {y.at(index)}, {table}, "
        f"{'z' if rank > 2 else 0}, {'y' if rank > 1 else 0}, {axes}, "
        f"{factor}, {lanes}, {_kind(node)});"
    )
    body.close(opened)
    return body.text()


def _factors(
    divisors: np.ndarray, layout: Layout, same: bool, step: Step
) -> tuple[str, tuple[int, ...], int]:
    """Return a pointer to 1 / divisor by position, its strides, and how many lanes it has."""
    rank = divisors.ndim
    if (divisors == divisors.flat[0]).all():
        return "0", (0,) * rank, 1
    where = {2 + k: k for k in range(rank)}
    cut = PLAIN if same else layout.cut.moved(where)
    shape = np.broadcast_shapes(divisors.shape, layout.shape[2:])
    plane = packed(shape, cut, lanes=layout.lanes, order=range(rank))
    values = np.zeros(plane.elements, np.float32)
    values[plane.positions()] = np.broadcast_to(1 / divisors, shape)
    return _exact(values, step), plane.strides, plane.lanes


def _exact(values: np.ndarray, step: Step) -> str:
    """Store floats that must not be rounded with the weights: as bits. Return a pointer."""
    return f"(const float *){step.weights.pointer(values.view(np.int32))}"


def _whole(
    node: Node, x: Place, y: Place, form: convolution.Window, divisors: np.ndarray, step: Step
) -> str:
    rank, blocks = len(form.kernel), x.layout.blocks
    real = "0"
    if y.layout.lanes == 1 and (mask := real_mask(x.layout)) is not None:
        real = step.weights.pointer(mask)
    axes = pool_axes(
        [(blocks[2 + k], 1, 1, 1, 0, 0, x.layout.strides[2 + k], 0, 0) for k in range(rank)]
    )
    largest = _kind(node)
    body = Body()
    body.line(f"const float *in = (const float *){x.ref};")
    body.line(f"float *out = (float *){y.ref};")
    opened = body.loops(blocks[:2], ["n", "c"])
    index = ["n", "c", *("0",) * rank]
    body.line(f"const vec r = sec_pool_all(in + {x.at(index)}, {real}, {axes}, {largest});")
    factor = floating(float(np.float32(1 / divisors.flat[0])))
    times = f" * {factor}" if not _largest(node) else ""
    if y.layout.lanes == 1:
        body.line(f"out[{y.at(index)}] = sec_across(r, {largest}){times};")
    else:
        body.line(f"*(vec *)(out + {y.at(index)}) = r{times};")
    body.close(opened)
    return body.text()


def real_mask(layout: Layout) -> np.ndarray | None:
    """Return by position and lane whether there is an element (-1, else 0); None if everywhere."""
    where = {a: a - 2 for a in range(2, len(layout.shape))}
    blocks = layout.blocks[2:]
    strides = [layout.lanes * prod(blocks[k + 1 :]) for k in range(len(blocks))]
    none = (0,) * len(blocks)
    plane = Layout(
        layout.shape[2:], layout.cut.moved(where), layout.lanes, tuple(strides), none, none
    )
    mask = np.zeros(prod(blocks) * layout.lanes, np.int32)
    mask[plane.positions()] = -1
    return None if mask.all() else mask


def _elements(
    node: Node, x: Place, y: Place, form: convolution.Window, divisors: np.ndarray
) -> str:
    """Element by element, of any type; samples may be in the lanes."""
    rank, spatial = len(form.kernel), x.layout.shape[2:]
    body = Body()
    if not _largest(node) and (divisors != divisors.flat[0]).any():
        table = ", ".join(map(str, np.broadcast_to(divisors, form.outputs).astype(int).flat))
        body.line(f"static const int32_t divisor[] = {{{table}}};")
    else:
        body.line(f"static const int32_t divisor[] = {{{int(divisors.flat[0])}}};")
        divisors = np.ones((1,) * rank)
    names = ["n", "c", *(f"o{k}" for k in range(rank))]
    body.line(f"const {x.c} *in = {x.ref};")
    body.line(f"{y.c} *out = {y.ref};")
    opened = body.loops(y.layout.blocks, names)
    for k in range(rank):
        body.line(f"const long s{k} = {names[2 + k]} * {form.strides[k]} - {form.before[k]};")
    if y.layout.lanes > 1:
        body.lanes(y.layout.lanes)
        opened += 1
    total = y.c if _largest(node) else "double"
    body.line(f"{total} r = {_least(node, y) if _largest(node) else '0'};")
    for k in range(rank):
        body.open(f"for (int k{k} = 0; k{k} < {form.kernel[k]}; k{k}++)")
        body.line(f"const long i{k} = s{k} + k{k} * {form.dilations[k]};")
        body.line(f"if (i{k} < 0 || i{k} >= {spatial[k]}) continue;")
    at = x.at(["n", "c", *(f"i{k}" for k in range(rank))])
    body.line(f"const {x.c} v = in[{at}{lane(x)}];")
    larger = "v > r || v != v" if x.dtype.kind == "f" else "v > r"
    most = "r = sec_larger_bytes1(r, v);" if node.op == "QuadMaxPool" else f"if ({larger}) r = v;"
    body.line(most if _largest(node) else "r += v;")
    body.close(rank)
    flat = "0"
    for name, n in zip(names[2:], divisors.shape, strict=True):
        flat = f"({flat}) * {n} + {name}" if n > 1 else flat
    body.line("(void)divisor;")
    mean = "r" if _largest(node) else f"({y.c})(r / divisor[{flat}])"
    body.line(f"out[{y.at(names)}{lane(y)}] = {mean};")
    body.close(opened)
    return body.text()


def _least(node: Node, place: Place) -> str:
    """Return the least number of a type, in C."""
    if node.op == "QuadMaxPool":
        return "sec_words(0u)"
    if place.dtype.kind == "f":
        return "-INFINITY"
    least = np.iinfo(place.dtype).min
    return str(least) if least > -(2**63) else f"{least + 1}LL - 1"


KERNELS = (
    Kernel(ops=("MaxPool", "AveragePool", "QuadMaxPool", *GLOBAL), emit=emit, cuts=cuts, halo=halo),
)
