"""Operators that only move elements: they are run on the labels themselves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from secateur.model.inputs import tensors_in
from secateur.pruning.channels.labels import Grid, Labels, Operand, compressed, varied
from secateur.pruning.channels.tracing import Call, Tracer

VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze")

SPLITS = ("split", "chunk", "split_with_sizes")

PICKING = {"select": "is picked by its position", "unbind": "is picked by its position"}
TURNING = {"roll": "is rolled", "index_select": "is picked by a list of positions"}


def moved(tracer: Tracer, call: Call) -> None:
    """Run an operator on the labels of its first argument, for each of its outputs."""
    x = call.tensors[0]
    labels = tracer.labels(x)
    tracer.block(call.tensors[1:], tracer.at(f"is an index of aten.{call.name}"))
    if labels is None:
        return
    labels = replace(labels, grids=_fixed(tracer, call, x, labels))
    outs = list(tensors_in(call.out))
    if call.name in SPLITS and len({out.shape for out in outs}) == 1:
        _tie_pieces(tracer, call, labels, len(outs))
    grids: list[list[Grid]] = [[] for _ in outs]
    for grid in labels.grids:
        full = grid.expand(x.shape)
        if call.name in VIEWS:
            results = [full.reshape(outs[0].shape)]
        else:
            results = list(tensors_in(_applied(call, full)))
        for found, result in zip(grids, results, strict=True):
            small = compressed(result)
            if varied(small):
                found.append(small)
            else:
                tracer.ledger.block(small, tracer.at("is picked by its position"))
            if len(varied(small)) > 1:
                tracer.ledger.shaped.append(small)
    pure = labels.pure and call.name not in ("im2col", "tril", "triu")  # these put zeros in
    for out, found in zip(outs, grids, strict=True):
        tracer.put(out, replace(labels, grids=tuple(found), pure=pure))
    _note_numbers(tracer, call, labels, outs)


def _note_numbers(tracer: Tracer, call: Call, labels: Labels, outs: list[Tensor]) -> None:
    """Remember the sizes that the operator was told, and those that came of it."""
    if call.name in SPLITS:
        d = call.get("dim") % outs[0].dim()
        tracer.note_sizes([tracer.sizes(out)[d] for out in outs], given=True)
    if call.name == "slice":
        d = call.get("dim") % outs[0].dim()
        size = call.tensors[0].shape[d]
        told = [call.get("start") or 0, size if call.get("end") is None else call.get("end")]
        ends = [min(size, end + size if end < 0 else end) for end in told]
        for grid in labels.grids:
            if d in varied(grid):
                if 1 in ends:  # nobody could tell that 1 from all others
                    tracer.ledger.block(grid.narrow(d, 0, 1), tracer.at(PICKING["select"]))
                parts = [(grid.narrow(d, 0, end), d) if end > 1 else end for end in ends]
                tracer.note_sizes(parts, given=True)
                for end in {end for end in told if end < -1}:  # counted from the other side
                    tracer.note_sizes([(grid.narrow(d, size + end, -end), d)], given=True)
    for out in outs:
        tracer.note_sizes(tracer.sizes(out), given=call.name in (*VIEWS, "expand"))


def _applied(call: Call, full: Grid) -> object:
    args = list(call.args)
    args[0] = full
    if call.name == "im2col":  # made for floating numbers; labels are far below 2^53
        args[0] = full.double()
        return call.func(*args, **call.kwargs).long()
    return call.func(*args, **call.kwargs)


def _fixed(tracer: Tracer, call: Call, x: Tensor, labels: Labels) -> tuple[Grid, ...]:
    """Return the grids without dimensions whose positions the operator names."""
    dims: list[int] = []
    why = PICKING.get(call.name) or TURNING.get(call.name, "is picked by a list of positions")
    if call.name in ("select", "unbind", "index_select"):
        dims = [call.get("dim") % x.dim()]
    elif call.name == "roll":
        dims = [d % x.dim() for d in call.get("dims")] or list(range(x.dim()))
    elif call.name in ("tril", "triu"):
        dims = [x.dim() - 2, x.dim() - 1]
        why = "is in a triangle"
    elif call.name == "index":
        dims = [d for d, index in enumerate(call.get("indices")) if index is not None]
        if any(index is not None and index.dtype == torch.bool for index in call.get("indices")):
            dims = list(range(x.dim()))
    return tracer.ledger.fix_all(labels, dims, tracer.at(why))


def _tie_pieces(tracer: Tracer, call: Call, labels: Labels, pieces: int) -> None:
    """Cut together the same place of equal pieces, so that they stay equal."""
    for grid in labels.grids:
        d = call.get("dim") % grid.dim()
        if d in varied(grid):
            parts = grid.unflatten(d, (pieces, -1))  # type: ignore[no-untyped-call]
            tracer.ledger.joined_along(parts, [d])


def padded(tracer: Tracer, call: Call) -> None:
    """Rule of constant_pad_nd: what is added along channels must stay."""
    x, pad = call.get("self"), list(call.get("pad"))
    labels = tracer.labels(x)
    if labels is None:
        return
    touched = {x.dim() - 1 - at // 2 for at, count in enumerate(pad) if count}
    grids = []
    for grid in labels.grids:
        if varied(grid) & touched:
            fixed = tracer.ledger.fixed((1,), tracer.at("is a channel that padding adds"))
            own = [p if x.dim() - 1 - at // 2 in varied(grid) else 0 for at, p in enumerate(pad)]
            grids.append(torch.constant_pad_nd(grid, own, int(fixed)))
        else:
            grids.append(grid)
    zero = labels.zero and not call.get("value")
    tracer.put(call.out, replace(labels, grids=tuple(grids), zero=zero, pure=False))


def concatenated(tracer: Tracer, call: Call) -> None:
    """Rule of cat: labels one behind the other along its dimension, tied along all others."""
    tensors = [t for t in call.get("tensors") if t.dim() == call.out.dim()]
    ndim, d = call.out.dim(), call.get("dim") % call.out.dim()
    known = [labels for t in tensors if (labels := tracer.labels(t))]
    why = tracer.at("is concatenated with a tensor that is not pruned")
    beside: list[list[Grid]] = [[] for _ in tensors]
    along: list[list[Grid]] = [[] for _ in tensors]
    for at, tensor in enumerate(tensors):
        labels = tracer.labels(tensor)
        if labels:
            own = tracer.ledger.meet([Operand(tuple(tensor.shape), labels)], ndim, why)
            for met in own:
                (along if d in varied(met.grid) else beside)[at].append(met.grid)
    grids = []
    reach = frozenset(e for found in along for grid in found for e in varied(grid))
    if reach:
        for at in range(len(tensors)):  # those that share another dimension go along
            shared = [grid for grid in beside[at] if varied(grid) & reach]
            beside[at] = [grid for grid in beside[at] if not varied(grid) & reach]
            along[at] += shared
        grids.append(_behind(tracer, tensors, along, (d, reach), why))
    shapes = [[1 if e == d else size for e, size in enumerate(t.shape)] for t in tensors]
    operands = [
        Operand(tuple(shape), Labels(tuple(found), zero=False, pure=False))
        for shape, found in zip(shapes, beside, strict=True)
    ]
    grids += [met.grid for met in tracer.ledger.meet(operands, ndim, why)]
    pure = all(labels.pure for labels in known) and not any(beside)
    weight = all(labels.weight for labels in known) and len(known) == len(tensors)
    zero = all(labels.zero for labels in known)
    buffer = all(labels.buffer for labels in known)
    tracer.put(call.out, Labels(tuple(grids), zero, pure, weight, buffer))


def _behind(
    tracer: Tracer,
    tensors: list[Tensor],
    along: list[list[Grid]],
    dims: tuple[int, frozenset[int]],
    why: str,
) -> Grid:
    """Return one grid over the cat's dimension and those that its grids have beside it."""
    d, reach = dims
    ledger, pieces = tracer.ledger, []
    for tensor, grids in zip(tensors, along, strict=True):
        shape = [size if e in reach else 1 for e, size in enumerate(tensor.shape)]
        if not grids:
            pieces.append(ledger.fixed(shape, why))
            continue
        for grid in grids[1:]:
            ledger.join(grids[0], grid)
        pieces.append(grids[0].expand(shape))
    sizes = [{piece.shape[e] for piece in pieces} for e in range(len(pieces[0].shape))]
    assert all(len(found) == 1 for e, found in enumerate(sizes) if e != d)
    grid = torch.cat(pieces, d)
    if len(varied(grid)) > 1:
        ledger.shaped.append(grid)
    return grid


