"""Convolutions and linear layers, sparse and dense: `FusedConv`, `FusedLinear`."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import (
    Body,
    Halo,
    Kernel,
    Machine,
    Place,
    Step,
    Types,
    depthwise,
    packing,
    quad_single,
    single,
    spots,
    tiles,
)
from secateur.compiler.kernels.contracted import Axis, Contraction, describe, is_vector
from secateur.compiler.kernels.elementwise import activation
from secateur.compiler.kernels.spots import Levels, Spots
from secateur.compiler.kernels.windows import spatial_cuts, window, window_halo
from secateur.compiler.layout import PLAIN, Cut, Layout

CHUNK = 16
"""Output channels of a chunk, at least: what threads share. A wide layer has eight chunks."""

WAITING, ROOM = 32, 16
"""As `c/quad_sparse.h` has them: most outputs of a chunk, whose sums wait for each other, and most
vectors of sums of each."""

DEEPEST = 16
"""Words of channels that matrix instructions take at once."""

EVEN = 128
"""Positions of a sample up to which rows are made even: a few products more cost less there than
the branches for an odd one."""


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write the call of the kernel that fits, with all that it needs to know as constants."""
    x, w, b, r = (*inputs, None, None)[:4]
    assert x is not None
    assert w is not None
    assert w.constant is not None
    y = outputs[0]
    c = describe(node, x, w.constant, y, r)
    bias = np.zeros(len(c.weight), np.float32) if b is None else b.constant
    assert bias is not None
    body = Body()
    body.line(f"const float *in = {x.ref};")
    body.line(f"float *out = {y.ref};")
    body.line(f"const float *res = {r.ref if r else '0'};")
    if not step.sparse(node) and depthwise.fits(node, x, w.constant):
        channels = depthwise.write(body, node, w.constant, bias, (x, y, r), step)
    else:
        stored = step.weights.pointer(bias)
        channels = write(body, node, c, stored, y.layout.lanes, step, sums=step.sparse(node))
    if fill := step.fill(*channels):
        body.line(fill)
    return body.text()


def write(
    body: Body,
    node: Node,
    c: Contraction,
    bias: str,
    lanes: int,
    step: Step,
    *,
    sums: int = 0,
    levels: Levels | None = None,
    least: int = 1,
) -> tuple[str, str]:
    """Write a contraction of `in`, with the residual `res` or null, to `out`.

    Args:
        bias: C, a pointer to the bias of every output.
        sums: see `Step.sparse`.
        levels: of integers, which are then in scope as `levels`; weights and bias are int32.
        least: outputs that must be done at once.

    Returns:
        C: the channels of a sample that this thread does, from and to.
    """
    outer, inner = c.axes[:-3], c.axes[-3:]
    z, high, wide = (Axis(1, 0, 0, 0),) * (3 - len(inner)) + inner
    body.line(_shape(node, (z, high, wide), c))
    names = [f"n{k}" for k in range(len(outer))]
    act, plane = activation(node), (high, wide)
    if sums:
        call = _sparse(body, c, bias, plane, lanes, step, sums, levels, act)
        channels = (
            "(long)sec_share(w.chunks, t, T) * w.chunk",
            f"SEC_LEAST((long)sec_share(w.chunks, t + 1, T) * w.chunk, {len(c.weight)})",
        )
    else:
        call, channels = _dense(body, c, bias, plane, lanes, step, levels, least, act)
    opened = body.loops([a.count for a in outer], names, shared=False)
    moved = [
        pointer
        + "".join(f" + {n} * {getattr(a, which)}" for n, a in zip(names, outer, strict=True))
        for pointer, which in (("in", "input"), ("out", "output"), ("res", "residual"))
    ]
    if not c.res_channel:
        moved[2] = "res"
    body.line(call.format(*moved))
    body.close(opened)
    return channels


def _shape(node: Node, positions: Sequence[Axis], c: Contraction) -> str:
    def three(which: str) -> str:
        return "{" + ", ".join(str(getattr(a, which)) for a in positions) + "}"

    return (
        f"const sec_shape g = {{{three('count')}, {three('input')}, {three('output')}, "
        f"{three('residual')}, {c.out_channel}, {c.res_channel}, {activation(node)}}}; (void)g;"
    )


