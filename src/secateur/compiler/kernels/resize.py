"""Resize: every output is a weighted sum of a few inputs along each axis that changes.

Which inputs, and their weights, are tables made here from the formulas of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from secateur.compiler.graph import Node
from secateur.compiler.kernels import Body, Kernel, Machine, Place, Step, Types
from secateur.compiler.kernels.elementwise import floating
from secateur.compiler.layout import PLAIN, Cut
from secateur.compiler.ops import resize
from secateur.compiler.ops.convolution import filled


def _samplings(
    node: Node, shape: Sequence[int], values: Sequence[np.ndarray | None]
) -> dict[int, resize.Sampling]:
    roi, scales, sizes = filled(values, 3)
    return {s.axis: s for s in resize.samplings(node, shape, roi, scales, sizes)}


def _blockwise(s: resize.Sampling, lanes: int, block: int) -> tuple[int, np.ndarray] | None:
    """Return how to resize an axis that is cut over lanes without leaving a lane.

    Returns:
        block of the output, and the input's position within its block for each of the output's;
        None where an output needs another lane's block, or lanes differ.
    """
    outputs, taps = s.indices.shape
    if taps > 1 or s.outside.any() or outputs % lanes:
        return None
    out = outputs // lanes
    position = s.indices[:, 0].reshape(lanes, out) - np.arange(lanes)[:, None] * block
    same = (position == position[0]).all() and position.min() >= 0 and position.max() < block
    return (out, position[0]) if same else None


def cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Keep a cut of axes that stay; of others where each lane's outputs are of its own inputs."""
    x = types[node.inputs[0]]
    changed = _samplings(
        node, x.shape, [types[name].value if name else None for name in node.inputs[1:]]
    )
    out: dict[int, tuple[int, int] | None] = dict(given[0].as_dict())
    for axis in changed.keys() & out.keys():
        local = _blockwise(changed[axis], *given[0].as_dict()[axis])
        out[axis] = (given[0].as_dict()[axis][0], local[0]) if local else None
    whole = {axis: lanes for axis, lanes in out.items() if lanes}
    cut = Cut.of(whole) if len(whole) == len(out) else PLAIN
    rest: list[Cut | None] = [PLAIN] * (len(node.inputs) - 1)
    return [given[0] if cut.axes else PLAIN, *rest], [cut]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write one loop nest over the outputs; the innermost loop is over lanes."""
    x, y = inputs[0], outputs[0]
    assert x is not None
    values = [place.constant if place else None for place in inputs[1:]]
    changed = _samplings(node, x.layout.shape, values)
    rank, lanes = len(y.layout.shape), y.layout.lanes
    names = [f"i{a}" for a in range(rank)]
    weighted = node.get("mode", "nearest") != "nearest"
    body = Body()
    body.line(f"const {x.c} *x = {x.ref};")
    body.line(f"{y.c} *y = {y.ref};")
    for s in changed.values():
        for line in _tables(s, x, weighted, step):
            body.line(line)
    axes = y.layout.order
    opened = body.loops([y.layout.blocks[a] for a in axes], [names[a] for a in axes])
    kept = [
        f"{names[a]} * {x.layout.strides[a]}L"
        for a in range(rank)
        if a not in changed and x.layout.blocks[a] > 1
    ]
    body.line(f"{y.c} *to = y + {y.at(names)};")
    body.line(f"const {x.c} *from = {' + '.join(['x', *kept])};")
    outside = [f"outside{a}[{names[a]}]" for a, s in changed.items() if s.outside.any()]
    if outside:
        value = floating(float(node.get("extrapolation_value", 0.0)))
        body.open(f"if ({' || '.join(outside)})")
        body.line(f"for (int l = 0; l < {lanes}; l++) to[l] = ({y.c}){value};")
        body.line("continue;")
        body.close()
    if weighted:
        _sum(body, x, changed, lanes)
    else:
        for a in changed:
            body.line(f"from += at{a}[{names[a]}];")
        body.line(f"for (int l = 0; l < {lanes}; l++) to[l] = from[l];")
    body.close(opened)
    return body.text()


def _tables(s: resize.Sampling, x: Place, weighted: bool, step: Step) -> list[str]:
    """Return C: `at`, how far each tap of each output is from the first input; its weights."""
    a, indices = s.axis, s.indices
    if x.layout.grid[a] > 1:
        local = _blockwise(s, x.layout.grid[a], x.layout.blocks[a])
        assert local is not None
        indices = local[1]
    offsets = (indices * x.layout.strides[a]).astype(np.int64)
    found = [f"const int64_t *at{a} = {step.weights.pointer(offsets)};"]
    if weighted:  # as bits: however narrow weights are stored, these are not
        bits = s.weights.astype(x.dtype).view(f"int{8 * x.dtype.itemsize}")
        found.append(f"const {x.c} *w{a} = (const {x.c} *){step.weights.pointer(bits)};")
    if s.outside.any():
        found.append(f"const uint8_t *outside{a} = {step.weights.pointer(s.outside)};")
    return found


def _sum(body: Body, x: Place, changed: Mapping[int, resize.Sampling], lanes: int) -> None:
    body.line(f"{x.c} sum[{lanes}] = {{0}};")
    taps = {a: s.indices.shape[1] for a, s in changed.items()}
    for a, n in taps.items():
        body.open(f"for (int k{a} = 0; k{a} < {n}; k{a}++)")
    entries = {a: f"[i{a} * {n} + k{a}]" for a, n in taps.items()}
    where = " + ".join(["from", *(f"at{a}{entry}" for a, entry in entries.items())])
    weight = " * ".join(f"w{a}{entry}" for a, entry in entries.items()) or "1"
    body.line(f"const {x.c} *p = {where}, w = {weight};")
    body.line(f"for (int l = 0; l < {lanes}; l++) sum[l] += w * p[l];")
    body.close(len(taps))
    body.line(f"for (int l = 0; l < {lanes}; l++) to[l] = sum[l];")


KERNELS = (Kernel(ops=("Resize",), emit=emit, cuts=cuts),)
