"""Scores and a budget give masks: exactly K weights, ties broken by position.

Weights are ordered by score, highest first; equal scores by their tensor's name, then by their
row-major position in it, lowest first. The kept weights are the first of this order, so the same
scores give the same masks on every machine. -0.0 equals 0.0.

Comparing with a threshold keeps too many or too few weights wherever scores tie, so the order is
cut by rank. There are two ways to the same masks:

- by sorting a copy (stable radix sort): few operations, and one transfer from the device;
- by counting: the K-th largest score is found as a 16-bit digit per pass from histograms of
  order-preserving integers, chunk by chunk (or by partition where the scores fit one chunk), then
  everything above it is marked, and of its equals as many as are left. Beside scores and masks it
  needs memory for one chunk, and for a copy of one tensor where that is not contiguous.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from fractions import Fraction
from functools import reduce
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from secateur.errors import BudgetError, ScoreError, UsageError
from secateur.pruning.budget import Budget
from secateur.pruning.masks import Masks
from secateur.pruning.parameters import DTYPES

Method = Literal["auto", "sort", "count"]
Keys = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

CHUNK = 2**22
"""Scores looked at together when counting: up to some 150 MB of temporary memory."""

SORTED = 2**26
"""Scores sorted on a device, at about 40 bytes each; more are counted on the CPU."""

DIGIT = 16
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def select(
    scores: Mapping[str, Tensor], budget: Budget, *, method: Method = "auto", chunk: int = CHUNK
) -> Masks:
    """Keep exactly K = `budget.count(N)` of the N weights: those with the highest scores.

    With a floor, the top `budget.least(n)` weights of every tensor of n are kept first, and the
    rest of K goes to the highest scores among all others. With scope "layer" every tensor keeps
    its share of K (see `shares`), so K holds for the sum.

    Masks are nested. A tensor's floor is the same at every keep ratio, and what is kept beyond
    the floors is a first part of one fixed order of all other weights, which grows with K. The
    same holds for the shares, and within a tensor for its top weights.

    Args:
        scores: name → float16, bfloat16, float32 or float64 of any shape, higher is more
            important; dtypes and devices may be mixed. Not changed.
        budget: how many weights to keep, and where.
        method: how the order is cut: "sort", "count", or "auto": sort on devices other than the
            CPU, count on the CPU and where sorting would need much memory. The masks are equal.
        chunk: how many scores to look at together when counting.

    Returns:
        Masks on the scores' devices, in their memory format.

    Raises:
        ScoreError: NaN or infinite scores, or another dtype; names the tensor.
        BudgetError: the floors alone keep more than K; says the smallest feasible keep ratio.
        UsageError: there are no weights at all.
    """
    names = sorted(scores)
    tensors = [_checked(name, scores[name]) for name in names]
    sizes = [tensor.numel() for tensor in tensors]
    total = sum(sizes)
    if not total:
        raise UsageError("there are no weights to select from; give scores of at least one weight")
    k = budget.count(total)
    sure = [budget.least(size) for size in sizes]
    if sum(sure) > k:
        raise BudgetError(_infeasible(budget, k, sum(sure), total))
    if budget.scope == "layer":
        sure = shares(k, sizes, sure)
    masks = _cut(names, tensors, sure, k - sum(sure), method, chunk)
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
    tensor = _checked("scores", scores)
    if not 0 <= k <= tensor.numel():
        raise BudgetError(f"k is {k}, but must be from 0 to {tensor.numel()}, the number of scores")
    return _cut(["scores"], [tensor], [k], 0, method, chunk)[0]


def shares(k: int, sizes: Sequence[int], least: Sequence[int]) -> list[int]:
    """Divide k among tensors in proportion to their sizes; each gets at least its least.

    Webster's (Sainte-Laguë's) divisor method: the i-th weight of a tensor of n, counted from 0,
    has the priority (i + 1/2) / n; the first k of all weights are taken, lowest priority first,
    equal ones by the tensors' order. Unlike the method of the largest remainder, no share ever
    falls when k rises (Balinski and Young, Fair Representation, 1982). Exact, in integers.

    Args:
        k: from `sum(least)` to `sum(sizes)`; `sizes` are the tensors' sizes, and `least` how many
            weights each keeps in any case.

    Returns:
        The tensors' shares; their sum is k.
    """
    total = sum(sizes)
    # All weights up to priority k / total, which leaves at most two steps a tensor to go.
    counts = [
        max(low, (2 * k * size + total) // (2 * total))
        for size, low in zip(sizes, least, strict=True)
    ]
    missing = k - sum(counts)
    step = 1 if missing > 0 else -1

    def entry(at: int) -> tuple[Fraction, int]:
        i = counts[at] if step > 0 else counts[at] - 1
        return step * Fraction(2 * i + 1, 2 * sizes[at]), step * at

    def may_move(at: int) -> bool:
        return counts[at] < sizes[at] if step > 0 else counts[at] > least[at]

    queue = [entry(at) for at in range(len(sizes)) if may_move(at)]
    heapq.heapify(queue)
    for _ in range(abs(missing)):
        at = abs(heapq.heappop(queue)[1])
        counts[at] += step
        if may_move(at):
            heapq.heappush(queue, entry(at))
    return counts


def _checked(name: str, scores: Tensor) -> Tensor:
    if scores.dtype not in DTYPES or scores.layout != torch.strided or scores.is_meta:
        kind = f"{scores.dtype}, {scores.layout}, on {scores.device}".replace("torch.", "")
        raise ScoreError(
            f"the scores of {name!r} are {kind}; give a dense tensor of float16, bfloat16, "
            "float32 or float64 with values"
        )
    return scores.detach()


def _infeasible(budget: Budget, k: int, sure: int, total: int) -> str:
    smallest = Context(prec=4, rounding=ROUND_CEILING).create_decimal(sure / total)
    return (
        f"keep ratio {budget.keep:g} keeps {k:,} of {total:,} weights, but the floor of "
        f"{budget.floor:g} in every tensor takes {sure:,}; keep at least {smallest} "
        f"(sparsity at most {100 - 100 * smallest} %) or lower the floor"
    )


def _cut(
    names: Sequence[str],
    tensors: Sequence[Tensor],
    sure: Sequence[int],
    rest: int,
    method: Method,
    chunk: int,
) -> list[Tensor]:
    """Return masks of each tensor's `sure` highest scores, and the `rest` highest of all others."""
    if method not in ("auto", "sort", "count"):
        raise UsageError(f"method is {method!r}, but must be 'auto', 'sort' or 'count'")
    if chunk < 1:
        raise UsageError(f"chunk is {chunk}, but must be at least 1")
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    if method == "auto":
        devices = {tensor.device for tensor in tensors}
        here = len(devices) == 1 and next(iter(devices)).type != "cpu"
        method = "sort" if here and sum(t.numel() for t in tensors) <= SORTED else "count"
    if method == "sort":
        masks, kept, finite = _by_sorting(tensors, dtype, sure, rest)
        if not finite:
            _refuse_infinite(names, tensors, dtype, chunk)
    else:
        total = sum(tensor.numel() for tensor in tensors)
        flat = [_row_major(tensor) for tensor in tensors] if total <= chunk else tensors
        _refuse_infinite(names, flat, dtype, chunk)
        masks, kept = _by_counting(flat, dtype, sure, rest, chunk)
    assert kept == sum(sure) + rest, f"{kept} weights kept instead of {sum(sure) + rest}"
    return [_shaped(mask, like) for mask, like in zip(masks, tensors, strict=True)]


