"""Which channels of which value are constant, and which are needed.

A channel here is an index along one axis of a value: axis 1 of images, the last axis of tokens.
Only values made by operators that are understood below are followed; every other operator is
taken to need all that it reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from secateur.compiler.graph import Graph, Node
from secateur.compiler.ops import find
from secateur.compiler.passes.batchnorm import LINEAR

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceMin"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
# fmt: off
# Each element of the output depends on the elements at its own place alone.
_ELEMENTWISE = frozenset((
    "Abs", "Add", "Ceil", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish",
    "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
))
# fmt: on


@dataclass(frozen=True)
class Linear:
    """A node that mixes channels.

    Attributes:
        source: its input, where the channels of that are followed; else None.
        output: its output.
        weights: (outputs, inputs, taps), a view.
        scale: factor on the weights.
        reads: (outputs, inputs), whether any tap is not zero.
        bias: float64, one element an output.
        anywhere: a constant input channel adds the same at every place, so a bias can replace
            it; where this is False, only for a constant of zero.
    """

    source: str | None
    output: str
    weights: np.ndarray
    scale: float
    reads: np.ndarray
    bias: np.ndarray
    anywhere: bool

    def of_constants(self, known: np.ndarray) -> np.ndarray:
        """Return what input channels add to each output: `known` holds constants or zero."""
        columns = np.flatnonzero(known)
        sums = self.weights[:, columns].sum(axis=2, dtype=np.float64)
        return np.asarray(sums @ known[columns] * self.scale)


@dataclass(frozen=True)
class Tied:
    """A node whose followed inputs and output have the same channels."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    """A reshape that makes each channel into several in a row (flattening), or keeps it."""

    source: str
    output: str
    times: int


@dataclass(frozen=True)
class Joined:
    """A concatenation of channels; parts that are not followed are None."""

    parts: tuple[tuple[str | None, slice], ...]
    output: str


Role = Linear | Tied | Spread | Joined


@dataclass
class Channels:
    """What is known about the channels of a graph's values.

    Attributes:
        axis: of each value that is followed, the axis of its channels.
        known: of each value that is followed, its channels' constant values (float64), NaN for
            those that are not constant.
        roles: by node name, of nodes that are understood.
        keep: of each value that is followed, which channels have to stay.
    """

    axis: dict[str, int] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    keep: dict[str, np.ndarray] = field(default_factory=dict)


def analysed(graph: Graph, *, together: int = 1) -> Channels:
    """Return what is known about the channels of a graph whose values all have types.

    Args:
        graph: with types.
        together: so many channels in a row, from the first on, stay or go together.
    """
    forward = _Forward(graph)
    for node in graph.nodes:
        forward.visit(node)
    found = forward.found
    found.keep = {name: np.zeros(len(known), np.bool_) for name, known in found.known.items()}
    for name in graph.outputs:
        if name in found.keep:
            found.keep[name][:] = True
    while True:
        _settle(graph, found)
        whole = {name: _whole(keep, together) for name, keep in found.keep.items()}
        if any((whole[name] != keep).any() for name, keep in found.keep.items()):
            found.keep = whole
            continue
        empty = [name for name, keep in found.keep.items() if len(keep) and not keep.any()]
        if not empty:
            return found
        found.keep[empty[0]][0] = True  # a value of no channels is more than kernels should bear


def _whole(keep: np.ndarray, together: int) -> np.ndarray:
    """Return which channels stay where so many in a row stay together."""
    any_of = np.logical_or.reduceat(keep, range(0, len(keep), together)) if len(keep) else keep
    return np.repeat(any_of, together)[: len(keep)]


def replaceable(role: Linear, known: np.ndarray) -> np.ndarray:
    """Return which input channels of a linear node a bias can stand for."""
    return np.asarray(np.isfinite(known) if role.anywhere else known == 0)


def _settle(graph: Graph, found: Channels) -> None:
    """Grow `keep` until every node has what it needs."""
    changed = True
    while changed:
        changed = False
        for node in reversed(graph.nodes):
            for name, keep in _demands(node, found):
                grown = found.keep[name] | keep
                if (grown != found.keep[name]).any():
                    found.keep[name], changed = grown, True


def _demands(node: Node, found: Channels) -> Iterator[tuple[str, np.ndarray]]:
    """Yield which channels a node, as it is now, needs to stay."""
    keep, role = found.keep, found.roles.get(node.name)
    match role:
        case Linear(source=str() as source):
            used = role.reads[keep[role.output]].any(axis=0)
            yield source, used & ~replaceable(role, found.known[source])
        case Tied():
            union = np.logical_or.reduce([keep[name] for name in role.values])
            yield from ((name, union) for name in role.values)
        case Spread():
            union = keep[role.output].reshape(-1, role.times).any(axis=1) | keep[role.source]
            yield role.source, union
            yield role.output, np.repeat(union, role.times)
        case Joined():
            whole = keep[role.output].copy()
            for name, part in role.parts:
                whole[part] = True if name is None else whole[part] | keep[name]
            yield role.output, whole
            yield from ((name, whole[part]) for name, part in role.parts if name is not None)
    passed = _followed(role)
    for name in node.inputs:
        if name in keep and name not in passed:
            yield name, np.ones_like(keep[name])


def _followed(role: Role | None) -> set[str | None]:
    """Return the inputs whose channels a role accounts for."""
    match role:
        case Linear() | Spread():
            return {role.source}
        case Tied():
            return set(role.values)
        case Joined():
            return {name for name, _ in role.parts}
    return set()


class _Forward:
    """One walk in order: the role of each node, and the constant channels of its output."""

    def __init__(self, graph: Graph) -> None:
        self.types = graph.types
        self.constants = graph.constants
        self.found = Channels()

    def visit(self, node: Node) -> None:
        if len(node.outputs) != 1 or self.types[node.outputs[0]].dtype.kind != "f":
            return
        if node.op in LINEAR:
            self._linear(node)
        elif node.op in _ELEMENTWISE:
            self._elementwise(node)
        elif node.op == "Concat":
            self._joined(node)
        elif node.inputs and node.inputs[0] in self.found.axis:
            if node.op in _POOLS:
                self._pool(node)
            elif node.op in _REDUCTIONS:
                self._reduction(node)
            elif node.op == "Transpose":
                self._transpose(node)
            elif node.op in _RESHAPES:
                self._spread(node)

    def _follow(self, node: Node, role: Role, axis: int, known: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            known = known.astype(self.types[node.outputs[0]].dtype).astype(np.float64)
        self.found.axis[node.outputs[0]] = axis
        self.found.known[node.outputs[0]] = np.where(np.isfinite(known), known, np.nan)
        self.found.roles[node.name] = role

    def _linear(self, node: Node) -> None:
        source, weights = node.inputs[0], self.constants.get(node.inputs[1])
        if weights is None or weights.dtype.kind != "f" or weights.ndim < 2:
            return
        if node.op == "Conv" and node.get("group", 1) != 1:
            self._depthwise(node, weights)
            return
        matrix = matrix_of(node, weights)
        bias = None if matrix is None else self._bias(node, len(matrix))
        if matrix is None or bias is None or not np.isfinite(matrix).all():
            return
        axis, of_source = (
            len(self.types[value].shape) - 1 if node.op == "MatMul" else 1
            for value in (node.outputs[0], source)
        )
        followed = self.found.axis.get(source) == of_source
        role = Linear(
            source=source if followed else None,
            output=node.outputs[0],
            weights=matrix,
            scale=node.get("alpha", 1.0) if node.op == "Gemm" else 1.0,
            reads=(matrix != 0).any(axis=2),
            bias=bias,
            anywhere=node.op in ("Gemm", "MatMul") or (node.op == "Conv" and not _padded(node)),
        )
        had = self.found.known[source] if followed else np.full(matrix.shape[1], np.nan)
        there = replaceable(role, had)
        known = bias + role.of_constants(np.where(there, had, 0))
        varying = role.reads[:, ~there].any(axis=1)
        self._follow(node, role, axis, np.where(varying, np.nan, known))

    def _bias(self, node: Node, outputs: int) -> np.ndarray | None:
        if len(node.inputs) < 3 or not node.inputs[2]:
            return np.zeros(outputs)
        bias = self.constants.get(node.inputs[2])
        if (
            bias is None
            or bias.size not in (1, outputs)
            or bias.shape[-1:] not in ((), (bias.size,))
        ):
            return None
        beta = node.get("beta", 1.0) if node.op == "Gemm" else 1.0
        return np.broadcast_to(bias.reshape(-1).astype(np.float64) * beta, (outputs,))

    def _depthwise(self, node: Node, weights: np.ndarray) -> None:
        """A convolution of each channel by itself."""
        source, count = node.inputs[0], len(weights)
        bias = self._bias(node, count)
        whole = self.types[source].shape[1] == count == node.get("group", 1)
        if self.found.axis.get(source) != 1 or not whole or bias is None:
            return
        had = self.found.known[source]
        taps = weights.reshape(count, -1).astype(np.float64)
        known = bias + taps.sum(axis=1) * had
        known = np.where(had == 0, bias, np.nan if _padded(node) else known)
        known = np.where((taps == 0).all(axis=1), bias, known)
        self._follow(node, Tied((source, node.outputs[0])), 1, known)

    def _elementwise(self, node: Node) -> None:
        output = node.outputs[0]
        shape = self.types[output].shape
        axes = {
            self.found.axis[name]
            for name in node.inputs
            if name in self.found.axis and len(self.types[name].shape) == len(shape)
        }
        if len(axes) != 1:
            return
        (axis,) = axes
        tied: list[str] = []
        arrays: list[np.ndarray | None] = []
        there = np.ones(shape[axis], np.bool_)
        for name in node.inputs:
            if not name:
                arrays.append(None)
                continue
            extents = _aligned(self.types[name].shape, len(shape))
            channels = (1,) * axis + (-1,) + (1,) * (len(shape) - axis - 1)
            if self.found.axis.get(name) == axis and extents[axis] == shape[axis]:
                if len(self.types[name].shape) != len(shape):
                    return
                tied.append(name)
                had = self.found.known[name]
                there &= np.isfinite(had)
                array = np.where(np.isfinite(had), had, 0).reshape(channels)
            elif name in self.constants and math.prod(extents) == extents[axis]:
                array = self.constants[name]
                array = array.reshape(channels) if array.size > 1 else array
            elif name in self.constants or extents[axis] == 1:  # differs from place to place
                there[:] = False
                array = np.zeros((1,) * len(shape))
            else:
                return
            arrays.append(array.astype(self.types[name].dtype))
        if not tied:
            return
        with np.errstate(all="ignore"):
            (result,) = find(node).reference(node, tuple(arrays))
        known = np.where(there, np.broadcast_to(np.ravel(result), there.shape), np.nan)
        self._follow(node, Tied((*tied, output)), axis, known)

    def _joined(self, node: Node) -> None:
        output = node.outputs[0]
        rank = len(self.types[output].shape)
        axis = node.get("axis", 0) % rank
        parts: list[tuple[str | None, slice]] = []
        known = []
        start = 0
        for name in node.inputs:
            extent = self.types[name].shape[axis]
            followed = self.found.axis.get(name) == axis
            parts.append((name if followed else None, slice(start, start + extent)))
            known.append(self.found.known[name] if followed else np.full(extent, np.nan))
            start += extent
        if any(name for name, _ in parts):
            self._follow(node, Joined(tuple(parts), output), axis, np.concatenate(known))

    def _pool(self, node: Node) -> None:
        source = node.inputs[0]
        if self.found.axis[source] != 1:
            return
        had = self.found.known[source]
        if not node.op.startswith("Global") and not _whole_windows(node):
            had = np.where((had == 0) & (node.op == "AveragePool"), had, np.nan)
        self._follow(node, Tied((source, node.outputs[0])), 1, had)

    def _reduction(self, node: Node) -> None:
        source = node.inputs[0]
        axis, rank = self.found.axis[source], len(self.types[source].shape)
        axes = self.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if axes is None or not axes.size or axis in (reduced := {int(a) % rank for a in axes}):
            return
        if not node.get("keepdims", 1):
            axis -= sum(a < axis for a in reduced)
        self._follow(node, Tied((source, node.outputs[0])), axis, self.found.known[source])

    def _transpose(self, node: Node) -> None:
        source = node.inputs[0]
        rank = len(self.types[source].shape)
        perm = tuple(node.get("perm", tuple(range(rank))[::-1]))
        axis = perm.index(self.found.axis[source])
        self._follow(node, Tied((source, node.outputs[0])), axis, self.found.known[source])

    def _spread(self, node: Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        axis, had = self.found.axis[source], self.found.known[source]
        before, after = self.types[source].shape, self.types[output].shape
        if not had.size or not after:
            return
        if axis == len(before) - 1 and after[-1] == before[-1]:
            self._follow(node, Spread(source, output, 1), len(after) - 1, had)
        elif axis == 1 and len(after) > 1 and after[0] == before[0]:
            times, rest = divmod(after[1], before[1])
            if rest or not times or (times > 1 and len(after) > 2):
                return
            self._follow(node, Spread(source, output, times), 1, np.repeat(had, times))


def _aligned(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (1,) * (rank - len(shape)) + shape


def matrix_of(node: Node, weights: np.ndarray) -> np.ndarray | None:
    """Return the weights of a linear node as (outputs, inputs, taps), or None if not of that form.

    They are not where there are groups, a transposed input, or a stack of matrices.
    """
    stacked = node.op == "MatMul" and weights.ndim != 2
    if node.get("group", 1) != 1 or node.get("transA", 0) or stacked:
        return None
    outputs_first = node.op == "Conv" or node.get("transB", 0)
    matrix = weights if outputs_first else weights.swapaxes(0, 1)
    return matrix.reshape(*matrix.shape[:2], math.prod(matrix.shape[2:]))  # of no channels, too


def _padded(node: Node) -> bool:
    return any(node.get("pads", ())) or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")


def _whole_windows(node: Node) -> bool:
    """Return whether each window of a pool gives the constant that fills a channel."""
    if node.get("ceil_mode", 0) or any(step != 1 for step in node.get("dilations", ())):
        return False
    if node.op == "AveragePool" and node.get("count_include_pad", 0):
        return not _padded(node)
    kernel = tuple(node.get("kernel_shape"))
    return all(pad < extent for pad, extent in zip(node.get("pads", ()), kernel * 2, strict=False))
