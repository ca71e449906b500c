"""Operators that only move elements: they are run on the labels themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from secateur.model.inputs import tensors_in
from secateur.pruning.channels.labels import (
    Grid,
    Labels,
    Ledger,
    compressed,
    joint,
    linked,
    varying,
)
from secateur.pruning.channels.tracing import Call, Tracer

VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze")

SPLITS = ("split", "chunk", "split_with_sizes")

PICKED = "is picked by its position"
LISTED = "is picked by a list of positions"


def moved(tracer: Tracer, call: Call) -> None:
    """Run an operator on the labels of its first argument, for each of its outputs."""
    x = call.tensors[0]
    tracer.block(call.tensors[1:], tracer.reason(f"is an index of aten.{call.name}"))
    labels = tracer.labels(x)
    if call.name in POSITIONS:
        dims, why = POSITIONS[call.name]
        labels = tracer.ledger.fix(labels, dims(call, x.dim()), tracer.reason(why))
    outs = list(tensors_in(call.out))
    if call.name in SPLITS and len({out.shape for out in outs}) == 1:
        _tied(tracer.ledger, labels, call.get("dim") % x.dim(), len(outs))
    grids: list[list[Grid]] = [[] for _ in outs]
    for grid in labels.grids:
        full = grid.expand(x.shape)
        if call.name in VIEWS:
            results = [full.reshape(outs[0].shape)]
        else:
            results = list(tensors_in(_applied(call, full)))
        for found, result in zip(grids, results, strict=True):
            small = compressed(result)
            if varying(small):
                found.append(small)
            else:
                tracer.ledger.block(small, tracer.reason(PICKED))
            if len(varying(small)) > 1:
                tracer.ledger.shaped.append(small)
    pure = labels.pure and call.name not in ("im2col", "tril", "triu")  # these add zeros
    for out, found in zip(outs, grids, strict=True):
        tracer.put(out, replace(labels, grids=tuple(found), pure=pure))
    _note_numbers(tracer, call, labels, outs)


def _note_numbers(tracer: Tracer, call: Call, labels: Labels, outs: list[Tensor]) -> None:
    """Record the sizes that the operator was given, and those that it returned."""
    if call.name in SPLITS:
        d = call.get("dim") % outs[0].dim()
        tracer.note_sizes([tracer.sizes(out)[d] for out in outs], given=True)
    if call.name == "slice":
        d = call.get("dim") % outs[0].dim()
        size = call.tensors[0].shape[d]
        told = [call.get("start") or 0, size if call.get("end") is None else call.get("end")]
        ends = [min(size, end + size if end < 0 else end) for end in told]
        for grid in labels.grids:
            if d in varying(grid):
                if 1 in ends:  # it could not be told from other numbers that are 1
                    tracer.ledger.block(grid.narrow(d, 0, 1), tracer.reason(PICKED))
                parts = [(grid.narrow(d, 0, end), d) if end > 1 else end for end in ends]
                tracer.note_sizes(parts, given=True)
                for end in {end for end in told if end < -1}:  # counted from the end
                    tracer.note_sizes([(grid.narrow(d, size + end, -end), d)], given=True)
    for out in outs:
        tracer.note_sizes(tracer.sizes(out), given=call.name in (*VIEWS, "expand"))


def _applied(call: Call, full: Grid) -> object:
    args = list(call.args)
    args[0] = full
    if call.name == "im2col":  # takes only floating numbers; labels are far below 2^53
        args[0] = full.double()
        return call.func(*args, **call.kwargs).long()
    return call.func(*args, **call.kwargs)


def _indexed(call: Call, ndim: int) -> Iterable[int]:
    indices = call.get("indices")
    if any(index is not None and index.dtype == torch.bool for index in indices):
        return range(ndim)
    return [d for d, index in enumerate(indices) if index is not None]


POSITIONS: dict[str, tuple[Callable[[Call, int], Iterable[int]], str]] = {
    **dict.fromkeys(("select", "unbind"), (lambda call, ndim: [call.get("dim")], PICKED)),
    "index_select": (lambda call, ndim: [call.get("dim")], LISTED),
    "index": (_indexed, LISTED),
    "roll": (lambda call, ndim: call.get("dims") or range(ndim), "is rolled"),
    **dict.fromkeys(("tril", "triu"), (lambda call, ndim: [-2, -1], "is in a triangle")),
}
"""Operators that depend on positions: along which dimensions, and the reason why those stay."""


def _tied(ledger: Ledger, labels: Labels, d: int, pieces: int) -> list[Grid]:
    """Cut together the same place of equal pieces, so that they stay equal.

    Returns:
        The grids of one piece.
    """
    return [
        ledger.joined_along(grid.unflatten(d, (pieces, -1)), [d]).squeeze(d)  # type: ignore[no-untyped-call]
        if d in varying(grid)
        else grid
        for grid in labels.grids
    ]


def padded(tracer: Tracer, call: Call) -> None:
    """Rule of constant_pad_nd: channels that it adds must stay."""
    x, pad = call.get("self"), list(call.get("pad"))
    labels = tracer.labels(x)
    touched = {x.dim() - 1 - at // 2 for at, count in enumerate(pad) if count}
    grids = []
    for grid in labels.grids:
        if varying(grid) & touched:
            fixed = tracer.ledger.new_fixed((1,), tracer.reason("is a channel that padding adds"))
            own = [p if x.dim() - 1 - at // 2 in varying(grid) else 0 for at, p in enumerate(pad)]
            grids.append(torch.constant_pad_nd(grid, own, int(fixed)))
        else:
            grids.append(grid)
    zero = labels.zero and not call.get("value")
    tracer.put(call.out, replace(labels, grids=tuple(grids), zero=zero, pure=False))


def concatenated(tracer: Tracer, call: Call) -> None:
    """Rule of cat: labels follow each other along its dimension and are tied along all others."""
    ledger, ndim = tracer.ledger, call.out.dim()
    d = call.get("dim") % ndim
    operands = [tracer.labels(x) for x in call.get("tensors") if x.dim() == ndim]
    why = tracer.reason("is concatenated with a tensor that is not pruned")
    parts = linked(
        [(at, t.grid) for at, o in enumerate(operands) for t in ledger.tie([o], ndim, why)]
    )
    along = next((part for part in parts if any(d in varying(grid) for _, grid in part)), [])
    rest = [pair for part in parts if part is not along for pair in part]
    beside = [
        Labels(tuple(1 if e == d else size for e, size in enumerate(o.shape)), _owned(rest, at))
        for at, o in enumerate(operands)
    ]
    labels = joint(operands, ledger.tie(beside, ndim, why))
    grids = [_in_a_row(ledger, operands, along, d, why)] if along else []
    pure = labels.pure and not rest
    weight = all(operand.weight for operand in operands)
    tracer.put(call.out, replace(labels, grids=(*grids, *labels.grids), pure=pure, weight=weight))


def _owned(pairs: Iterable[tuple[int, Grid]], owner: int) -> tuple[Grid, ...]:
    return tuple(grid for at, grid in pairs if at == owner)


def _in_a_row(
    ledger: Ledger,
    operands: Sequence[Labels],
    along: Sequence[tuple[int, Grid]],
    d: int,
    why: str,
) -> Grid:
    """Return one grid along the cat's dimension, and along those that vary with it."""
    reach = frozenset[int]().union(*(varying(grid) for _, grid in along))
    pieces = []
    for at, operand in enumerate(operands):
        shape = [size if e in reach else 1 for e, size in enumerate(operand.shape)]
        grids = _owned(along, at) or (ledger.new_fixed(shape, why),)
        for grid in grids[1:]:
            ledger.join(grids[0], grid)
        pieces.append(grids[0].expand(shape))
    grid = torch.cat(pieces, d)
    if len(varying(grid)) > 1:
        ledger.shaped.append(grid)
    return grid