def _shaped(mask: Tensor, like: Tensor) -> Tensor:
    """Return a flat mask in the shape, memory format and on the device of its scores."""
    mask = mask.view(like.shape)
    if mask.device == like.device and like.is_contiguous():
        return mask
    shaped = torch.empty_like(like, dtype=torch.bool)
    if shaped.device.type == "cpu":
        shaped.numpy()[...] = mask.numpy()  # one thread: waking others costs a small copy more
        return shaped
    return shaped.copy_(mask)


# By sorting.


def _by_sorting(
    tensors: Sequence[Tensor], dtype: torch.dtype, sure: Sequence[int], rest: int
) -> tuple[list[Tensor], int, bool]:
    """Return flat masks, how many are kept, and whether all scores are finite: one transfer."""
    flat = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors])
    sizes = [tensor.numel() for tensor in tensors]
    keys = _ordered_tensor(flat)
    order = keys.sort(descending=True, stable=True).indices
    if any(sure):
        certain = _certain(order, sizes, sure)
        kept = certain | ((~certain).cumsum(0) <= rest)
    else:
        kept = torch.arange(len(flat), device=flat.device) < rest
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order, kept)
    count, finite = torch.stack([mask.sum(), torch.isfinite(flat).all()]).tolist()
    return list(torch.split(mask, sizes)), count, bool(finite)


