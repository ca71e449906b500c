"""Recurrent layers over a whole sequence: RNN, GRU and LSTM, one or both ways.

Sizes: n steps, b samples, i inputs, h hidden units, d directions, g gates. Of a sample whose
sequence is shorter, the states stay as they are over the steps that it lacks, and Y is 0 there; of
one without any step the states end as 0, whatever they were, as ONNX Runtime has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops import Arrays, Operator, rules
from secateur.compiler.ops.activation import sigmoid
from secateur.compiler.ops.convolution import filled, wide
from secateur.compiler.ops.rules import FLOATS, Operands

PROJECTED = "projected"
"""Attribute of a pass's own: X is what inputs come to, [n, b, d * g * units], and W is absent."""

UNITS = 16
"""Hidden units of a gate of a projected X are filled up to a multiple of this."""


@dataclass(frozen=True)
class Cell:
    """One direction's weights, in the order of gates that ONNX has (iofc, zrh)."""

    r: np.ndarray  # [g * h, h]
    r_bias: np.ndarray  # [g * h]
    peepholes: np.ndarray  # [3 * h] in the order i, o, f; zeros where there are none
    linear_before_reset: bool
    clip: float = 0.0  # bound of what activations are given; 0: none

    def gates(self, values: np.ndarray, count: int) -> list[np.ndarray]:
        """Cut [..., count * h] into the gates."""
        return np.split(values, count, axis=-1)

    def bounded(self, values: np.ndarray) -> np.ndarray:
        """Return what an activation is given."""
        return values.clip(-self.clip, self.clip) if self.clip else values


States = tuple[np.ndarray, ...]
Step = Callable[[Cell, np.ndarray, States], States]


def _rnn(cell: Cell, projected: np.ndarray, states: States) -> States:
    return (np.tanh(cell.bounded(projected + states[0] @ cell.r.T + cell.r_bias)),)


def _gru(cell: Cell, projected: np.ndarray, states: States) -> States:
    h = states[0]
    xz, xr, xh = cell.gates(projected, 3)
    wz, wr, wh = np.split(cell.r, 3)
    bz, br, bh = cell.gates(cell.r_bias, 3)
    z = sigmoid(cell.bounded(xz + h @ wz.T + bz))
    r = sigmoid(cell.bounded(xr + h @ wr.T + br))
    past = r * (h @ wh.T + bh) if cell.linear_before_reset else (r * h) @ wh.T + bh
    return ((1 - z) * np.tanh(cell.bounded(xh + past)) + z * h,)


def _lstm(cell: Cell, projected: np.ndarray, states: States) -> States:
    h, c = states
    xi, xo, xf, xc = cell.gates(projected + h @ cell.r.T + cell.r_bias, 4)
    pi, po, pf = cell.gates(cell.peepholes, 3)
    i, f = (sigmoid(cell.bounded(x + p * c)) for x, p in ((xi, pi), (xf, pf)))
    c_new = f * c + i * np.tanh(cell.bounded(xc))
    return sigmoid(cell.bounded(xo + po * c_new)) * np.tanh(c_new), c_new


@dataclass(frozen=True)
class Family:
    """What tells RNN, GRU and LSTM apart: gates, kept states, activations of one direction."""

    gates: int
    states: int
    activations: tuple[str, ...]
    step: Step


FAMILIES = {
    "RNN": Family(1, 1, ("Tanh",), _rnn),
    "GRU": Family(3, 1, ("Sigmoid", "Tanh"), _gru),
    "LSTM": Family(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm),
}


def directions(node: Node) -> tuple[bool, ...]:
    """Return, for each direction of a recurrent node, whether it runs backwards.

    Raises:
        CompileError: it has an unknown `direction`.
    """
    known = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    direction = node.get("direction", "forward")
    if direction not in known:
        raise unsupported(node, f"direction={direction}")
    return known[direction]


def _infer(node: Node, operands: Operands) -> tuple[Tensor, ...]:
    family = FAMILIES[node.op]
    rules.arity(node, operands, 1, 8 if node.op == "LSTM" else 6)
    x, r = (rules.operand(node, operands, i, "XWR"[i], FLOATS) for i in (0, 2))
    projected = node.get(PROJECTED, 0)
    d = len(directions(node))
    _plain_gates(node, family, d)
    if len(x.shape) != 3 or len(r.shape) != 3:
        raise unsupported(node, f"X of shape {x.shape} and R of shape {r.shape}")
    first = node.get("layout", 0)
    n, b = (x.shape[1], x.shape[0]) if first else x.shape[:2]
    h, g = r.shape[2], family.gates
    state = (b, d, h) if first else (d, b, h)
    if projected and x.shape[2] != d * g * units(h):
        raise unsupported(node, f"X of shape {x.shape}")
    shapes = {
        "W": (1, (d, g * h, x.shape[2])), "R": (2, (d, g * h, h)), "B": (3, (d, 2 * g * h)),
        "initial_h": (5, state), "initial_c": (6, state), "P": (7, (d, 3 * h)),
    }  # fmt: skip
    for name, (index, shape) in shapes.items():
        found = rules.optional(node, operands, index, name, FLOATS)
        rules.same_dtype(node, x, found)
        if found is None and name == "W" and not projected:
            raise unsupported(node, "W is absent")
        if found is not None and found.shape != shape:
            raise unsupported(node, f"{name} has shape {found.shape}, not {shape}")
    if node.get("hidden_size", h) != h:
        raise unsupported(node, f"hidden_size={node.get('hidden_size')} with R of {r.shape}")
    lengths = rules.optional(node, operands, 4, "sequence_lens", rules.dtypes("int32"))
    if lengths is not None and lengths.shape != (b,):
        raise unsupported(node, f"sequence_lens has shape {lengths.shape}, not {(b,)}")
    if lengths is not None and lengths.value is not None:
        _check_lengths(node, lengths.value, n)
    y = Tensor(x.dtype, (b, n, d, h) if first else (n, d, b, h))
    return (y, *(Tensor(x.dtype, state),) * family.states)


