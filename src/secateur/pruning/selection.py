"""Scores + budget → masks: exact.

K = round(keep * N), by Python's `round` and at least 1, of the N scored weights are kept. They are
chosen by rank, never by comparing with a threshold alone, so ties cannot keep too many or too
few: among equal scores the lower position is kept, tensors in order of their names. The same
scores thus give the same masks on every machine.

Masks are nested: the floors of a budget are a fixed set F (the best `floor` of every tensor), and
all other weights stand in one fixed order, of which the first K - |F| are kept; a larger K keeps
all that a smaller one does. For scope "layer" that order goes by the relative rank
(i + 1/2) / n of the i-th best weight of a tensor of n (Webster's apportionment, which, unlike
largest remainders, never takes a seat away when the house grows).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from secateur.errors import BudgetError, ScoreError
from secateur.pruning.budget import Budget
from secateur.pruning.masks import Masks

SMALL = 2**24
"""Up to this many scores are ranked at once; more are ranked in pieces, in bounded memory."""
CHUNK = 2**22
"""Scores in one piece."""
_DIGIT = 16  # bits ranked in one pass over the pieces

_Keys = (
    np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
    | np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
)


def select(scores: Mapping[str, Tensor], budget: Budget, *, small: int = SMALL) -> Masks:
    """Return masks that keep exactly round(keep * N) of N weights.

    Args:
        scores: name → float tensor of any shape and float dtype; higher is more important.
        budget: how many, and where.
        small: above this many scores, rank in pieces; the masks are the same.

    Raises:
        ScoreError: a score is NaN or infinite, or a tensor is not floating; names the tensor.
        BudgetError: the floors alone exceed K; says the smallest feasible keep ratio.
    """
    names = sorted(scores)
    tensors = [_checked(name, scores[name]) for name in names]
    sizes = [tensor.numel() for tensor in tensors]
    total = sum(sizes)
    if not total:
        raise ScoreError("there are no scores to select from; name at least one parameter")
    k = max(1, round(budget.keep * total))
    floors = [min(size, max(1, math.ceil(budget.floor * size))) for size in sizes]
    if budget.floor == 0:
        floors = [0] * len(sizes)
    if sum(floors) > k:
        raise BudgetError(
            f"a keep ratio of {budget.keep:g} keeps {k:,} of {total:,} weights, but the floor of "
            f"{budget.floor:g} in each of {len(sizes)} tensors alone keeps {sum(floors):,}; the "
            f"smallest feasible keep ratio is {sum(floors) / total:.6g} "
            f"({100 * (1 - sum(floors) / total):.4g} % sparsity): raise it, or lower the floor"
        )
    if budget.scope == "layer":
        flat = [
            _top(tensors[i : i + 1], count, names[i : i + 1], small)[0]
            for i, count in enumerate(apportion(sizes, floors, k))
        ]
    else:
        flat = _top(tensors, k, names, small)
        if any(int(m.sum()) < floor for m, floor in zip(flat, floors, strict=True)):
            forced = [
                _top(tensors[i : i + 1], floor, names[i : i + 1], small)[0]
                for i, floor in enumerate(floors)
            ]
            rest = _top(tensors, k - sum(floors), names, small, without=forced)
            flat = [a | b for a, b in zip(forced, rest, strict=True)]
    masks = Masks({n: mask.reshape(scores[n].shape) for n, mask in zip(names, flat, strict=True)})
    assert masks.kept == k, f"selected {masks.kept} weights where {k} were asked for"
    return masks


def top_k(scores: Tensor, k: int, *, small: int = SMALL) -> Tensor:
    """Return a bool mask, shaped as the scores, of exactly the k highest; ties by position.

    Args:
        scores: float tensor of any shape.
        k: in [0, scores.numel()].
        small: above this many scores, rank in pieces; the mask is the same.

    Raises:
        ScoreError: a score is NaN or infinite.
        BudgetError: k is out of its range.
    """
    if not 0 <= k <= scores.numel():
        raise BudgetError(f"cannot keep {k} of {scores.numel()} scores")
    return _top([_checked("scores", scores)], k, ["scores"], small)[0].reshape(scores.shape)


def apportion(sizes: Sequence[int], floors: Sequence[int], k: int) -> list[int]:
    """Share k weights among tensors in proportion to their sizes, at least `floors` to each.

    Webster's method: the i-th weight of a tensor of n has priority (i + 1/2) / n, and the k
    first are taken, ties by position; sum(result) == k, and no share falls when k grows.
    """
    scale = 2**62  # the divisor in fixed point, so that every comparison is exact

    def shares(divisor: int) -> list[int]:
        return [
            max(floor, min(size, (2 * divisor * size + scale) // (2 * scale)))
            for size, floor in zip(sizes, floors, strict=True)
        ]

    low, high = 0, scale
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sum(shares(middle)) <= k else (low, middle)
    result = shares(low)
    queue = [
        (Fraction(2 * count + 1, 2 * size), i)
        for i, (count, size) in enumerate(zip(result, sizes, strict=True))
        if count < size
    ]
    heapq.heapify(queue)
    for _ in range(k - sum(result)):
        _, i = heapq.heappop(queue)
        result[i] += 1
        if result[i] < sizes[i]:
            heapq.heappush(queue, (Fraction(2 * result[i] + 1, 2 * sizes[i]), i))
    return result


def _checked(name: str, scores: Tensor) -> Tensor:
    if not scores.is_floating_point() or scores.layout != torch.strided or scores.is_meta:
        raise ScoreError(
            f"the scores of {name!r} are {scores.dtype}, {scores.layout}, on {scores.device}; "
            "they must be a dense floating tensor"
        )
    return scores.detach().reshape(-1)


def _top(
    tensors: Sequence[Tensor],
    k: int,
    names: Sequence[str],
    small: int,
    without: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Return the masks of the k best over all tensors, leaving out those marked in `without`."""
    sizes = [tensor.numel() for tensor in tensors]
    if sum(sizes) > small:
        return _top_in_pieces(tensors, k, names, without)
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    flat = torch.cat([tensor.to(dtype) for tensor in tensors])
    if not bool(torch.isfinite(flat).all()):
        _refuse(tensors, names)
    if without is not None:
        flat.masked_fill_(torch.cat(list(without)), -math.inf)
    return list(torch.split(_top_at_once(flat, k), sizes))


