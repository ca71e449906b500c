"""The float network that is to be quantised: folded, and ready for any number of samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from secateur.compiler import halves, onnx_reader, passes
from secateur.compiler.fixed_inputs import Value
from secateur.compiler.graph import EMPTY, Graph, Node, unsupported
from secateur.compiler.passes import dead, idioms
from secateur.compiler.rewrites import qoperators
from secateur.errors import CompileError, UsageError

COUNTS = (5, 7)
"""Samples of two graphs that are compared to see what depends on them; few networks have axes of
these extents, and nothing hangs on it."""

_BEFORE_FUSE = next(k for k, (name, _) in enumerate(passes.PASSES) if name == "fuse")
FLOAT_PASSES = (
    *((n, dead.in_fours if run is dead.run else run) for n, run in passes.PASSES[:_BEFORE_FUSE]),
    ("idioms", idioms.gelus),  # a product behind one would hide what it is
)
"""Passes after which all operators are ONNX's own, and batch norm is in the weights."""

QUANTISED = frozenset({
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "QuantizeLinear", *qoperators.REWRITES,
})  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """A constant that depends on how many samples there are.

    Attributes:
        first: `first + slope * n` is the constant for n samples; integers. None where it is rows.
        slope: what each sample adds.
        row: the part of the first sample; those of the others follow along `axis`. None where it is
            a line.
        step: what the part of each sample has more than the one before: integers, such as where a
            table of all samples is read. None: nothing, so they are alike.
        axis: which axis counts samples.
    """

    first: np.ndarray | None = None
    slope: np.ndarray | None = None
    row: np.ndarray | None = None
    step: np.ndarray | None = None
    axis: int = 0

    def of(self, count: int) -> np.ndarray:
        """Return the constant for so many samples."""
        if self.row is not None:
            step = 0 if self.step is None else self.step
            return np.concatenate([self.row + n * step for n in range(count)], self.axis)
        assert self.first is not None
        assert self.slope is not None
        line: np.ndarray = self.first + self.slope * count
        return line


@dataclass(frozen=True)
class Float:
    """A float network.

    Attributes:
        graph: of `COUNTS[0]` samples, or of as many as the file fixes.
        samples: how many a call has, where the file fixes that; 0 where any number is.
        counted: constants of `graph` that depend on the number of samples.
        growing: values whose shape depends on it: which axes.
        divided: by value that is another one with its channels divided, as `smoothing` does: the
            layers that read it, and their weights for what is not divided.
    """

    graph: Graph
    samples: int
    counted: Mapping[str, Counted]
    growing: Mapping[str, tuple[int, ...]]
    divided: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: EMPTY)

    def constants(self, count: int) -> dict[str, np.ndarray]:
        """Return all constants for so many samples."""
        return {**self.graph.constants, **{k: c.of(count) for k, c in self.counted.items()}}


def read(
    source: Path | bytes,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] = EMPTY,
    fixed: Mapping[str, Value] = EMPTY,
) -> Float:
    """Read a float network; float16 becomes float32.

    Args:
        source: an ONNX file, or its content.
        input_shapes, fixed: see `onnx_reader.read`.

    Raises:
        UsageError: the network is quantised already, or an input's extents are not known.
        CompileError: it cannot be compiled, or does something else for another number of samples.
        FileError: it cannot be read.
    """
    given = {"input_shapes": input_shapes, "fixed": fixed}
    try:
        few, batched = _graph(source, COUNTS[0], given)
        if batched:
            return free(few, _graph(source, COUNTS[1], given)[0])
    except CompileError as error:
        if not _alone(source, given):
            raise
        raise CompileError(
            f"{error}; the file takes one sample alone, though it says any number: fix the batch, "
            "for example with input_shapes={'input': (1, 3, 32, 32)}, --input-shape "
            "input=1,3,32,32"
        ) from error
    if not few.inputs:
        raise UsageError(
            "this network has no input, or all of them are fixed, so there is nothing to calibrate "
            "it on; leave one free"
        )
    extents = {(few.types[name].shape or (0,))[0] for name in few.inputs}
    samples = extents.pop() if len(extents) == 1 else 0
    if samples < 1:
        raise CompileError(
            "the inputs of this network do not begin with one number of samples, so it cannot be "
            "calibrated; export it with a batch as the first axis of every input"
        )
    return Float(few, samples, EMPTY, EMPTY)


