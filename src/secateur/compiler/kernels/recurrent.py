"""Recurrent layers: RNN, GRU and LSTM over whole sequences, with constant weights.

Samples lie in the lanes, or hidden units of one sample do. A step of time needs all of the one
before, so threads share directions and samples only. Weights of states are sparse where that is
faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.compiler.graph import Node, unsupported
from secateur.compiler.kernels import Body, Kernel, Machine, Place, Step, Types, single
from secateur.compiler.kernels.expressions import floating
from secateur.compiler.layout import PLAIN, Cut
from secateur.compiler.ops import recurrent
from secateur.compiler.ops.convolution import filled

STATES = 6
"""States that `c/recurrent.h` works in."""

AHEAD = 4
"""Steps of a single sample whose inputs it sums at once, of every gate: SEC_AHEAD."""

WIDE = 0.5
"""Share of non-zeros up to which they are skipped, of samples in the lanes."""

NARROW = 0.06, 0.17
"""Cycles a weight of one sample where none is skipped: from a core's own cache, and others."""

OWN = 1 << 20
"""Bytes that a core's own cache is trusted to hold."""

W, R, B, LENGTHS, P = 1, 2, 3, 4, 7
INITIAL = (5, 6)


def _axes(node: Node) -> tuple[int, int, int]:
    """Return the axis of samples of X, of Y and of states."""
    return (0, 0, 0) if node.get("layout", 0) else (1, 2, 1)


def cuts(
    node: Node, types: Types, given: Sequence[Cut], _machine: Machine, _batch: bool
) -> tuple[list[Cut | None], list[Cut]]:
    """Keep samples in the lanes."""
    for index, name in enumerate(node.inputs):
        if name and index in (W, R, B, P) and types[name].value is None:
            raise unsupported(node, f"its input {'XWRB___P'[index]} is not constant")
    if types[node.inputs[0]].dtype != np.float32:
        raise unsupported(node, f"its element type {types[node.inputs[0]].dtype}, not float32")
    x, y, state = _axes(node)
    cut = given[0] if given[0].within({x}) else PLAIN
    wanted: list[Cut | None] = [PLAIN] * len(node.inputs)
    wanted[0] = cut
    for index in INITIAL:
        if index < len(wanted):
            wanted[index] = cut.moved({x: state})
    if len(wanted) > LENGTHS:
        wanted[LENGTHS] = cut.moved({x: 0})
    outs = [cut.moved({x: y}), *(cut.moved({x: state}),) * (len(node.outputs) - 1)]
    return wanted, outs


