"""Operators that add products up: layers with weights, matrix products, attention."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from secateur.pruning.channels.labels import Grid, Labels, Operand, varied
from secateur.pruning.channels.tracing import Call, Reading, Tracer

UNLABELLED = "meets a tensor that is not pruned along with it"


def contracted(
    tracer: Tracer,
    operands: tuple[Operand, Operand],
    dims: tuple[str, str],
    out: str,
    *,
    read: Tensor | None = None,
    foldable: bool = False,
) -> Labels | None:
    """Return the labels of a product that is summed over the letters that `out` lacks.

    Args:
        tracer: told of what is read and written.
        operands: two tensors.
        dims: a letter for each of their dimensions.
        out: the letters of the outcome's dimensions.
        read: the first operand's values.
        foldable: constants that are read could be added to a bias.
    """
    if operands[0].known.weight and not operands[1].known.weight:
        operands, dims = operands[::-1], dims[::-1]
    ledger, space = tracer.ledger, sorted({*dims[0], *dims[1], *out})
    summed = frozenset(space.index(letter) for letter in {*dims[0], *dims[1]} - {*out})
    ends: list[Operand] = []
    passes: list[Operand] = []
    for operand, letters in zip(operands, dims, strict=True):
        sizes = dict(zip(letters, operand.shape, strict=True))
        shape = tuple(sizes.get(letter, 1) for letter in space)
        grids = [_spread(grid, letters, space) for grid in operand.grids]
        grids = [
            ledger.joined_along(grid, sorted(varied(grid) & summed))
            if varied(grid) & summed and varied(grid) - summed
            else grid
            for grid in grids
        ]
        ending = tuple(grid for grid in grids if varied(grid) <= summed)
        passing = tuple(grid for grid in grids if not varied(grid) <= summed)
        ends.append(Operand(shape, replace(operand.known, grids=ending)))
        passes.append(Operand(shape, replace(operand.known, grids=passing)))
    first, second = (operand.known for operand in passes)
    _end(tracer, ends, read, foldable)
    met = ledger.meet(passes, len(space), tracer.at(UNLABELLED))
    if second.weight:
        tracer.trace.written.extend(m.grid for m in met if m.owners == {1})
    flags = (first, second)
    return Labels(
        tuple(_gathered(m.grid, out, space) for m in met),
        zero=all(any(flags[at].zero for at in m.owners) for m in met),
        pure=second.weight and all(m.owners == {1} for m in met),
        weight=first.weight and second.weight,
        buffer=all(o.labels.buffer for o in operands if o.labels and o.labels.grids),
    )


def _end(tracer: Tracer, operands: list[Operand], values: Tensor | None, foldable: bool) -> None:
    """Tie the channels over which two tensors are contracted."""
    first, second = (operand.known for operand in operands)
    by_weight = first.weight or second.weight
    if not (by_weight or first.zero or second.zero):
        for labels in (first, second):
            for grid in labels.grids:
                tracer.ledger.block(grid, tracer.at("is added up while it need not be zero"))
        return
    for met in tracer.ledger.meet(operands, len(operands[0].shape), tracer.at(UNLABELLED)):
        mine, other = (
            next((g for g in labels.grids if varied(g) == varied(met.grid)), met.grid)
            for labels in (first, second)
        )
        if second.weight:
            note(tracer, first, mine, other, values, foldable)
        else:
            both = replace(first, zero=first.zero or second.zero, pure=False)
            note(tracer, both, mine, None, None, False)


def note(
    tracer: Tracer,
    labels: Labels,
    channels: Grid,
    weight: Grid | None,
    values: Tensor | None,
    foldable: bool,
) -> None:
    """Remember that channels are read."""
    if weight is not None and weight.numel() != channels.numel():
        weight = None
    fits = values is not None and values.numel() == channels.numel()
    tracer.trace.readings.append(
        Reading(
            channels.reshape(-1),
            None if weight is None else weight.reshape(-1),
            values.reshape(-1).double().cpu() if fits and values is not None else None,
            labels,
            foldable,
        )
    )


def _spread(grid: Grid, letters: str, space: list[str]) -> Grid:
    """Return a grid over its letters as one over all letters."""
    order = sorted(range(len(letters)), key=lambda d: space.index(letters[d]))
    sizes = dict(zip(letters, grid.shape, strict=True))
    return grid.permute(order).reshape([sizes.get(letter, 1) for letter in space])


def _gathered(grid: Grid, out: str, space: list[str]) -> Grid:
    """Return a grid over all letters as one over the outcome's."""
    for d in range(len(space) - 1, -1, -1):
        if space[d] not in out:
            grid = grid.select(d, 0)
    left = [letter for letter in space if letter in out]
    return grid.permute([left.index(letter) for letter in out])


def _add(tracer: Tracer, labels: Labels | None, shape: tuple[int, ...], bias: object) -> Labels:
    """Return the labels of a sum with a bias."""
    labels = labels or Labels((), zero=False, pure=False)
    if not isinstance(bias, Tensor):
        return labels
    own = tracer.labels(bias)
    operands = [Operand(shape, labels), tracer.operand(bias)]
    met = tracer.ledger.meet(operands, len(shape), tracer.at(UNLABELLED))
    zero = labels.zero and own is not None and own.zero
    return replace(
        labels,
        grids=tuple(m.grid for m in met),
        zero=zero,
        weight=labels.weight and own is not None and own.weight,
    )


