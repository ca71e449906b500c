"""Means of levels over windows and whole planes: `QuadAveragePool`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Halo, Kernel, Machine, Place, Step, Types, pooling
from secateur.compiler.kernels.elementwise import floating
from secateur.compiler.layout import PLAIN, Cut, Layout, packed
from secateur.compiler.ops.convolution import Window
from secateur.compiler.ops.pooling import pool_window
from secateur.compiler.ops.quads import mean_terms


def cuts(
    node: Node, types: Types, given: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """As those of a pool of floats; words are not cut along the channels."""
    cut = given[0] if not given[0].as_dict().get(1) else PLAIN
    return pooling.cuts(node, types, [cut], machine, batch)


def halo(node: Node, types: Types, given: Sequence[Cut], outs: Sequence[Cut]) -> list[Halo | None]:
    """Levels of 0 around a plane that is cut; each window knows how many there are."""
    return pooling.halo(node, types, given, outs)


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write loops over rows of windows, over whole planes, or over single windows."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    spatial = x.layout.shape[2:]
    form = pool_window(node, spatial)
    terms = mean_terms(node, spatial)
    if x.layout.lanes == 1:
        write = _elements
    else:
        write = _whole if pooling.everything(form, spatial) else _rows
    body = Body()
    body.line(f"const float *in = (const float *){x.ref};")
    body.line(f"float *out = (float *){y.ref};")
    write(body, node, (x, y), form, terms, step)
    return body.text()


def _mean(node: Node, y: Place) -> str:
    """Return C of a `sec_mean` for the word of channels `c`."""
    zero = node.get("out_zero", 0)
    ends = ", ".join(floating(node.get(end, 0) - zero) for end in ("low", "high"))
    left = f"SEC_LEAST(4, {node.get('channels')} - 4 * c)"
    return f"(sec_mean){{{node.get('quads')}, (int){left}, {y.layout.strides[1]}, {ends}, {zero}}}"


def _out(node: Node, y: Place, index: Sequence[str]) -> str:
    """Return C of what begins at a word of channels, or at the first of its four channels."""
    channel = index[1] if node.get("quads") else f"4 * {index[1]}"
    return f"out + {y.at([index[0], channel, *index[2:]])}"


def _loops(body: Body, node: Node, x: Place, y: Place, rest: Sequence[int], names: str) -> int:
    extents = [y.layout.blocks[0], x.layout.blocks[1], *rest]
    return body.loops(extents, ["n", "c", *names])


Terms = tuple[np.ndarray, np.ndarray]


def _rows(
    body: Body, node: Node, places: tuple[Place, Place], form: Window, terms: Terms, step: Step
) -> None:
    x, y = places
    rank = len(form.kernel)
    clipped = x.layout.cut.within({0, 1})
    (offsets, factors), strides, lanes = _tables(terms, y.layout, clipped, step)
    axes = pooling.pool_axes([
        (
            y.layout.blocks[2 + k], form.kernel[k], form.strides[k], form.dilations[k],
            x.layout.shape[2 + k] if clipped else 0, form.before[k],
            x.layout.strides[2 + k], y.layout.strides[2 + k], strides[k],
        )
        for k in range(rank)
    ])  # fmt: skip
    names = "zyx"[3 - rank :]
    opened = _loops(body, node, x, y, y.layout.blocks[2:-1], names[:-1])
    index = ["n", "c", *("0",) * rank]
    body.line(
        f"sec_mean_row(in + {x.at(index)}, {_out(node, y, index)}, {offsets}, {factors}, "
        f"{'z' if rank > 2 else 0}, {'y' if rank > 1 else 0}, {axes}, {lanes}, {_mean(node, y)});"
    )
    body.close(opened)


def _tables(
    terms: Terms, layout: Layout, same: bool, step: Step
) -> tuple[list[str], tuple[int, ...], int]:
    """Return pointers to offsets and factors by position, their strides, and how many lanes."""
    rank = len(layout.shape) - 2
    if all((term == term.flat[0]).all() for term in terms):
        kept = [_kept(term.reshape(-1)[:1], step) for term in terms]
        return kept, (0,) * rank, 1
    where = {2 + k: k for k in range(rank)}
    cut = PLAIN if same else layout.cut.moved(where)
    shape = layout.shape[2:]
    plane = packed(shape, cut, lanes=layout.lanes, order=range(rank))
    kept = []
    for term in terms:
        values = np.zeros(plane.elements, term.dtype)
        values[plane.positions()] = np.broadcast_to(term, shape)
        kept.append(_kept(values, step))
    return kept, plane.strides, plane.lanes


def _kept(values: np.ndarray, step: Step) -> str:
    """Store numbers that must not be rounded with the weights. Return a pointer."""
    pointer = step.weights.pointer(values.view(np.int32))
    return pointer if values.dtype == np.int32 else f"(const float *){pointer}"


def _whole(
    body: Body, node: Node, places: tuple[Place, Place], form: Window, terms: Terms, step: Step
) -> None:
    x, y = places
    rank, blocks = len(form.kernel), x.layout.blocks
    real = "0"
    if y.layout.lanes == 1 and (mask := pooling.real_mask(x.layout)) is not None:
        real = step.weights.pointer(mask)
    axes = pooling.pool_axes(
        [(blocks[2 + k], 1, 1, 1, 0, 0, x.layout.strides[2 + k], 0, 0) for k in range(rank)]
    )
    opened = _loops(body, node, x, y, [], "")
    index = ["n", "c", *("0",) * rank]
    body.line("veci sums[4];")
    body.line(f"sec_mean_all(in + {x.at(index)}, {real}, {axes}, sums);")
    out = _out(node, y, index)
    offset, factor = int(terms[0].flat[0]), floating(float(terms[1].flat[0]))
    if y.layout.lanes == 1:
        body.line("int32_t all[4];")
        body.line("sec_mean_across(sums, all);")
        body.line(f"sec_mean_put1({_mean(node, y)}, all, {offset}, {factor}, {out});")
    else:
        body.line(
            f"sec_mean_put({_mean(node, y)}, sums, sec_word({offset}), sec_all({factor}), {out});"
        )
    body.close(opened)


def _elements(
    body: Body, node: Node, places: tuple[Place, Place], form: Window, terms: Terms, step: Step
) -> None:
    """Window by window, where values do not lie in lanes."""
    x, y = places
    rank, spatial = len(form.kernel), x.layout.shape[2:]
    plain = packed(y.layout.shape)
    (offsets, factors), strides, _ = _tables(terms, plain, True, step)
    body.line(f"const int32_t *offsets = {offsets};")
    body.line(f"const float *factors = {factors};")
    names = [f"o{k}" for k in range(rank)]
    opened = body.loops([y.layout.blocks[0], x.layout.blocks[1], *form.outputs], ["n", "c", *names])
    for k in range(rank):
        body.line(f"const long s{k} = {names[k]} * {form.strides[k]} - {form.before[k]};")
    body.line("int32_t sums[4] = {0};")
    for k in range(rank):
        body.open(f"for (int k{k} = 0; k{k} < {form.kernel[k]}; k{k}++)")
        body.line(f"const long i{k} = s{k} + k{k} * {form.dilations[k]};")
        body.line(f"if (i{k} < 0 || i{k} >= {spatial[k]}) continue;")
    at = x.at(["n", "c", *(f"i{k}" for k in range(rank))])
    body.line("uint32_t word;")
    body.line(f"memcpy(&word, in + {at}, sizeof word);")
    body.line("word = sec_words(word);")
    body.line("for (int k = 0; k < 4; k++) sums[k] += sec_byte1(word, 0), word >>= 8;")
    body.close(rank)
    table = " + ".join(f"{n} * {s}" for n, s in zip(names, strides, strict=True))
    body.line(
        f"sec_mean_put1({_mean(node, y)}, sums, offsets[{table}], factors[{table}], "
        f"{_out(node, y, ['n', 'c', *names])});"
    )
    body.close(opened)


KERNELS = (Kernel(ops=("QuadAveragePool",), emit=emit, cuts=cuts, halo=halo),)