def scratch(node: Node, types: Types, machine: Machine) -> int:
    """Return the bytes of all states and sums of inputs, of every direction and sample."""
    x, r = (types[node.inputs[index]].shape for index in (0, R))
    _, directions, samples, hidden = _sizes(node, x, r)
    units = -(-hidden // machine.lanes) * machine.lanes
    sums = (AHEAD + 1) * recurrent.FAMILIES[node.op].gates
    # samples in the lanes have whole vectors, of which half may be empty
    wide = STATES * machine.lanes * -(-samples // max(1, machine.lanes // 2))
    return 4 * max((STATES + sums) * samples, wide) * units * directions


def _sizes(node: Node, x: Sequence[int], r: Sequence[int]) -> tuple[int, int, int, int]:
    """Return steps, directions, samples, hidden units."""
    steps, samples = (x[1], x[0]) if node.get("layout", 0) else (x[0], x[1])
    return steps, r[0], samples, r[2]


def emit(node: Node, inputs: Sequence[Place | None], outputs: Sequence[Place], step: Step) -> str:
    """Write the loop over directions and samples."""
    x, w, r, b, lengths, h0, c0, p = filled(inputs, 8)
    ready = recurrent.units(r.layout.shape[2]) if node.get(recurrent.PROJECTED, 0) else 0
    lanes, gates = step.machine.lanes, recurrent.FAMILIES[node.op].gates
    steps, directions, _, hidden = _sizes(node, x.layout.shape, r.layout.shape)
    x_axis, y_axis, state_axis = _axes(node)
    samples, wide = x.layout.blocks[x_axis], x.layout.lanes > 1
    places = iter(outputs)
    made = [next(places) if name else None for name in node.outputs]
    y, h1, c1 = (*made, None, None)[:3]
    units = -(-hidden // lanes) * lanes
    numbers = (
        f"SEC_{node.op}", steps, x.layout.shape[2], hidden, "{backwards}", int(wide),
        int(bool(node.get("linear_before_reset", 0))), int(p is not None),
        x.layout.strides[1 - x_axis], x.layout.strides[2],
        y.layout.strides[1 if y_axis == 0 else 0] if y else 0, y.layout.strides[3] if y else 0,
        floating(node.get("clip", 0.0)), ready,
    )  # fmt: skip
    length = "0"
    known = lengths.constant if lengths is not None else None
    if lengths is not None and (known is None or not recurrent.full(known, steps)):
        length = f"{lengths.ref} + n * {lengths.layout.strides[0]}"
    body = Body()
    size = STATES * units * lanes if wide else (STATES + (AHEAD + 1) * gates) * units
    body.open(
        f"for (long u = sec_share({directions * samples}, t, T); "
        f"u < sec_share({directions * samples}, t + 1, T); u++)"
    )
    body.line(f"const long n = u % {samples};")
    body.line("(void)n;")
    for d, backwards in enumerate(recurrent.directions(node)):
        body.open(f"if (u / {samples} == {d})")
        fields = ", ".join(map(str, numbers)).format(backwards=int(backwards))
        states = r.constant[d].reshape(gates, hidden, hidden)
        skipped = _sparse(states, wide, step)
        body.line(f"const sec_recurrent g = {{{fields}, {skipped or '0, 0, 0, 0, 0'}}};")
        biases = _biases(node, None if b is None else b.constant[d], hidden, units)
        peepholes = _padded(np.zeros(3 * hidden) if p is None else p.constant[d], 3, units)
        arrays = (
            None if w is None else _packed(w.constant[d], gates, lanes),
            None if skipped else _packed(r.constant[d], gates, lanes),
            *(biases, peepholes),
        )
        weights = ", ".join("0" if a is None else step.weights.pointer(a) for a in arrays)
        own = d * gates * ready * x.layout.strides[2]
        ends = ", ".join(_state(start, end, d, state_axis) for start, end in ((h0, h1), (c0, c1)))
        body.line(
            f"sec_recurrent_run(g, {weights}, {x.ref} + n * {x.layout.strides[x_axis]} + {own}, "
            f"{_output(y, d, y_axis)}, {ends}, {length}, (float *){step.scratch} + u * {size});"
        )
        body.close()
    body.close()
    return body.text()


def _sparse(weight: np.ndarray, wide: bool, step: Step) -> str:
    """Return the fields of a `sec_recurrent` that say where non-zeros lie; "" if dense is faster.

    Args:
        weight: of states, float32 [gates, units, units that are read].
        wide: samples lie in the lanes.
    """
    gates, hidden, _ = weight.shape
    pointer, lanes = step.weights.pointer, step.machine.lanes
    if wide:
        if np.count_nonzero(weight) > WIDE * weight.size or hidden > 1 << 16:
            return ""
        rows = weight.swapaxes(0, 1).reshape(hidden * gates, hidden)
        counts = np.count_nonzero(rows, axis=1)
        first = np.append(0, np.cumsum(counts)).astype(np.uint32)
        read = np.nonzero(rows)[1].astype(np.uint16)
        return ", ".join(["0, 0", *(pointer(array) for array in (first, read, rows[rows != 0]))])
    if lanes != single.LANES:  # lookups need its permutations
        return ""
    dense = NARROW[weight.nbytes > OWN] * weight.size
    if single.LOOKUP * np.count_nonzero(weight) > dense:
        return ""
    padding = (0, 0), (0, -hidden % lanes), (0, 0)
    steps, prepared = single.stored(np.pad(weight, padding).reshape(-1, hidden))
    return f"(const char *){pointer(prepared)}, {steps}, 0, 0, 0"


def _output(y: Place | None, direction: int, axis: int) -> str:
    if y is None:
        return "0"
    way = y.layout.strides[2 if axis == 0 else 1]
    return f"{y.ref} + n * {y.layout.strides[axis]} + {direction * way}"


def _state(start: Place | None, end: Place | None, direction: int, axis: int) -> str:
    """Return a `sec_state`: where a state of sample n begins and ends."""

    def place(at: Place | None) -> tuple[str, int]:
        if at is None:
            return "0", 0
        strides = at.layout.strides
        return f"{at.ref} + n * {strides[axis]} + {direction * strides[1 - axis]}", strides[2]

    (source, from_unit), (target, to_unit) = place(start), place(end)
    return f"(sec_state){{{source}, {target}, {from_unit}, {to_unit}}}"


def _packed(weight: np.ndarray, gates: int, lanes: int) -> np.ndarray:
    """Return a weight [gates * hidden, inputs] as [units / lanes, inputs, gates, lanes]."""
    rows = weight.reshape(gates, -1, weight.shape[1])
    groups = -(-rows.shape[1] // lanes)
    filled_up = np.zeros((gates, groups * lanes, rows.shape[2]), np.float32)
    filled_up[:, : rows.shape[1]] = rows
    return filled_up.reshape(gates, groups, lanes, -1).transpose(1, 3, 0, 2).copy()


def _padded(values: np.ndarray, gates: int, units: int) -> np.ndarray:
    """Return values [gates * hidden] as [gates, units], filled up with zeros."""
    rows = values.reshape(gates, -1)
    return np.pad(rows, ((0, 0), (0, units - rows.shape[1]))).astype(np.float32)


def _biases(node: Node, bias: np.ndarray | None, hidden: int, units: int) -> np.ndarray:
    """Return the biases of inputs and states, summed; of a GRU's last gate, one after the other."""
    gates = recurrent.FAMILIES[node.op].gates
    if bias is None:
        bias = np.zeros(2 * gates * hidden, np.float32)
    of_inputs, of_states = (_padded(half, gates, units) for half in np.split(bias, 2))
    if node.op != "GRU":
        return np.asarray(of_inputs + of_states)
    return np.concatenate([of_inputs[:2] + of_states[:2], of_inputs[2:], of_states[2:]])


KERNELS = (Kernel(ops=("RNN", "GRU", "LSTM"), emit=emit, cuts=cuts, scratch=scratch),)