def _top_at_once(flat: Tensor, k: int) -> Tensor:
    if k == 0:
        return torch.zeros_like(flat, dtype=torch.bool)
    if flat.device.type == "cpu":  # numpy's introselect is several times torch's kthvalue
        values = flat.numpy()
        threshold = flat.new_tensor(np.partition(values, len(values) - k)[len(values) - k])
    else:
        threshold = flat.kthvalue(len(flat) - k + 1).values
    above = flat > threshold
    ties = flat == threshold
    return above | (ties & (ties.cumsum(0) <= k - above.sum()))


def _refuse(tensors: Sequence[Tensor], names: Sequence[str]) -> None:
    for name, tensor in zip(names, tensors, strict=True):
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise ScoreError(
                f"{bad} of {tensor.numel()} scores of {name!r} are NaN or infinite; "
                "look for a network that diverged, or a criterion that divides by zero"
            )


def _top_in_pieces(
    tensors: Sequence[Tensor], k: int, names: Sequence[str], without: Sequence[Tensor] | None
) -> list[Tensor]:
    """Radix selection: find the k-th best key 16 bits at a time, then compare every key with it.

    Needs one histogram of 65,536 counts and one piece at a time, whatever the size.
    """
    bits = 64 if any(t.dtype == torch.float64 for t in tensors) else 32
    prefix, left = 0, k  # the bits of the k-th best key found so far; its rank among their ties
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = np.zeros(1 << _DIGIT, dtype=np.int64)
        for index, piece in _pieces(tensors):
            if shift == bits - _DIGIT and not bool(torch.isfinite(piece).all()):
                _refuse(tensors, names)
            keys = _keys(piece, bits)
            if without is not None:
                keys = keys[~without[index[0]][index[1]].cpu().numpy()]
            if shift < bits - _DIGIT:
                keys = keys[keys >> keys.dtype.type(shift + _DIGIT) == prefix]
            digits = (keys >> keys.dtype.type(shift)).astype(np.uint16)
            counts += np.bincount(digits, minlength=1 << _DIGIT)
        from_top = counts[::-1].cumsum()
        digit = (1 << _DIGIT) - 1 - int(np.searchsorted(from_top, left))
        left -= int(from_top[(1 << _DIGIT) - 1 - digit] - counts[digit])
        prefix = (prefix << _DIGIT) | digit
    masks = [torch.zeros(t.numel(), dtype=torch.bool, device=t.device) for t in tensors]
    for (number, span), piece in _pieces(tensors):
        keys = _keys(piece, bits)
        free = None if without is None else ~without[number][span].cpu().numpy()
        keep = keys > keys.dtype.type(prefix)
        if left:
            ties = keys == keys.dtype.type(prefix)
            if free is not None:
                ties &= free
            chosen = np.flatnonzero(ties)[:left]
            left -= len(chosen)
            keep[chosen] = True
        if free is not None:
            keep &= free
        masks[number][span] = torch.from_numpy(keep).to(masks[number].device)
    return masks


def _pieces(tensors: Sequence[Tensor]) -> Iterator[tuple[tuple[int, slice], Tensor]]:
    """Yield ((tensor's number, span), piece) over all tensors, in order."""
    for number, tensor in enumerate(tensors):
        for start in range(0, tensor.numel(), CHUNK):
            span = slice(start, min(start + CHUNK, tensor.numel()))
            yield (number, span), tensor[span]


def _keys(piece: Tensor, bits: int) -> _Keys:
    """Return unsigned integers that are ordered as the floats are; -0 and 0 are equal."""
    if bits == 64:
        raw = (piece.to(torch.float64) + 0.0).cpu().numpy().view(np.int64)
        negative, sign = (raw >> 63).view(np.uint64), np.uint64(1 << 63)
        return np.asarray(raw.view(np.uint64) ^ (negative | sign))
    small = (piece.to(torch.float32) + 0.0).cpu().numpy().view(np.int32)
    # Positive floats: set the sign bit. Negative ones: flip every bit.
    return np.asarray(small.view(np.uint32) ^ ((small >> 31).view(np.uint32) | np.uint32(1 << 31)))
