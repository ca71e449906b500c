"""Convolutions and linear layers on quads: `QuadConv`, `QuadLinear`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    contracted,
    contraction,
    quad_depthwise,
)
from secateur.compiler.kernels.elementwise import floating
from secateur.compiler.kernels.spots import Levels
from secateur.compiler.kernels.windows import spatial_cuts, window, window_halo
from secateur.compiler.layout import PLAIN, Cut
from secateur.compiler.ops.quads import count

EVERY = 0x01010101
"""One in every byte of a quad."""


def words(weight: np.ndarray) -> np.ndarray:
    """Return weights, int8 [outputs, channels, ...], as words [outputs, quads, ...], int32.

    Channels that fill the last quad have weights of 0.
    """
    room = count(weight.shape[1]) * 4 - weight.shape[1]
    padded = np.pad(weight, [(0, 0), (0, room), *[(0, 0)] * (weight.ndim - 2)])
    last = np.ascontiguousarray(np.moveaxis(padded, 1, -1))
    return np.moveaxis(last.view("<i4"), -1, 1).astype(np.int32)


def _biases(weight: np.ndarray, bias: np.ndarray, step: Step) -> str:
    """Return C: a pointer to biases, int32, or to those for levels less 128 (see `c/levels.h`).

    The compiler chooses, since only it knows the instructions; both fit, as `bias` is within what
    `passes/integers.py` allows.
    """
    plain = step.weights.pointer(bias)
    if step.machine.lanes != 4:
        return plain
    total = weight.reshape(len(weight), -1).sum(axis=1, dtype=np.int64)
    moved = step.weights.pointer((bias + 128 * total).astype(np.int32))
    return f"SEC_BIAS({plain}, {moved})"


def _residual(node: Node, r: Place | None, name: str, step: Step) -> str:
    """Return C of the zero point of a residual, or of what it is multiplied with.

    It is stored, as bits, so that layers that differ in nothing else share their code.
    """
    if r is None:
        return floating(0.0)
    number = np.array([node.get(name, 0)], np.float32)
    return f"*(const float *){step.weights.pointer(number.view(np.int32))}"


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write the call of the kernel that fits, with what becomes of its sums."""
    x, w, b, factor, r, more = (*inputs, None, None)[:6]
    assert x is not None
    assert w is not None
    assert b is not None
    assert factor is not None
    y, quads = outputs[0], bool(node.get("quads"))
    weight = w.constant
    assert weight is not None
    least = 4 if quads else 1
    room = -len(weight) % least  # channels that fill the last quad
    weight = np.pad(weight, [(0, room), *[(0, 0)] * (weight.ndim - 1)])
    biases = b.ref  # QuadTerms makes what words need
    if b.constant is not None:
        biases = _biases(weight, np.pad(b.constant, (0, room)), step)
    factors, added = (_kept(place, room, step) for place in (factor, more))
    body = Body()
    body.line(f"const float *in = (const float *){x.ref};")
    body.line(f"float *out = (float *){y.ref};")
    body.line(f"const float *res = {f'(const float *){r.ref}' if r else '0'};")
    zero = node.get("out_zero", 0)
    ends = [floating(node.get(end, 0) - zero) for end in ("low", "high")]
    narrow = step.machine.lanes == 4 and -128 not in weight
    levels = Levels(quads, narrow, more is not None)
    body.line(
        f"const struct sec_levels levels = {{(const float *){factors}, {quads:d}, {narrow:d}, "
        f"{_residual(node, r, 'res_zero', step)}, {_residual(node, r, 'res_factor', step)}, "
        f"{', '.join(ends)}, {zero}, (const float *){added}}};"
    )
    if quad_depthwise.fits(node, weight):
        first, end = quad_depthwise.write(body, node, weight, biases, (x, y, r), step)
    else:
        c = contracted.describe(node, x, words(weight), y, r)
        lanes = y.layout.lanes
        sums = step.sparse(node)
        bounds = contraction.write(
            body, node, c, biases, lanes, step, sums=sums, levels=levels, least=least
        )
        first, end = (f"({bound}) / {least}" for bound in bounds)
    if fill := step.fill(first, end):
        body.line(fill)
    return body.text()


def _kept(place: Place | None, room: int, step: Step) -> str:
    """Return a C pointer to numbers of outputs: constants, as bits, or what the network computes.

    They must not be rounded with the weights.
    """
    if place is None:
        return "0"
    if place.constant is None:
        return place.ref
    return step.weights.pointer(np.pad(place.constant, (0, room)).view(np.int32))


def _with_residual(node: Node, wanted: Cut, out: Cut) -> list[Cut | None]:
    cuts: list[Cut | None] = [wanted, PLAIN, PLAIN, PLAIN, out, PLAIN]
    return cuts[: len(node.inputs)]


def conv_cuts(
    node: Node, types: Types, cuts: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Samples in the lanes, or the plane of one image over them."""
    kernel = types[node.inputs[1]].shape[2:]
    wanted, out = spatial_cuts(node, types, cuts[0], machine, batch, kernel)
    return _with_residual(node, wanted, out), [out]


def linear_cuts(
    node: Node, types: Types, cuts: Sequence[Cut], machine: Machine, batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """As those of a linear layer of floats."""
    plain = replace(node, op="FusedLinear", inputs=node.inputs[:1])
    (wanted, *_), (out,) = contraction.linear_cuts(plain, types, cuts[:1], machine, batch)
    assert wanted is not None
    return _with_residual(node, wanted, out), [out]


def conv_halo(
    node: Node, types: Types, cuts: Sequence[Cut], outs: Sequence[Cut]
) -> list[Halo | None]:
    """The rows that the window reaches beyond the blocks: levels of 0."""
    win = window(node, types[node.inputs[1]].shape[2:])
    padding = float(node.get("zero") * EVERY)
    return [window_halo(win, types, node, cuts[0], outs[0], padding)]


KERNELS = (
    Kernel(ops=("QuadConv",), emit=emit, cuts=conv_cuts, halo=conv_halo, fills=True),
    Kernel(
        ops=("QuadLinear",),
        emit=emit,
        cuts=linear_cuts,
        order=contraction.linear_order,
        fills=True,
    ),
)