def _certain(order: Tensor, sizes: Sequence[int], sure: Sequence[int]) -> Tensor:
    """Return which places of a descending order are among the `sure` first of their tensor."""
    device, total = order.device, len(order)
    starts = list(accumulate(sizes, initial=0))[:-1]
    facts = torch.tensor([sizes, starts, sure], device=device)
    tensor_of = torch.arange(len(sizes), device=device, dtype=torch.int32)
    owner = tensor_of.repeat_interleave(facts[0], output_size=total)[order]
    grouped = owner.sort(stable=True)  # the descending order, tensor by tensor
    groups = grouped.values.long()
    rank = torch.arange(total, device=device) - facts[1][groups]
    first = rank < facts[2][groups]
    return torch.empty_like(first).scatter_(0, grouped.indices, first)


def _ordered_tensor(scores: Tensor) -> Tensor:
    """Return integers in the order of the scores, as `_ordered` does."""
    bits = scores.view(INTEGERS[scores.itemsize])
    return torch.where(bits < 0, torch.iinfo(bits.dtype).min - bits, bits)


# By counting.


def _by_counting(
    tensors: Sequence[Tensor], dtype: torch.dtype, sure: Sequence[int], rest: int, chunk: int
) -> tuple[list[Tensor], int]:
    """Return flat masks on the CPU, and how many are kept."""
    masks: list[Bools] = [np.zeros(tensor.numel(), bool) for tensor in tensors]
    for tensor, mask, count in zip(tensors, masks, sure, strict=True):
        _mark(_Scores([tensor], [mask], dtype, chunk), count)
    _mark(_Scores(tensors, masks, dtype, chunk), rest)
    kept = sum(int(np.count_nonzero(mask)) for mask in masks)
    return [torch.from_numpy(mask) for mask in masks], kept


class _Scores:
    """The scores that are not taken yet, read chunk by chunk."""

    def __init__(
        self, tensors: Sequence[Tensor], masks: list[Bools], dtype: torch.dtype, chunk: int
    ) -> None:
        self._tensors, self._masks = tensors, masks
        self._dtype, self._chunk = dtype, chunk
        self.bits = 8 * dtype.itemsize
        self.count = sum(mask.size - int(np.count_nonzero(mask)) for mask in masks)
        self.some_taken = any(mask.any() for mask in masks)
        self.small = self.count <= chunk

    def chunks(self) -> Iterator[tuple[Keys, Bools]]:
        """Yield (keys, mask) of every chunk: taken ones too; writing to the mask takes."""
        for tensor, mask in zip(self._tensors, self._masks, strict=True):
            for start, keys in _ordered(tensor, self._dtype, self._chunk):
                yield keys, mask[start : start + len(keys)]

    def free(self) -> Iterator[Keys]:
        """Yield the keys that are not taken."""
        for keys, mask in self.chunks():
            yield keys[~mask] if self.some_taken else keys


