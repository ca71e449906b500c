"""Scores and a budget give masks: exactly K weights, ties broken by position.

Weights are ordered by score, highest first; equal scores by their tensor's name, then by their
row-major position in it, lowest first. The kept weights are the first of this order, so the same
scores give the same masks on every machine. -0.0 equals 0.0.

The order is cut by rank (see `ranking`), after K was divided among the tensors that are ranked
together (see `division`). Patterns use the same order: blocks are ranked as weights are, and n:m
ranks within every group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from secateur.arguments import Wanted, a, checked, whole
from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.model.parameters import DTYPES
from secateur.pruning.selecting.budget import Budget
from secateur.pruning.selecting.division import divided, matches
from secateur.pruning.selecting.masks import Masks
from secateur.pruning.selecting.ranking import (
    CHUNK,
    PIECE,
    Absolute,
    Method,
    Scores,
    cut,
    refuse_infinite,
    refuse_ways,
    tensor_of,
    values_of,
)
from secateur.pruning.selecting.rows import highest_of_rows


@checked(
    scores=Wanted(
        lambda v: all(isinstance(s, (Tensor, Absolute)) for s in v.values()),
        "name → tensor of scores",
    ),
    budget=a(Budget, "a Budget, such as Budget(0.1)"),
    axes=a(Mapping, "name → dimension of its inputs"),
    among=a(Mapping, "name → bool tensor"),
    chunk=whole(1, "1 or more, a whole number"),
)
def select(
    scores: Mapping[str, Scores],
    budget: Budget,
    *,
    axes: Mapping[str, int | None] | None = None,
    among: Mapping[str, Tensor] | None = None,
    method: Method = "auto",
    chunk: int = CHUNK,
) -> Masks:
    """Keep exactly K = `budget.count(N)` of the N weights: those with the highest scores.

    With a floor, the top `budget.least(n)` weights of every tensor of n are kept first, and
    what is left of K goes to the highest scores of all others. With scope "layer" every tensor
    keeps its share of K (see `division.shares`), and with a tuple of globs every group of tensors,
    so K holds for the sum. With scope "row" tensors keep the same shares, and in each of
    them every output the same number of its highest weights; the first outputs keep one more
    where that does not come out even.

    Overrides come before all this: a tensor whose name one matches keeps its top round(ratio * n)
    weights, at least 1, and what is left of K is divided among the others.

    Masks are nested. A tensor's floor is the same at every keep ratio, and what is kept beyond
    the floors is a first part of one fixed order of all other weights, which grows with K. The
    same holds for the shares, within a group for its part of the order, and within a tensor for
    its top weights. Overridden tensors keep the same weights at every keep ratio, so budgets that
    differ in nothing but `keep` still give nested masks; others need not.

    Patterns. With n:m, every m consecutive weights along the inputs keep exactly their n highest
    scores; a last group of fewer than m keeps min(n, its size), and an override of 1 leaves a
    tensor dense. Scope and floor then change nothing. With blocks and dot4, exactly
    `budget.count(blocks)` blocks of the highest mean scores are kept, and floors, shares and
    overrides count blocks too; the fraction of weights differs slightly from the keep ratio where
    blocks at the edges are smaller (`Masks.keep` says it).

    Args:
        scores: name → float16, bfloat16, float32 or float64 of any shape, higher is more
            important, or the `Absolute` of such a tensor; dtypes and devices may be mixed. Not
            changed.
        budget: how many weights to keep, and where.
        axes: name → the dimension of its tensor that counts inputs, as `Prunable.axes`; 1 where
            nothing is said. Only patterns that go along the inputs look at it, and refuse None.
        among: name → bool mask of what may be kept; all else ranks below it, equal among itself.
            Give it the masks of a larger keep ratio, and the ones returned are nested in them,
            whatever the scores are. (With n:m a group keeps n all the same.)
        method: how the order is cut: "sort", "count", or "auto": sort on devices other than the
            CPU, count on the CPU and where sorting would need much memory. The masks are equal.
        chunk: how many scores are few enough for a copy when counting; at most `ranking.PIECE`
            of them are read together.

    Returns:
        Masks on the scores' devices, in their memory format.

    Raises:
        ScoreError: NaN or infinite scores, or another dtype; names the tensor.
        BudgetError: floors or overrides keep more than K, or overrides so little that the others
            cannot make up for it; says the smallest feasible keep ratio, and the largest. Or a
            glob matches no tensor; or the pattern is "channel".
        UsageError: there are no weights at all, a mask of among does not fit, a tensor has no
            dimension that counts inputs or it is unknown, or method or chunk is invalid.
    """
    refuse_ways(method, chunk)
    names = sorted(scores)
    tensors = [_checked(name, scores[name]) for name in names]
    if among is not None:
        tensors = _only(names, tensors, among)
    if not any(tensor.numel() for tensor in tensors):
        raise UsageError("there are no weights to select from; give scores of at least one weight")
    pattern = budget.pattern
    if pattern.refusal is not None:
        raise BudgetError(pattern.refusal)
    across: list[Any] = [1] * len(names)
    if budget.scope == "row":
        across = [(axes or {}).get(name, 1) for name in names]
    if pattern.directed:
        shapes = [tensor_of(tensor).shape for tensor in tensors]
        across = [_axis(*pair, axes or {}) for pair in zip(names, shapes, strict=True)]
    if pattern.ratio is not None:
        masks = _marked(names, tensors, budget, across, chunk)
    else:
        masks = _ranked(names, tensors, budget, across, method, chunk)
    return Masks(dict(zip(names, masks, strict=True)))


def top_k(scores: Tensor, k: int, *, method: Method = "auto", chunk: int = CHUNK) -> Tensor:
    """Return the mask of the k highest scores; of equal scores the first positions come first.

    Args:
        scores: float16, bfloat16, float32 or float64 of any shape. Not changed.
        k: how many, from 0 to all.
        method: as in `select`.
        chunk: as in `select`.

    Returns:
        bool, in the shape, memory format and on the device of the scores; exactly k are True.

    Raises:
        ScoreError: NaN or infinite scores, or another dtype.
        BudgetError: k is negative or more than there are scores.
    """
    refuse_ways(method, chunk)
    tensor = _checked("scores", scores)
    if not 0 <= k <= tensor.numel():
        raise BudgetError(f"k is {k}, but must be from 0 to {tensor.numel()}, the number of scores")
    return cut(["scores"], [tensor], [k], 0, method, chunk)[0]


def _checked(name: str, scores: Scores) -> Scores:
    tensor = tensor_of(scores)
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise ScoreError(
            f"the scores of {name!r} are {kind}; give a dense tensor of float16, bfloat16, "
            "float32 or float64 with values"
        )
    return Absolute(tensor.detach()) if isinstance(scores, Absolute) else tensor.detach()


def _only(
    names: Sequence[str], tensors: Sequence[Scores], among: Mapping[str, Tensor]
) -> list[Scores]:
    """Return the scores with all that the masks cut at one value below all that they keep."""
    dtype = reduce(torch.promote_types, (tensor_of(tensor).dtype for tensor in tensors))
    values = [values_of(tensor).to(dtype) for tensor in tensors]
    for name, value in zip(names, values, strict=True):
        mask = among.get(name)
        if mask is None or mask.dtype != torch.bool or mask.shape != value.shape:
            found = "missing" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise UsageError(
                f"the mask of {name!r} in among is {found}, but must be bool of shape "
                f"{tuple(value.shape)}, as its scores"
            )
    lowest = min((float(value.min()) for value in values if value.numel()), default=0.0)
    below = lowest - max(1.0, abs(lowest)) / 64  # representable below in half precision too
    return [
        torch.where(among[name].to(value.device), value, below)
        for name, value in zip(names, values, strict=True)
    ]


def _axis(name: str, shape: torch.Size, axes: Mapping[str, int | None]) -> int:
    """Return the dimension of a tensor that counts inputs."""
    axis = axes.get(name, 1)
    if axis is None:
        raise UsageError(
            f"it is not known which dimension of {name!r} counts inputs, along which this pattern "
            "goes; give prunable(model, pattern=..., example=...) the inputs of one pass, say in "
            "axes which one it is, or leave this one out"
        )
    if len(shape) < 2 or not (0 <= axis < len(shape) or axis in (-1, -2)):
        raise UsageError(
            f"the scores of {name!r} have shape {tuple(shape)}, and so no dimension {axis} that "
            "counts inputs beside another that counts outputs; say in axes which one it is, or "
            "use the pattern 'weight'"
        )
    return axis


def _ranked(
    names: Sequence[str],
    tensors: Sequence[Scores],
    budget: Budget,
    across: Sequence[int],
    method: Method,
    chunk: int,
) -> list[Tensor]:
    """Return the masks of tensors whose units are ranked together, as the budget's scope says."""
    pattern = budget.pattern
    if budget.scope == "row":
        return _of_rows(names, tensors, budget, across, chunk)
    units = [
        pattern.scores(tensor, axis, min(chunk, PIECE))
        for tensor, axis in zip(tensors, across, strict=True)
    ]
    if any(unit is not tensor for unit, tensor in zip(units, tensors, strict=True)):
        finite = [torch.isfinite(tensor_of(unit)).all() for unit in units]
        _refuse_any_infinite(names, tensors, finite, chunk)
    kept: dict[int, Tensor] = {}
    for pool in divided(budget, names, [unit.numel() for unit in units]):
        own, theirs = [names[at] for at in pool.members], [units[at] for at in pool.members]
        found = cut(own, theirs, pool.guaranteed, pool.remaining, method, chunk)
        kept.update(zip(pool.members, found, strict=True))
    del units  # as large as all masks together where blocks have four weights
    return [
        pattern.mask(kept.pop(at), tensor_of(tensor), axis, min(chunk, PIECE))
        for at, (tensor, axis) in enumerate(zip(tensors, across, strict=True))
    ]