def stacked(tracer: Tracer, call: Call) -> None:
    """Rule of stack: tensors are tied element by element."""
    tensors, d = call.get("tensors"), call.get("dim") % call.out.dim()
    known = [labels for t in tensors if (labels := tracer.labels(t))]
    why = tracer.at("is stacked with a tensor that is not pruned")
    met = tracer.ledger.meet([tracer.operand(t) for t in tensors], call.out.dim() - 1, why)
    labels = Labels(
        tuple(m.grid.unsqueeze(d) for m in met),
        zero=all(labels.zero for labels in known),
        pure=False,
        weight=all(labels.weight for labels in known) and len(known) == len(tensors),
        buffer=all(labels.buffer for labels in known),
    )
    tracer.put(call.out, labels)


def gated(tracer: Tracer, call: Call) -> None:
    """Rule of glu: the halves of a dimension are multiplied."""
    x, d = call.get("self"), call.get("dim") % call.out.dim()
    labels = tracer.labels(x)
    if labels is None:
        return
    grids = []
    for grid in labels.grids:
        if d in varied(grid):
            halves = grid.unflatten(d, (2, -1))  # type: ignore[no-untyped-call]
            grids.append(tracer.ledger.joined_along(halves, [d]).squeeze(d))
        else:
            grids.append(grid)
    tracer.put(call.out, replace(labels, grids=tuple(grids)))


def same(tracer: Tracer, call: Call) -> None:
    """Rule of copies: the labels stay; of tensors that only look alike, too."""
    x = call.tensors[0]
    labels = tracer.labels(x)
    if isinstance(call.out, Tensor) and labels and call.out.shape == x.shape:
        if call.name.endswith("_like"):
            labels = replace(labels, zero=call.name == "zeros_like", pure=True, weight=False)
        tracer.put(call.out, labels)


def unseen(tracer: Tracer, call: Call) -> None:
    """Rule of operators that only ask for a shape; of filling with zero, which moves nothing."""


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
    **dict.fromkeys(("clone", "_to_copy", "contiguous", "alias", "detach", "lift_fresh"), same),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "rand_like"), same),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty", "zero"), unseen),
}