def stacked(tracer: Tracer, call: Call) -> None:
    """Rule of stack: tensors are tied element by element."""
    tensors, d = call.get("tensors"), call.get("dim") % call.out.dim()
    operands = [tracer.labels(tensor) for tensor in tensors]
    why = tracer.reason("is stacked with a tensor that is not pruned")
    labels = joint(operands, tracer.ledger.tie(operands, call.out.dim() - 1, why))
    grids = tuple(grid.unsqueeze(d) for grid in labels.grids)
    weight = all(operand.weight for operand in operands)
    tracer.put(call.out, replace(labels, grids=grids, pure=False, weight=weight))


def gated(tracer: Tracer, call: Call) -> None:
    """Rule of glu: the halves of a dimension are multiplied."""
    x, d = call.get("self"), call.get("dim") % call.out.dim()
    labels = tracer.labels(x)
    tracer.put(call.out, replace(labels, grids=tuple(_tied(tracer.ledger, labels, d, 2))))


def copied(tracer: Tracer, call: Call) -> None:
    """Rule of copies, and of new tensors of the same shape: they have the same labels."""
    x = call.tensors[0]
    labels = tracer.labels(x)
    if isinstance(call.out, Tensor) and call.out.shape == x.shape:
        if call.name.endswith("_like"):
            labels = replace(labels, zero=call.name == "zeros_like", pure=True, weight=False)
        tracer.put(call.out, labels)


def ignored(tracer: Tracer, call: Call) -> None:
    """Rule of operators that use only the shape, and of filling with zeros."""


RULES = {
    **dict.fromkeys(
        (*VIEWS, "permute", "transpose", "t", "expand", "slice", "select", "split", "chunk"), moved
    ),
    **dict.fromkeys(
        ("split_with_sizes", "unbind", "repeat", "flip", "roll", "unfold", "im2col", "index"), moved
    ),
    **dict.fromkeys(("index_select", "pixel_shuffle", "pixel_unshuffle", "tril", "triu"), moved),
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), moved),
    "constant_pad_nd": padded,
    "cat": concatenated,
    "stack": stacked,
    "glu": gated,
    **dict.fromkeys(("clone", "_to_copy", "contiguous", "alias", "detach", "lift_fresh"), copied),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like"), copied),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "zero"), ignored),
}