def units(hidden: int) -> int:
    """Return the units of a gate of a projected X."""
    return -(-hidden // UNITS) * UNITS


def _check_lengths(node: Node, lengths: np.ndarray, steps: int) -> None:
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= steps:
        raise unsupported(node, f"sequence_lens lie outside 0 to {steps}")


def full(lengths: np.ndarray, steps: int) -> bool:
    """Return whether lengths are those of whole sequences."""
    return bool((lengths == steps).all())


def _plain_gates(node: Node, family: Family, count: int) -> None:
    given: Sequence[str] = node.get("activations") or family.activations * count
    if [name.lower() for name in given] != [name.lower() for name in family.activations * count]:
        raise unsupported(node, f"activations={tuple(given)}; only the default ones are supported")
    if node.get("activation_alpha") or node.get("activation_beta"):
        raise unsupported(node, "activation_alpha and activation_beta are not supported")
    if node.get("clip", 0.0) < 0:
        raise unsupported(node, f"clip={node.get('clip')}")
    if node.get("input_forget", 0):
        raise unsupported(node, "input_forget=1 is not supported")
    if node.get("layout", 0) not in {0, 1}:
        raise unsupported(node, f"layout={node.get('layout')}")


@np.errstate(all="ignore")
def _reference(node: Node, arrays: Arrays) -> tuple[np.ndarray, ...]:
    family, kind = FAMILIES[node.op], rules.array(arrays, 0).dtype
    dtype = wide(kind)
    first = node.get("layout", 0)  # whether samples come before steps and directions
    turn = (1, 0, 2) if first else (0, 1, 2)
    x, r = (rules.array(arrays, i).astype(dtype, copy=False) for i in (0, 2))
    x = x.transpose(turn)
    d, rows, hidden = r.shape
    state = (x.shape[1], d, hidden) if first else (d, x.shape[1], hidden)
    shapes = {3: (d, 2 * rows), 5: state, 6: state, 7: (d, 3 * hidden)}
    bias, *initial, peepholes = (
        np.zeros(shapes[i], dtype) if a is None else a.astype(dtype, copy=False)
        for i, a in enumerate(filled(arrays, 8))
        if i in shapes
    )
    states = [value.transpose(turn) for value in initial[: family.states]]
    before = bool(node.get("linear_before_reset", 0))
    lengths = filled(arrays, 8)[4]
    there = None  # [n, b, 1]: whether a sample's sequence has a step
    if lengths is not None and not full(lengths, len(x)):
        there = (np.arange(len(x))[:, None] < lengths)[..., None]
        states = [np.where((lengths > 0)[:, None], value, 0) for value in states]
    inputs = _inputs(node, x, arrays[1], d, hidden)
    ways = [
        _one_way(
            family.step,
            Cell(r[i], bias[i, rows:], peepholes[i], before, node.get("clip", 0.0)),
            inputs[i] + bias[i, :rows],
            tuple(value[i] for value in states),
            backwards,
            there,
        )
        for i, backwards in enumerate(directions(node))
    ]
    # [n, b, h] by direction -> [b, n, d, h] or [n, d, b, h]; final states alike without n.
    stacked = np.stack([y.transpose(turn) for y, _ in ways], 1 + first)
    last = [np.stack(values, first) for values in zip(*(ends for _, ends in ways), strict=True)]
    return tuple(np.ascontiguousarray(value, kind) for value in (stacked, *last))


def _inputs(
    node: Node, x: np.ndarray, w: np.ndarray | None, count: int, hidden: int
) -> list[np.ndarray]:
    """Return what inputs [n, b, i] come to, [n, b, g * h] for each direction."""
    if not node.get(PROJECTED, 0):
        assert w is not None
        return [x @ way.astype(x.dtype, copy=False).T for way in w]
    ways = x.reshape(*x.shape[:2], count, FAMILIES[node.op].gates, units(hidden))
    return [ways[:, :, i, :, :hidden].reshape(*x.shape[:2], -1) for i in range(count)]


def _one_way(
    step: Step,
    cell: Cell,
    projected: np.ndarray,
    states: States,
    backwards: bool,
    there: np.ndarray | None,
) -> tuple[np.ndarray, States]:
    """Go over the steps of a sequence; return its hidden states [n, b, h] and the last states."""
    y = np.empty((*projected.shape[:2], states[0].shape[1]), projected.dtype)
    for t in range(len(y))[:: -1 if backwards else 1]:
        new = step(cell, projected[t], states)
        if there is not None:
            new = tuple(np.where(there[t], a, b) for a, b in zip(new, states, strict=True))
        states = new
        y[t] = states[0] if there is None else np.where(there[t], states[0], 0)
    return y, states


_COMMON = {
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size",
    "layout", PROJECTED,
}  # fmt: skip

OPERATORS = (
    Operator("RNN", _infer, _reference, frozenset(_COMMON)),
    Operator("GRU", _infer, _reference, frozenset(_COMMON | {"linear_before_reset"})),
    Operator("LSTM", _infer, _reference, frozenset(_COMMON | {"input_forget"})),
)
