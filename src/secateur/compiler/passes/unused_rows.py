"""Rows that NonMaxSuppression leaves unused may go on, one by one, to the network's outputs.

Its output has as many rows as there can be boxes, and in ONNX as many as there are. Where later
operators work on every row by itself, both give the same rows, and those that are unused hold
anything at the end. Where rows meet (a sum, a sort, how many there are) that is not so, and the
network is refused. So it is where no output says which rows are boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from secateur.compiler.graph import Node, Tensor, unsupported
from secateur.compiler.ops.indexing import slices
from secateur.compiler.ops.reduction import reduced_axes

SOURCE = "NonMaxSuppression"

Shape = tuple[int, ...]

_PLANES = frozenset({
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool",
    "GlobalMaxPool", "InstanceNormalization", "MaxPool", "Resize",
})  # fmt: skip
"""Operators that do the same to everything along the first axis of their first input."""

_ALONG = frozenset({"ArgMax", "ArgMin", "CumSum", "LogSoftmax", "Softmax", "Split", "TopK"})
"""Operators that mix the elements along one axis, or part them."""

_BROADCAST = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Equal", "Erf", "Exp", "Expand", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Less", "LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor",
})  # fmt: skip
"""Operators that work element by element."""

_MOVES = frozenset({"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})

_COPIES = frozenset({
    "Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
"""Operators that only pass on what says that a row is unused."""


@dataclass(frozen=True)
class Rows:
    """An axis of a value along which rows may be unused.

    Attributes:
        axis: which. source: the node that they come from.
        told: the value itself holds `ops.suppression.UNUSED` in such rows.
    """

    axis: int
    source: Node
    told: bool


class UnusedRows:
    """Follows unused rows from node to node.

    Attributes:
        found: values that have them.
    """

    def __init__(self) -> None:
        self.found: dict[str, Rows] = {}

    def visit(self, node: Node, types: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> None:
        """Take in a node whose types are known.

        Args:
            node: the next one.
            types: of its inputs, with the values that are known.
            outputs: types of its outputs.

        Raises:
            CompileError: rows meet in it.
        """
        if node.op == SOURCE:
            if outputs[0].size:
                self.found[node.outputs[0]] = Rows(0, node, True)
            return
        given = {name: self.found[name] for name in node.inputs if name in self.found}
        if not given:
            return
        rows = next(iter(given.values()))
        axis = None
        if all(other.source is rows.source for other in given.values()):
            axis = _axis(node, given, types, outputs[0].shape)
        extents = {types[name].shape[r.axis] for name, r in given.items()}
        if axis is None or (node.op != "Slice" and extents != {outputs[0].shape[axis]}):
            raise unsupported(
                node,
                f"the rows that {rows.source} gives meet in it, and how many those are depends on "
                "the network's inputs; end the model before it, and do this on what the engine "
                "gives",
            )
        told = node.op in _COPIES and any(
            given[name].told
            for name in (node.inputs if node.op == "Concat" else node.inputs[:1])
            if name in given
        )
        for name, tensor in zip(node.outputs, outputs, strict=False):
            if name:
                signed = tensor.dtype.kind in "if"
                self.found[name] = Rows(axis, rows.source, told and signed)

    def check(self, outputs: Sequence[str]) -> None:
        """See that some output says which rows are boxes, where one has rows.

        Raises:
            CompileError: none does.
        """
        ends = {name: self.found[name] for name in outputs if name in self.found}
        for name, rows in ends.items():
            if not any(r.told and r.source is rows.source for r in ends.values()):
                raise unsupported(
                    rows.source,
                    "how many rows it gives depends on the network's inputs, and no output says "
                    f"which rows of output {name!r} are there; make {rows.source.outputs[0]!r} an "
                    "output of the model, too, which is -1 in those that are not",
                )


def _axis(
    node: Node, given: Mapping[str, Rows], types: Mapping[str, Tensor], out: Shape
) -> int | None:
    """Return along which axis of the outputs the rows lie; None where they meet."""
    if node.op in _BROADCAST:
        return _broadcast(node, given, types, len(out))
    if node.op == "Gather":
        return _gathered(node, given, types)
    if node.op == "RoiAlign":  # all of its regions
        return 0 if node.inputs[0] not in given else None
    if node.op == "Concat":
        axes = {given[name].axis if name in given else None for name in node.inputs}
        return axes.pop() if len(axes) == 1 and _along(node, types, 0) not in axes else None
    if node.inputs[0] not in given or len(given) > 1:
        return None
    axis, shape = given[node.inputs[0]].axis, types[node.inputs[0]].shape
    return _moved(node, axis, shape, out) if node.op in _MOVES else _kept(node, axis, types)


def _moved(node: Node, axis: int, shape: Shape, out: Shape) -> int | None:
    """Return where an axis is after an operator that only moves elements."""
    if node.op == "Transpose":
        return tuple(node.get("perm") or reversed(range(len(shape)))).index(axis)
    for a, extent in enumerate(out):
        if extent == shape[axis] and prod(out[:a]) == prod(shape[:axis]):
            return a
    return None


def _kept(node: Node, axis: int, types: Mapping[str, Tensor]) -> int | None:
    """Return where an axis is after an operator that works along others."""
    if node.op == "Slice":
        shape = types[node.inputs[0]].shape
        names = (*node.inputs[1:], "", "")[:4]
        values = [types[name].value if name else None for name in names]
        taken = slices(node, shape, [None if v is None else tuple(v.tolist()) for v in values])
        return axis if taken[axis].start == 0 and taken[axis].step == 1 else None
    mixed = _mixed(node, types)
    if mixed is None or axis in mixed:
        return None
    if node.op.startswith(("Arg", "Reduce")) and not node.get("keepdims", 1):
        return axis - sum(other < axis for other in mixed)
    return axis


def _mixed(node: Node, types: Mapping[str, Tensor]) -> set[int] | None:
    """Return the axes of its first input whose elements an operator mixes; None: any."""
    rank = len(types[node.inputs[0]].shape)
    if node.op in _PLANES:
        return {*range(1, rank)}
    if node.op == "MatMul":
        return {rank - 1}
    if node.op == "Gemm":
        return {0 if node.get("transA", 0) else 1}
    if node.op in _ALONG:
        return {_along(node, types, -1)}
    if node.op.startswith("Reduce"):
        axes = types[node.inputs[1]].value if len(node.inputs) > 1 and node.inputs[1] else None
        return {*reduced_axes(node, None if axes is None else tuple(axes.tolist()), rank)}
    return None


def _along(node: Node, types: Mapping[str, Tensor], usual: int) -> int:
    """Return the axis that an operator works along."""
    usual = 0 if node.op.startswith("Arg") or node.op == "Split" else usual
    axis = node.get("axis", usual)
    if node.op == "CumSum":
        value = types[node.inputs[1]].value
        axis = usual if value is None else int(value.item())
    return int(axis) % len(types[node.inputs[0]].shape)


def _broadcast(
    node: Node, given: Mapping[str, Rows], types: Mapping[str, Tensor], rank: int
) -> int | None:
    operands = node.inputs[:1] if node.op == "Expand" else [name for name in node.inputs if name]
    axes = {given[name].axis + rank - len(types[name].shape) for name in operands if name in given}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    for name in operands:
        mine = axis - rank + len(types[name].shape)
        if name not in given and mine >= 0 and types[name].shape[mine] != 1:
            return None
    return axis


def _gathered(node: Node, given: Mapping[str, Rows], types: Mapping[str, Tensor]) -> int | None:
    data, indices = node.inputs
    along = _along(node, types, 0)
    if data not in given:
        return along + given[indices].axis
    axis = given[data].axis
    if indices in given or axis == along:
        return None
    return axis if axis < along else axis + len(types[indices].shape) - 1
