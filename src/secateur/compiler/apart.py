"""Do the samples of a batch stay apart? Only then can an engine cut a batch into tiles.

What a network makes of several samples together is compared with what it makes of each. A sum, a
maximum or the like over the axis that counts samples is refused without that: its effect may need
numbers that were not drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from secateur.compiler import interpreter, meeting, onnx_inputs
from secateur.compiler.graph import Graph, Node
from secateur.errors import CompileError

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-4
"""Largest difference, relative to the largest output."""


def check(one: Graph, several: Graph, samples: Sequence[Arrays], wanted: Sequence[Arrays]) -> None:
    """See that samples together give what each gives alone.

    Args:
        one: the graph of one sample, with types.
        several: of as many as there are samples.
        samples: {input: array} of each.
        wanted: {output: array} of each, of float64 where the network has float32.

    Raises:
        CompileError: they give something else, or might for other numbers.
    """
    count = len(samples)
    names = list(zip(one.outputs, several.outputs, strict=True))
    for mine, its in names:
        shape = one.types[mine].shape
        if not shape or several.types[its].shape != (count * shape[0], *shape[1:]):
            raise mixes(one, f"output {mine!r} does not begin with the batch")
    for node in _needed(several):
        if _meet(one, several, node):
            raise mixes(one, f"node {node} computes one number from several samples")
    orders = [slice(None)]
    if any(meeting.sorts(several, node) for node in _needed(several)):
        orders.append(slice(None, None, -1))  # samples that are sorted are not, backwards
    for order in orders:
        if (other := _mixed(one, several, samples[order], wanted[order])) is not None:
            raise mixes(one, f"output {other!r} of a sample depends on the others")


def _mixed(
    one: Graph, several: Graph, samples: Sequence[Arrays], wanted: Sequence[Arrays]
) -> str | None:
    """Return an output that samples together give otherwise than each alone, or None."""
    inputs = {v: _joined(samples, v) for v in one.inputs}
    other = None
    for run in (interpreter.run, interpreter.run_wide):  # the first may be ill-conditioned
        both = run(several, inputs)
        names = zip(one.outputs, several.outputs, strict=True)
        differ = (mine for mine, its in names if not _alike(both[its], _joined(wanted, mine)))
        if (other := next(differ, None)) is None:
            break
    return other


def check_whole(whole: Graph, samples: Sequence[Arrays], wanted: Sequence[Arrays]) -> None:
    """See that a network of a fixed batch gives what each of its samples gives alone.

    Args:
        whole: the graph as it was read.
        samples, wanted: as for `check`, as many as its batch.

    Raises:
        CompileError: it gives something else.
    """
    inputs = {v: _joined(samples, v) for v in whole.inputs}
    for run in (interpreter.run, interpreter.run_wide):  # the first may be ill-conditioned
        found = run(whole, inputs)
        others = [v for v in whole.outputs if not _alike(found[v], _joined(wanted, v))]
        if not others:
            return
    raise mixes(whole, f"output {others[0]!r} of a sample depends on the others")


def mixes(graph: Graph, how: str) -> CompileError:
    """Return the error for samples that meet, with a shape that can be given instead."""
    shapes = " ".join(
        onnx_inputs.option(v, ",".join(map(str, (16, *graph.types[v].shape[1:]))))
        for v in graph.inputs
    )
    return CompileError(
        f"the samples of a batch meet in this network ({how}), so that it cannot be run in parts; "
        f"fix the batch, for example {shapes}"
    )


def _needed(graph: Graph) -> Iterator[Node]:
    """Yield the nodes that outputs come from, the last first."""
    wanted = {*graph.outputs}
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            yield node


def _meet(one: Graph, several: Graph, node: Node) -> bool:
    """Return whether a node makes one number of those along an axis that grows with the batch."""
    value = node.inputs[0] if node.inputs else ""
    if value not in one.types or value not in several.types:
        return False
    shape, larger = one.types[value].shape, several.types[value].shape
    if len(shape) != len(larger):
        return False
    return any(shape[axis] != larger[axis] for axis in meeting.axes(several, node, len(shape)))


def _joined(parts: Sequence[Arrays], name: str) -> np.ndarray:
    return np.concatenate([part[name] for part in parts])


def _alike(got: np.ndarray, wanted: np.ndarray) -> bool:
    if got.shape != wanted.shape:
        return False
    if got.dtype.kind != "f":
        return np.array_equal(got, wanted)
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = float(np.max(finite, initial=0.0)) or 1.0
    with np.errstate(all="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        return bool(np.all(same | (np.abs(got - wanted) <= TOLERANCE * scale)))