def _mark(scores: _Scores, k: int) -> None:
    """Take the k highest scores of those that are not taken."""
    if k == 0:
        return
    bound, ties = _by_partition(scores, k) if scores.small else _by_histograms(scores, k)
    for keys, mask in scores.chunks():
        if ties:
            equal = keys == bound
            if scores.some_taken:
                equal &= ~mask
            count = int(np.count_nonzero(equal))
            if count > ties:
                equal[np.flatnonzero(equal)[ties:]] = False
            ties -= min(count, ties)
            np.logical_or(mask, equal, out=mask)
        np.logical_or(mask, keys > bound, out=mask)


def _by_partition(scores: _Scores, k: int) -> tuple[int, int]:
    """Return the k-th highest key, and how many of its equals belong to the k highest."""
    keys = np.concatenate(list(scores.free()))
    keys.partition(len(keys) - k)
    bound = int(keys[len(keys) - k])
    return bound, k - int(np.count_nonzero(keys > bound))


def _by_histograms(scores: _Scores, k: int) -> tuple[int, int]:
    """Return what `_by_partition` returns, from the highest 16-bit digit to the lowest."""
    bound = 0
    for shift in range(scores.bits - DIGIT, -1, -DIGIT):
        first = shift == scores.bits - DIGIT  # holds the sign
        counts = np.zeros(2**DIGIT, np.int64)
        for keys in scores.free():
            if first:
                digits = (keys >> shift) + np.int32(2 ** (DIGIT - 1))
            else:
                digits = keys[(keys >> (shift + DIGIT)) == bound] >> shift & (2**DIGIT - 1)
            counts += np.bincount(digits, minlength=2**DIGIT)
        at_least = counts[::-1].cumsum()
        place = int(at_least.searchsorted(k))
        k -= int(at_least[place - 1]) if place else 0
        digit = 2**DIGIT - 1 - place
        bound = digit - 2 ** (DIGIT - 1) if first else (bound << DIGIT) + digit
    return bound, k


def _ordered(tensor: Tensor, dtype: torch.dtype, chunk: int) -> Iterator[tuple[int, Keys]]:
    """Yield (position, integers in the order of the scores), in row-major order.

    The bits of a floating number that is not negative, read as an integer, are in its order
    already; those of a negative one are its magnitude below the smallest integer, so that
    smallest - bits is minus its magnitude. -0.0 becomes 0. Infinity and NaN lie farthest from 0.
    """
    flat = _row_major(tensor)
    for start in range(0, flat.numel(), chunk):
        part = flat[start : start + chunk].to("cpu", dtype)
        bits = part.view(INTEGERS[dtype.itemsize]).numpy()
        if bits.min() < 0:
            bits = np.where(bits < 0, np.iinfo(bits.dtype).min - bits, bits)
        yield start, bits


def _row_major(tensor: Tensor) -> Tensor:
    """Return the scores flat: a view where they are contiguous, else a copy."""
    if tensor.is_contiguous() or tensor.device.type != "cpu":
        return tensor.reshape(-1)
    bits = tensor.view(INTEGERS[tensor.itemsize]).numpy().reshape(-1)  # one thread, as in _shaped
    return torch.from_numpy(bits).view(tensor.dtype)


def _refuse_infinite(
    names: Sequence[str], tensors: Sequence[Tensor], dtype: torch.dtype, chunk: int
) -> None:
    infinity = int(_ordered_tensor(torch.tensor(torch.inf, dtype=dtype)))
    for name, tensor in zip(names, tensors, strict=True):
        bad = sum(
            int(np.count_nonzero(keys >= infinity)) + int(np.count_nonzero(keys <= -infinity))
            for _, keys in _ordered(tensor, dtype, chunk)
            if keys.max() >= infinity or keys.min() <= -infinity
        )
        if bad:
            raise ScoreError(
                f"{bad:,} of the {tensor.numel():,} scores of {name!r} are NaN or infinite; "
                "scores must be finite: look for invalid weights or gradients"
            )