def _alone(source: Path | bytes, given: Mapping[str, Any]) -> bool:
    """Whether the network can be read for one sample."""
    try:
        _graph(source, 1, given)
    except CompileError:
        return False
    return True


def _graph(source: Path | bytes, count: int, given: Mapping[str, Any]) -> tuple[Graph, bool]:
    graph, batched = _read(source, count, given)
    return passes.apply(graph, FLOAT_PASSES), batched


def of_one_batch(content: bytes) -> Graph:
    """Return the graph of a file that fixes its batch, with types and without other passes."""
    return passes.apply(_read(content, None, EMPTY)[0], passes.PASSES[:1])


def _read(source: Path | bytes, count: int | None, given: Mapping[str, Any]) -> tuple[Graph, bool]:
    model = onnx_reader.read(source, batch=count, **given)
    for node in _every(model.graph):
        if node.op in QUANTISED:
            raise UsageError(
                f"the model is quantised already (node {node}); compile it as it is, or quantise "
                "the float model that it was made of"
            )
    return halves.widened(model.graph), model.batched


def _every(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for value in node.attributes.values():
            if isinstance(value, Graph):
                yield from _every(value)


def free(few: Graph, many: Graph) -> Float:
    """Return the network for any number of samples.

    Args:
        few, many: it for `COUNTS` samples, after `FLOAT_PASSES`.

    Raises:
        CompileError: it does something else for another number of samples.
    """
    alike = [replace(a, attributes={}) for a in few.nodes] == [
        replace(b, attributes={}) for b in many.nodes
    ]
    if not alike or few.constants.keys() != many.constants.keys():
        raise _other()
    for a, b in zip(few.nodes, many.nodes, strict=True):
        if repr(sorted(a.attributes.items())) != repr(sorted(b.attributes.items())):
            raise _other(a)
    counted = {}
    for name, array in few.constants.items():
        other = many.constants[name]
        if array.shape != other.shape or not np.array_equal(array, other, equal_nan=_floats(array)):
            counted[name] = _counted(name, array, other)
    growing = {}
    for name, tensor in few.types.items():
        pairs = zip(tensor.shape, many.types[name].shape, strict=True)
        if axes := tuple(axis for axis, (a, b) in enumerate(pairs) if a != b):
            growing[name] = axes
    return Float(few, 0, counted, growing)


def _floats(array: np.ndarray) -> bool:
    return array.dtype.kind == "f"


def _other(node: Node | None = None) -> CompileError:
    what = "the network does something else for another number of samples; fix the batch with "
    what += "input_shapes=, --input-shape"
    return CompileError(what) if node is None else unsupported(node, what)


def _counted(name: str, few: np.ndarray, many: np.ndarray) -> Counted:
    """Return how a constant depends on the number of samples."""
    low, high = COUNTS
    if few.shape == many.shape and few.dtype.kind in "iu":
        slope, rest = np.divmod(many.astype(np.int64) - few.astype(np.int64), high - low)
        if not rest.any():
            return Counted(few - (slope * low).astype(few.dtype), slope.astype(few.dtype))
    pairs = list(zip(few.shape, many.shape, strict=False))
    axes = [axis for axis, (a, b) in enumerate(pairs) if a != b]
    if few.ndim == many.ndim and len(axes) == 1 and few.shape[axes[0]] % low == 0:
        parts = np.split(few, low, axes[0])
        step = parts[1] - parts[0] if few.dtype.kind in "iu" else None
        found = Counted(row=parts[0], step=step if np.any(step) else None, axis=axes[0])
        if all(np.array_equal(found.of(n), x) for n, x in zip(COUNTS, (few, many), strict=True)):
            return found
    raise CompileError(
        f"constant {name!r} of the network depends on the number of samples in a way that cannot "
        "be written down; fix the batch with input_shapes=, --input-shape"
    )