def linear(tracer: Tracer, call: Call) -> None:
    """Rule of linear(x [..., I], weight [O, I], bias [O])."""
    x, weight, bias = call.get("input"), call.get("weight"), call.get("bias")
    batch = "abcdefgh"[: x.dim() - 1]
    first = x.reshape(-1, x.shape[-1])[:1] if x.numel() else None
    labels = contracted(
        tracer,
        (tracer.operand(x), tracer.operand(weight)),
        (f"{batch}i", "oi"),
        f"{batch}o",
        read=first,
        foldable=True,
    )
    tracer.put(call.out, _add(tracer, labels, tuple(call.out.shape), bias))


def matmul(tracer: Tracer, call: Call) -> None:
    """Rule of mm, bmm and matmul; of addmm and baddbmm too, where alpha and beta are 1."""
    tensors = call.tensors
    a, b = tensors[-2:]
    bias = tensors[0] if len(tensors) == 3 else None
    plain = bias is not None and call.get("alpha") == 1 and call.get("beta") == 1
    ndim = max(a.dim(), b.dim())
    letters = "abcdefgh"[: max(ndim - 2, 0)]
    left = letters[len(letters) + 2 - a.dim() :] * (a.dim() > 2) + "mk"[-a.dim() :]
    right = letters[len(letters) + 2 - b.dim() :] * (b.dim() > 2) + "kn"[: b.dim()]
    out = letters + "m" * (a.dim() > 1) + "n" * (b.dim() > 1)
    values = a.reshape(-1, a.shape[-1])[:1] if a.numel() else None
    labels = contracted(
        tracer,
        (tracer.operand(a), tracer.operand(b)),
        (left, right),
        out,
        read=values,
        foldable=plain,
    )
    tracer.put(call.out, _add(tracer, labels, tuple(call.out.shape), bias))


def einsum(tracer: Tracer, call: Call) -> None:
    """Rule of einsum of two tensors, each letter once in each."""
    equation = call.get("equation").replace(" ", "")
    inputs, arrow, out = equation.partition("->")
    parts = inputs.split(",")
    tensors = call.tensors
    plain = arrow and "." not in equation and len(parts) == len(tensors) == 2
    if not plain or any(len(set(part)) < len(part) for part in (*parts, out)):
        tracer.block(tensors, tracer.at(f"reaches aten.einsum as {equation!r}"))
        return
    alone = (set(parts[0]) ^ set(parts[1])) - set(out)
    operands = [tracer.operand(tensor) for tensor in tensors]
    for at, (operand, part) in enumerate(zip(operands, parts, strict=True)):
        if operand.labels and alone & set(part):
            dims = [part.index(letter) for letter in alone & set(part)]
            grids = tracer.ledger.fix_all(operand.labels, dims, tracer.at("is added up"))
            operands[at] = Operand(operand.shape, replace(operand.labels, grids=grids))
    tracer.put(call.out, contracted(tracer, (operands[0], operands[1]), (parts[0], parts[1]), out))


def attention(tracer: Tracer, call: Call) -> None:
    """Rule of scaled_dot_product_attention(q [.., L, E], k [.., S, E], v [.., S, V])."""
    ledger = tracer.ledger
    q, k, v = (tracer.operand(call.get(name)) for name in ("query", "key", "value"))
    scaled = call.get("scale") is not None
    fixed = []
    for operand, last in ((q, not scaled), (k, not scaled), (v, False)):
        labels = operand.labels
        if labels:
            ndim = len(operand.shape)
            grids = ledger.fix_all(labels, [ndim - 2], tracer.at("is attended over"))
            if last:
                why = tracer.at("scales attention by the size of a head")
                grids = ledger.fix_all(replace(labels, grids=grids), [ndim - 1], why)
            labels = replace(labels, grids=grids)
        fixed.append(Operand(operand.shape, labels))
    q, k, v = fixed
    if call.get("enable_gqa") and q.shape[-3] != k.shape[-3]:
        k, v = _repeated(k, q.shape[-3]), _repeated(v, q.shape[-3])
    batch = "abcdefgh"[: len(q.shape) - 2]
    scores = contracted(tracer, (q, k), (f"{batch}le", f"{batch}se"), f"{batch}ls")
    shape = (*q.shape[:-1], k.shape[-2])
    operands = [Operand(shape, scores and replace(scores, zero=False))]
    if isinstance(mask := call.get("attn_mask"), Tensor):
        operands.append(tracer.operand(mask))
    met = ledger.meet(operands, len(shape), tracer.at(UNLABELLED))
    grids = tuple(m.grid for m in met)
    weights = Operand(shape, Labels(grids, zero=False, pure=False) if grids else None)
    labels = contracted(tracer, (weights, v), (f"{batch}ls", f"{batch}sv"), f"{batch}lv")
    tracer.put(call.out, labels and replace(labels, pure=False))