def _sparse(
    body: Body,
    c: Contraction,
    bias: str,
    plane: tuple[Axis, Axis],
    lanes: int,
    step: Step,
    sums: int,
    levels: Levels | None,
    act: str,
) -> str:
    outputs, width, taps = c.weight.shape
    words = levels is not None
    # the same blocks for every program of an artifact: they share the weights
    blocks = packing.blocks_of(width * c.groups, taps, _channels_a_block(taps, c.positions))
    most = WAITING if words else 4 * CHUNK
    chunk = min(most, max(CHUNK, outputs // 8 // CHUNK * CHUNK))
    even = c.positions <= EVEN
    s = packing.sparse(c.weight, c.groups, blocks, chunk, even=even)
    if blocks.parts > 1:
        span = blocks.taps_a_part
        offsets = [
            channel * c.channel + (c.taps[k] if k < taps else 0)
            for channel in range(width * c.groups)
            for part in range(blocks.parts)
            for k in range(part * span, (part + 1) * span)
        ]
        in_block, stride = 0, span
    else:
        offsets = [k * c.channel + tap for k in range(blocks.channels) for tap in c.taps]
        in_block, stride = blocks.channels * c.channel, 0
    low = min(offsets)
    p = step.weights.pointer

    def layer(offset: str, places: str, unit: int, biases: str) -> str:
        return (
            f"const sec_sparse w = {{{blocks.count}, {s.chunks}, {chunk}, {in_block}, {stride}, "
            f"{p(s.start)}, {p(s.rows)}, {p(s.codes)}, (const float *){p(s.values)}, "
            f"(const float *){biases}, "
            f"{offset}, {places}, {unit}, {even:d}, {outputs}}};"
        )

    # while an engine is made there is nothing that a network computes
    early = "0" if words else bias
    # equal numbers may lie elsewhere
    key = " ".join(p(part) for part in (s.start, s.rows, s.codes, s.values))
    alone = lanes == 1 and not words and is_vector(c)
    if alone and (form := single.form(c.weight, step.machine)):
        counts = f"{width}, {outputs}, {form.steps}"
        if form.name == "blocked":
            counts = f"{len(form.begin) - 1}, {form.steps}, {p(form.begin)}"
        size = f"(sec_{form.name}){{{counts}}}"
        body.line(layer("0", "0", 0, bias))
        body.line(f"const sec_{form.name} s = {size};")
        at = step.weights.prepare(
            f"{form.name} {key}",
            form.bytes,
            f"{layer('0', '0', 0, early)} "
            f"sec_{form.name}_prepare(&w, {size}, {blocks.channels}, to);",
        )
        name = spots.single(step, form.name, act, residual=c.residual)
        return f"{name}(s, f->prepared + {at}, w.bias, {{}}, {{}}, {{}}, t, T);"
    if lanes == 1 and words and is_vector(c):
        stored = f"{layer('0', '0', 0, early)} ", blocks.channels
        return _lines(body, c, bias, step, stored, f"lines {key}")
    table = _table("int32_t", "offset", [4 * (o - low) for o in offsets])
    body.line(table)
    if low:
        body.line(f"in += {low};")
    if lanes == 1:
        body.line(layer("offset", "0", 0, bias))
        if words:
            return f"sec_quad_sparse_plain(&w, &levels, &g, {{}}, {{}}, {{}}, {outputs}, t, T);"
        return "sec_sparse_plain(&w, &g, {}, {}, {}, t, T);"
    tile = tiles.sparse(plane[0].count, plane[1].count, min(sums, ROOM) if words else sums)
    reach = 4 * (max(offsets) - low)
    # loads of few sums are many: x86 scales an index by 8 for nothing
    unit = 8 if tile.high * tile.wide <= 8 and reach < 8 * 2**16 else 4 * lanes
    if reach < unit * 2**16:
        at = step.weights.prepare(
            f"{key} {unit} {table}",
            2 * len(s.codes),
            f"{table} {layer('offset', '0', unit, early)} sec_look_up(&w, (uint16_t *)to);",
        )
        body.line(layer("offset", f"(const uint16_t *)(f->prepared + {at})", unit, bias))
    else:
        unit = 0
        body.line(layer("offset", "0", 0, bias))
    apart = c.groups > 1 and outputs // c.groups <= chunk
    spot = Spots(plane, (tile.high, tile.wide), act, c.residual, levels)
    spot.sparse(
        body,
        step,
        counts=(blocks.count, s.chunks, chunk, in_block, stride),
        channels=(c.out_channel, c.res_channel),
        unit=unit,
        even=even,
        outputs=outputs,
    )
    return (
        f"sec_sparse_layer(&w, {'&levels' if words else '0'}, &g, {{}}, {{}}, {{}}, t, T, spots, "
        f"{tile.high}, {tile.wide}, {apart:d});"
    )


def _lines(
    body: Body,
    c: Contraction,
    bias: str,
    step: Step,
    stored: tuple[str, int],
    key: str,
) -> str:
    """Write a layer on quads at a single position; return its call.

    Args:
        stored: C that declares the stored layer, and its inputs a block.
        key: of the prepared form.
    """
    read, p = quad_single.lines(c.weight), step.weights.pointer
    of = f"(sec_quad_blocked){{{len(c.weight)}, {p(read.first)}, {p(read.index)}}}"
    declared, channels = stored
    prepared = f"{declared}sec_quad_blocked_prepare(&w, {of}, {channels}, to);"
    at = step.weights.prepare(key, read.bytes, prepared)
    body.line(f"const sec_quad_blocked lines = {of};")
    return (
        f"sec_quad_blocked_layer(lines, f->prepared + {at}, (const int32_t *){bias}, &levels, "
        "&g, {}, {}, {}, t, T);"
    )


def _dense(
    body: Body,
    c: Contraction,
    bias: str,
    plane: tuple[Axis, Axis],
    lanes: int,
    step: Step,
    levels: Levels | None,
    least: int,
    act: str,
) -> tuple[str, tuple[str, str]]:
    outputs, width, taps = c.weight.shape
    mine = outputs // c.groups
    high, wide = (a.count for a in plane)
    together, tile = tiles.dense(high, wide, mine, step.machine, least=least)
    places = -(-high // tile.high) * -(-wide // tile.wide)
    words = levels is not None
    deep = matrix_depth(c, lanes, step.machine) if words else 0
    heavy = places > 1 and 4 * c.weight.size > tiles.SECOND
    # sums of words wait nowhere, so a tile reads all channels, and only a matrix reads them so fast
    heavy = heavy and (not words or deep > 0)
    if heavy:  # weights of some outputs at a time, for all positions
        a_block = max(1, tiles.CACHE // (64 * taps))
    else:
        halo = 2 if taps > 1 else 0
        reads = (tile.high + halo) * (tile.wide + halo) * lanes * 4
        a_block = max(1, min(width, tiles.CACHE // 2 // reads))
    body.line(_table("int32_t", "offset", [4 * o for o in c.taps]))
    if words:
        a_block = max(1, width)  # sums have no place to wait in
    p = step.weights.pointer
    kept = [f"(const float *){a}" for a in (p(packing.dense(c.weight, c.groups)), bias)]
    body.line(
        f"const sec_dense w = {{{mine}, {c.groups}, {width}, {taps}, {a_block}, {c.channel}, "
        f"{', '.join(kept)}, offset, {'&levels' if words else '0'}}};"
    )
    if lanes == 1:
        a_group = -(-mine // 16)
        unit, name = 16, "sec_quad_plain" if words else "sec_dense_plain"
        if is_vector(c) and not words:
            name = spots.vector(step, act, residual=c.residual)
        call = f"{name}(&w, &g, {{}}, {{}}, {{}}, t, T);"
    elif deep:
        lines = 2 if mine % 32 == 0 else 1
        unit = 16 * lines
        a_group = mine // unit
        at = step.weights.prepare(
            f"matrix {deep} {mine} {width} {taps} {kept[0]}",
            4 * c.weight.size,
            f"const sec_dense w = {{{mine}, 1, {width}, {taps}, 0, 0, {kept[0]}}}; "
            f"sec_matrix_prepare(&w, {deep}, to);",
        )
        form = f"(sec_matrix){{{{{deep}, {lines}, {heavy:d}}}}}"
        call = f"sec_matrix_layer(&w, &g, {form}, f->prepared + {at}, {{}}, {{}}, {{}}, t, T);"
    else:
        a_group, unit = -(-mine // together), together
        shape = f"{together}, {tile.high}, {tile.wide}, {heavy:d}"
        spot = Spots(plane, (tile.high, tile.wide), act, c.residual, levels)
        spot.dense(body, step, together, groups=c.groups > 1, taps=c.taps)
        call = f"sec_dense_layer(&w, &g, {{}}, {{}}, {{}}, t, T, spots, {shape});"
    bounds = []
    for share in ("t", "t + 1"):
        q = f"sec_share({c.groups * a_group}, {share}, T)"
        bounds.append(f"{q} / {a_group} * {mine} + SEC_LEAST({q} % {a_group} * {unit}, {mine})")
    return call, (bounds[0], bounds[1])


def matrix_depth(c: Contraction, lanes: int, machine: Machine) -> int:
    """Return how many words of channels `c/matrix.h` takes at once; 0 where it does not fit."""
    outputs, width, _ = c.weight.shape
    if not machine.matrix or lanes != 16 or c.groups > 1 or outputs % 16:
        return 0
    deep = next(d for d in range(min(DEEPEST, width), 0, -1) if width % d == 0)
    return deep if deep > 4 else 0  # with fewer vectors are as fast


def _channels_a_block(taps: int, positions: int) -> int:
    """Return how many channels a block should have.

    As many as fit the cache, for a tile of 4 x 4 vectors of 16 floats; without limit where one
    sample has so few positions that a tile in the lanes of a single sample is one vector, because
    short rows cost more than the cache then gains.
    """
    if positions <= 16:
        return packing.CODES
    if taps == 1:  # a row of few non-zeros costs more than leaving the first-level cache
        return 192
    high = 4 + isqrt(taps) - 1
    return max(1, tiles.CACHE // (high * high * 64))


def _table(kind: str, name: str, values: Sequence[int]) -> str:
    return f"static const {kind} {name}[] = {{{', '.join(map(str, values))}}};"


def conv_cuts(
    node: Node, types: Types, cuts: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Samples in the lanes, or the plane of one image over them; weights are packed by `emit`."""
    wanted, out = spatial_cuts(
        node, types, cuts[0], machine, batch, types[node.inputs[1]].shape[2:]
    )
    return _with_residual(node, wanted, out), [out]


def linear_cuts(
    node: Node, types: Types, cuts: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Keep a cut that leaves the features whole; else cut the axis with the most positions."""
    shape = types[node.inputs[0]].shape
    whole = set(range(len(shape) - 1))
    cut = cuts[0]
    if not cut.axes or not cut.within(whole):
        positions = max(whole, key=lambda a: shape[a], default=None)
        cut = PLAIN
        if positions is not None and shape[positions] >= machine.lanes // 2 and not batch:
            block = -(-shape[positions] // machine.lanes)
            cut = Cut.of({positions: (-(-shape[positions] // block), block)})
    return _with_residual(node, cut, cut), [cut]


def _with_residual(node: Node, wanted: Cut, out: Cut) -> list[Cut | None]:
    cuts: list[Cut | None] = [wanted, PLAIN, PLAIN, out]
    return cuts[: len(node.inputs)]


def conv_halo(
    node: Node, types: Types, cuts: Sequence[Cut], outs: Sequence[Cut]
) -> list[Halo | None]:
    """The rows that the window reaches beyond the blocks."""
    win = window(node, types[node.inputs[1]].shape[2:])
    return [window_halo(win, types, node, cuts[0], outs[0], 0.0)]


def linear_order(
    _node: Node, types: Types, layouts: Sequence[Layout | None], cut: Cut
) -> Sequence[int] | None:
    """Features outermost: the vectors of one feature lie side by side."""
    x = layouts[0]
    if x is None or not cut.axes:
        return None
    last = len(x.shape) - 1
    return [last, *(a for a in x.order if a != last)]


KERNELS = (
    Kernel(ops=("FusedConv",), emit=emit, cuts=conv_cuts, halo=conv_halo, fills=True),
    Kernel(ops=("FusedLinear",), emit=emit, cuts=linear_cuts, order=linear_order, fills=True),
)
