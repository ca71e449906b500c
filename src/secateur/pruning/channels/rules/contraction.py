"""Operators that sum products: layers with weights, matrix products, attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from secateur.pruning.channels.labels import Grid, Labels, over_channels, varying
from secateur.pruning.channels.tracing import Call, Tracer

UNLABELLED = "meets a tensor that is not pruned along with it"
UNLABELLED_GROUPS = "is in a grouped convolution of channels that are not pruned"


def contracted(
    tracer: Tracer,
    operands: tuple[Labels, Labels],
    dims: tuple[str, str],
    out: str,
    *,
    read: Tensor | None = None,
    foldable: bool = False,
) -> Labels:
    """Return the labels of a product that is summed over the letters that `out` lacks.

    Args:
        tracer: told of what is read and written.
        operands: of two tensors.
        dims: a letter for each of their dimensions.
        out: the letters of the outcome's dimensions.
        read: the first operand's values.
        foldable: constants that are read could be added to a bias.
    """
    if operands[0].weight and not operands[1].weight:
        operands, dims = operands[::-1], dims[::-1]
    space = sorted({*dims[0], *dims[1], *out})
    summed = frozenset(d for d, letter in enumerate(space) if letter not in out)
    spread = [_spread(labels, of, space) for labels, of in zip(operands, dims, strict=True)]
    ends, passes = zip(
        *(_ending_and_passing(tracer, labels, summed) for labels in spread), strict=True
    )
    _sum_over(tracer, ends, read, foldable)
    tied = tracer.ledger.tie(passes, len(space), tracer.reason(UNLABELLED))
    first, second = passes
    if second.weight:
        tracer.trace.written.extend(t.grid for t in tied if t.owners == {1})
    sizes = [max(first.shape[d], second.shape[d]) for d in range(len(space))]
    return Labels(
        tuple(sizes[space.index(letter)] for letter in out),
        tuple(_gathered(t.grid, out, space) for t in tied),
        zero=all(any(passes[at].zero for at in t.owners) for t in tied),
        pure=second.weight and all(t.owners == {1} for t in tied),
        weight=first.weight and second.weight,
        buffer=all(labels.buffer for labels in operands if labels.grids),
    )


def _ending_and_passing(
    tracer: Tracer, labels: Labels, summed: frozenset[int]
) -> tuple[Labels, Labels]:
    """Return the labels that end in a sum over some dimensions, and those that pass."""
    ends = tuple(grid for grid in labels.grids if varying(grid) <= summed)
    passes = tuple(
        tracer.ledger.joined_along(grid, sorted(varying(grid) & summed))
        for grid in labels.grids
        if not varying(grid) <= summed
    )
    return replace(labels, grids=ends), replace(labels, grids=passes)


def _sum_over(
    tracer: Tracer, operands: Sequence[Labels], values: Tensor | None, foldable: bool
) -> None:
    """Tie the channels over which two tensors are multiplied and summed."""
    first, second = operands
    if not (first.weight or second.weight or first.zero or second.zero):
        for grid in (*first.grids, *second.grids):
            tracer.ledger.block(grid, tracer.reason("is summed over but need not be zero"))
        return
    for tied in tracer.ledger.tie(operands, len(first.shape), tracer.reason(UNLABELLED)):
        mine, other = (
            next((g for g in labels.grids if varying(g) == varying(tied.grid)), tied.grid)
            for labels in operands
        )
        if second.weight:
            tracer.note_read(first, mine, other, values, foldable=foldable)
        else:
            zero = first.zero or second.zero
            tracer.note_read(replace(first, zero=zero, pure=False), mine)


def _spread(labels: Labels, letters: str, space: list[str]) -> Labels:
    """Return the labels of a tensor over its letters as one over all letters."""
    order = sorted(range(len(letters)), key=lambda d: space.index(letters[d]))

    def shape(of: Sequence[int]) -> list[int]:
        sizes = dict(zip(letters, of, strict=True))
        return [sizes.get(letter, 1) for letter in space]

    grids = tuple(grid.permute(order).reshape(shape(grid.shape)) for grid in labels.grids)
    return replace(labels, shape=tuple(shape(labels.shape)), grids=grids)


def _gathered(grid: Grid, out: str, space: list[str]) -> Grid:
    """Return a grid over all letters as one over those of the outcome."""
    for d in range(len(space) - 1, -1, -1):
        if space[d] not in out:
            grid = grid.select(d, 0)
    left = [letter for letter in space if letter in out]
    return grid.permute([left.index(letter) for letter in out])


def _put_with_bias(tracer: Tracer, out: Tensor, labels: Labels, bias: Labels | None) -> None:
    """Record what is known about a product plus a bias, if there is one."""
    if bias is not None:
        operands = [replace(labels, shape=tuple(out.shape)), bias]
        tied = tracer.ledger.tie(operands, out.dim(), tracer.reason(UNLABELLED))
        labels = replace(
            labels,
            grids=tuple(t.grid for t in tied),
            zero=labels.zero and bias.zero,
            weight=labels.weight and bias.weight,
        )
    tracer.put(out, labels)


def linear(tracer: Tracer, call: Call) -> None:
    """Rule of linear(x [..., I], weight [O, I], bias [O])."""
    x, weight, bias = call.get("input"), call.get("weight"), call.get("bias")
    batch = "abcdefgh"[: x.dim() - 1]
    first = x.reshape(-1, x.shape[-1])[:1] if x.numel() else None
    labels = contracted(
        tracer,
        (tracer.labels(x), tracer.labels(weight)),
        (f"{batch}i", "oi"),
        f"{batch}o",
        read=first,
        foldable=True,
    )
    _put_with_bias(tracer, call.out, labels, None if bias is None else tracer.labels(bias))


def matmul(tracer: Tracer, call: Call) -> None:
    """Rule of mm, bmm and matmul; of addmm and baddbmm too, where alpha and beta are 1."""
    tensors = call.tensors
    a, b = tensors[-2:]
    bias = tracer.labels(tensors[0]) if len(tensors) == 3 else None
    plain = bias is not None and call.get("alpha") == 1 and call.get("beta") == 1
    ndim = max(a.dim(), b.dim())
    letters = "abcdefgh"[: max(ndim - 2, 0)]
    left = letters[len(letters) + 2 - a.dim() :] * (a.dim() > 2) + "mk"[-a.dim() :]
    right = letters[len(letters) + 2 - b.dim() :] * (b.dim() > 2) + "kn"[: b.dim()]
    out = letters + "m" * (a.dim() > 1) + "n" * (b.dim() > 1)
    values = a.reshape(-1, a.shape[-1])[:1] if a.numel() else None
    labels = contracted(
        tracer,
        (tracer.labels(a), tracer.labels(b)),
        (left, right),
        out,
        read=values,
        foldable=plain,
    )
    _put_with_bias(tracer, call.out, labels, bias)


def einsum(tracer: Tracer, call: Call) -> None:
    """Rule of einsum of two tensors, each letter once in each."""
    equation = call.get("equation").replace(" ", "")
    inputs, arrow, out = equation.partition("->")
    parts = inputs.split(",")
    tensors = call.tensors
    plain = arrow and "." not in equation and len(parts) == len(tensors) == 2
    if not plain or any(len(set(part)) < len(part) for part in (*parts, out)):
        tracer.block(tensors, tracer.reason(f"reaches aten.einsum as {equation!r}"))
        return
    alone = (set(parts[0]) ^ set(parts[1])) - set(out)
    first, second = (
        tracer.ledger.fix(
            tracer.labels(tensor),
            map(part.index, alone & set(part)),
            tracer.reason("is summed over"),
        )
        for tensor, part in zip(tensors, parts, strict=True)
    )
    tracer.put(call.out, contracted(tracer, (first, second), (parts[0], parts[1]), out))


def attention(tracer: Tracer, call: Call) -> None:
    """Rule of scaled_dot_product_attention(q [.., L, E], k [.., S, E], v [.., S, V])."""
    ledger, mask = tracer.ledger, call.get("attn_mask")
    fixed = {}
    for name in ("query", "key", "value"):
        labels = tracer.labels(call.get(name))
        labels = ledger.fix(labels, [-2], tracer.reason("is attended over"))
        if name != "value" and call.get("scale") is None:
            why = tracer.reason("scales attention by the size of a head")
            labels = ledger.fix(labels, [-1], why)
        fixed[name] = labels
    q, k, v = fixed.values()
    if call.get("enable_gqa") and q.shape[-3] != k.shape[-3]:
        k, v = _repeated(k, q.shape[-3]), _repeated(v, q.shape[-3])
    batch = "abcdefgh"[: len(q.shape) - 2]
    scores = contracted(tracer, (q, k), (f"{batch}le", f"{batch}se"), f"{batch}ls")
    operands = [replace(scores, zero=False)]
    if mask is not None:
        operands.append(tracer.labels(mask))
    tied = ledger.tie(operands, len(q.shape), tracer.reason(UNLABELLED))
    weights = Labels(scores.shape, tuple(t.grid for t in tied))
    labels = contracted(tracer, (weights, v), (f"{batch}ls", f"{batch}sv"), f"{batch}lv")
    tracer.put(call.out, replace(labels, pure=False))


def _repeated(labels: Labels, heads: int) -> Labels:
    """Return keys or values [.., H, S, E] with each head repeated for its queries."""
    times = heads // labels.shape[-3]
    grids = tuple(
        grid.repeat_interleave(times, -3) if grid.shape[-3] > 1 else grid for grid in labels.grids
    )
    return replace(labels, shape=(*labels.shape[:-3], heads, *labels.shape[-2:]), grids=grids)


def convolution(tracer: Tracer, call: Call) -> None:
    """Rule of convolution, transposed or not, in any number of groups."""
    x, weight, bias = call.get("input"), call.get("weight"), call.get("bias")
    transposed = call.get("transposed")
    why = tracer.reason("is a position of a convolution's kernel or plane")
    given = _along_batch(tracer, tracer.ledger.fix(tracer.labels(x), range(2, x.dim()), why))
    kernel = tracer.ledger.fix(tracer.labels(weight), range(2, weight.dim()), why)
    if call.get("groups") == 1:
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
    raised = None if bias is None else over_channels(tracer.labels(bias), x.dim())
    _put_with_bias(tracer, call.out, labels, raised)


def _along_batch(tracer: Tracer, x: Labels) -> Labels:
    """Keep the channels of samples together where samples can be cut: heads, laid into the batch.

    Each of them goes through the same layer, whose own channels then stay.
    """
    grids = tuple(
        tracer.ledger.joined_along(grid, [1]) if {0, 1} <= varying(grid) else grid
        for grid in x.grids
    )
    return replace(x, grids=grids)


def _grouped(tracer: Tracer, x: Labels, weight: Labels, call: Call) -> Labels:
    """Tie the channels of a grouped convolution; depthwise, each to its own.

    In other groups, channels at the same place of every group are cut together.
    """
    ledger, groups, transposed = tracer.ledger, call.get("groups"), call.get("transposed")
    batch = tuple(grid for grid in x.grids if varying(grid) == {0})
    inputs, outputs = x.shape[1], call.out.shape[1]
    given, first, second = _flat_grid(x, 1), _flat_grid(weight, 0), _flat_grid(weight, 1)
    depthwise = inputs == groups and (not transposed or outputs == groups)
    writes, reads = (first, second) if depthwise or not transposed else (second, first)
    if writes is None or (given is None and (reads is not None or inputs == groups)):
        for grid in (given, first, second):
            if grid is not None:
                why = tracer.reason(UNLABELLED_GROUPS)
                ledger.block(grid, why)
        return Labels(x.shape, batch, zero=x.zero)
    if depthwise and given is not None:
        ledger.join(writes.reshape(groups, -1), given.reshape(groups, 1))
    elif given is not None:
        _read_in_groups(tracer, x, given, reads, groups)
    out = writes if len(writes) == outputs else writes.repeat(groups)
    if not depthwise:
        ledger.joined_along(out.reshape(groups, -1), [0])
    tracer.trace.written.append(writes)
    own = out.reshape(1, -1, *[1] * (len(x.shape) - 2))
    return Labels((), (own, *batch), zero=x.zero or not batch, pure=not batch)


def _flat_grid(labels: Labels, d: int) -> Grid | None:
    """Return the grid along one dimension alone, flat, if there is one."""
    return next((grid.reshape(-1) for grid in labels.grids if varying(grid) == {d}), None)


def _read_in_groups(
    tracer: Tracer, x: Labels, given: Grid, reads: Grid | None, groups: int
) -> None:
    """Tie what the groups of a convolution read to its weight's inputs, place by place."""
    if reads is None:
        why = tracer.reason(UNLABELLED_GROUPS)
        tracer.ledger.block(given, why)
        return
    places = given.reshape(groups, -1)
    tracer.ledger.join(places, reads.reshape(-1, places.shape[1]))
    tracer.ledger.joined_along(places, [0])
    spread = reads if len(reads) == len(given) else reads.repeat(groups)
    tracer.note_read(x, given, spread)


def embedding(tracer: Tracer, call: Call) -> None:
    """Rule of embedding(weight [V, C], indices [..]) → [.., C]."""
    weight, indices = call.get("weight"), call.get("indices")
    tracer.block(indices, tracer.reason("is an index into a table"))
    why = tracer.reason("is looked up by its index")
    labels = tracer.ledger.fix(tracer.labels(weight), [0], why)
    shape = (1,) * indices.dim() + (-1,)
    out = tuple(grid.reshape(shape) for grid in labels.grids)
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