def _of_rows(
    names: Sequence[str],
    tensors: Sequence[Scores],
    budget: Budget,
    across: Sequence[int | None],
    chunk: int,
) -> list[Tensor]:
    """Return the masks of tensors whose outputs are ranked by themselves."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for pool in divided(budget, names, [tensor.numel() for tensor in tensors]):
        for at, count in zip(pool.members, pool.guaranteed, strict=True):
            found[at] = highest_of_rows(tensors[at], count, across[at], min(chunk, PIECE))
            kept = int(torch.count_nonzero(found[at][0]))
            assert kept == count, f"{kept} weights of {names[at]} kept instead of {count}"
    _refuse_any_infinite(names, tensors, [found[at][1] for at in range(len(names))], chunk)
    return [found[at][0] for at in range(len(names))]


def _marked(
    names: Sequence[str],
    tensors: Sequence[Scores],
    budget: Budget,
    across: Sequence[int],
    chunk: int,
) -> list[Tensor]:
    """Return the masks of tensors that the pattern marks one by one."""
    pattern = budget.pattern
    if not isinstance(budget.scope, str):
        matches(names, budget.scope, "scope")
    matches(names, [glob for glob, _ in budget.overrides], "overrides")
    dense = [budget.override(name) is not None for name in names]
    piece = min(chunk, PIECE)
    # all masks first: between them, what is temporary would leave holes in the memory
    masks = [torch.empty_like(tensor_of(tensor), dtype=torch.bool) for tensor in tensors]
    finite = [
        _all_true(mask, tensor) if all_of_it else pattern.mark(mask, tensor, axis, piece)
        for mask, tensor, all_of_it, axis in zip(masks, tensors, dense, across, strict=True)
    ]
    _refuse_any_infinite(names, tensors, finite, chunk)
    for name, mask, all_of_it, axis in zip(names, masks, dense, across, strict=True):
        due = mask.numel() if all_of_it else pattern.due(mask.shape, axis)
        kept = int(torch.count_nonzero(mask))
        assert kept == due, f"{kept} weights of {name} kept instead of {due}"
    return masks


def _all_true(mask: Tensor, scores: Scores) -> Tensor:
    """Keep everything of a tensor; return whether its scores are finite."""
    mask.fill_(True)
    parts = torch.split(tensor_of(scores).reshape(-1), PIECE)
    return torch.stack([torch.isfinite(part).all() for part in parts]).all()


def _refuse_any_infinite(
    names: Sequence[str], tensors: Sequence[Scores], finite: Sequence[Tensor], chunk: int
) -> None:
    """Refuse scores of which something is not finite: one transfer where everything is."""
    if torch.stack([flag.to(finite[0].device) for flag in finite]).all():
        return
    dtype = reduce(torch.promote_types, (tensor_of(tensor).dtype for tensor in tensors))
    refuse_infinite(names, tensors, dtype, chunk)
    name = next(name for name, flag in zip(names, finite, strict=True) if not flag)
    raise ScoreError(
        f"the scores of a block of {name!r} are finite, but their sum is not; make them smaller"
    )