def _repeated(operand: Operand, heads: int) -> Operand:
    """Return keys or values [.., H, S, E] with each head repeated for its queries."""
    shape = list(operand.shape)
    times = heads // shape[-3]
    shape[-3] = heads
    grids = tuple(
        grid.repeat_interleave(times, -3) if grid.shape[-3] > 1 else grid for grid in operand.grids
    )
    return Operand(tuple(shape), operand.labels and replace(operand.labels, grids=grids))


def convolution(tracer: Tracer, call: Call) -> None:
    """Rule of convolution, transposed or not, in any number of groups."""
    x, weight, bias = call.get("input"), call.get("weight"), call.get("bias")
    groups, transposed = call.get("groups"), call.get("transposed")
    why = tracer.at("is a position of a convolution's kernel or plane")
    operands = []
    for tensor, dims in ((x, (0, *range(2, x.dim()))), (weight, range(2, weight.dim()))):
        operand = tracer.operand(tensor)
        if operand.labels:
            grids = tracer.ledger.fix_all(operand.labels, dims, why)
            operand = Operand(operand.shape, replace(operand.labels, grids=grids))
        operands.append(operand)
    given, kernel = operands
    if groups == 1:
        plane = "pqrst"[: x.dim() - 2]
        labels = contracted(
            tracer,
            (given, kernel),
            (f"nc{plane}", ("co" if transposed else "oc") + plane.upper()),
            f"no{plane}",
            read=x[:1].flatten(2)[:, :, 0] if x.numel() else None,
            foldable=not transposed and not any(call.get("padding")),
        )
    else:
        labels = _grouped(tracer, given, kernel, call)
    tracer.put(call.out, _channel_bias(tracer, labels, tuple(call.out.shape), bias))


def _channel_bias(
    tracer: Tracer, labels: Labels | None, shape: tuple[int, ...], bias: object
) -> Labels:
    if not isinstance(bias, Tensor):
        return labels or Labels((), zero=False, pure=False)
    view = (-1,) + (1,) * (len(shape) - 2)
    own = tracer.labels(bias)
    raised = bias.reshape(view)
    if own:
        tracer.put(raised, replace(own, grids=tuple(g.reshape(view) for g in own.grids)))
    return _add(tracer, labels, shape, raised)


def _grouped(tracer: Tracer, x: Operand, weight: Operand, call: Call) -> Labels | None:
    """Tie the channels of a grouped convolution; depthwise, each to its own.

    In other groups, channels at the same place of every group are cut together.
    """
    ledger, groups = tracer.ledger, call.get("groups")
    inputs, outputs = x.shape[1], call.out.shape[1]
    flat = [
        next((g.reshape(-1) for g in o.grids if varied(g) == {d}), None)
        for o, d in ((x, 1), (weight, 0), (weight, 1))
    ]
    given, first, second = flat
    why = tracer.at("is in a grouped convolution of channels that are not pruned")
    known = [grid for grid in flat if grid is not None]
    if call.get("transposed"):
        writes = first if outputs == inputs == groups else second
        reads = first if writes is second else None
    else:
        writes, reads = first, second
    if writes is None or (given is None and (reads is not None or groups == inputs)):
        for grid in known:
            ledger.block(grid, why)
        return None
    depthwise = groups == inputs and (not call.get("transposed") or writes is first)
    if depthwise:
        assert given is not None
        ledger.join(writes.reshape(groups, -1), given.reshape(groups, 1))
        out = writes
    else:
        if given is not None and reads is not None:
            ledger.join(given.reshape(groups, -1), reads.reshape(-1, inputs // groups))
            ledger.joined_along(given.reshape(groups, -1), [0])
            spread = reads if len(reads) == inputs else reads.repeat(groups)
            source = x.labels
            assert source is not None
            note(tracer, source, given, spread, None, False)
        elif given is not None:
            ledger.block(given, why)
        out = writes if len(writes) == outputs else writes.repeat(groups)
        ledger.joined_along(out.reshape(groups, -1), [0])
    tracer.trace.written.append(writes)
    shape = [1] * len(x.shape)
    shape[1] = outputs
    return Labels((out.reshape(shape),), zero=True, pure=True)


def embedding(tracer: Tracer, call: Call) -> None:
    """Rule of embedding(weight [V, C], indices [..]) → [.., C]."""
    weight, indices = call.get("weight"), call.get("indices")
    tracer.block(indices, tracer.at("is an index into a table"))
    labels = tracer.labels(weight)
    if labels is None:
        return
    grids = tracer.ledger.fix_all(labels, [0], tracer.at("is looked up by its index"))
    shape = (1,) * indices.dim() + (-1,)
    out = tuple(grid.reshape(shape) for grid in grids)
    if labels.weight:
        tracer.trace.written.extend(out)
    tracer.put(call.out, replace(labels, grids=out, weight=False, pure=False))


RULES = {
    "linear": linear,
    **dict.fromkeys(("mm", "bmm", "matmul", "addmm", "baddbmm"), matmul),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "convolution": convolution,
    "embedding": embedding,
}
