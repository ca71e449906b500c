"""The ranked cut: the highest scores of each tensor, then the highest of all others, exactly.

Comparing with a threshold keeps too many or too few weights wherever scores tie, so the order is
cut by rank. There are two ways to the same masks:

- by sorting a copy (stable radix sort): few operations, and one transfer from the device;
- by counting: the K-th largest score is found as a 16-bit digit per pass from histograms of
  order-preserving integers, chunk by chunk (or by partition where the scores fit one chunk), then
  everything above it is marked, and of its equals as many as are left. Beside scores and masks it
  needs memory for one chunk, and for a copy of one tensor where that is not contiguous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from secateur.errors import ScoreError, UsageError

Method = Literal["auto", "sort", "count"]
Keys = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

CHUNK = 2**22
"""Scores that are few enough for a copy; more are counted."""

PIECE = 2**20
"""Scores read together, at most: some 50 MB of temporary memory, and a piece stays in the cache."""

SORTED = 2**26
"""Scores sorted on a device, at about 40 bytes each; more are counted on the CPU."""

DIGIT = 16
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True, eq=False)
class Absolute:
    """Scores that are the absolute values of a tensor, taken where they are read, never whole."""

    tensor: Tensor

    def numel(self) -> int:
        """Return how many scores there are."""
        return self.tensor.numel()


Scores = Tensor | Absolute


def tensor_of(scores: Scores) -> Tensor:
    """Return the tensor that is ranked, or whose absolute values are."""
    return scores.tensor if isinstance(scores, Absolute) else scores


def values_of(scores: Scores) -> Tensor:
    """Return the scores as a tensor: themselves, or a copy."""
    return scores.tensor.abs() if isinstance(scores, Absolute) else scores


def refuse_ways(method: str, chunk: int) -> None:
    """Refuse an unknown method, or a chunk below 1, with a UsageError."""
    if method not in ("auto", "sort", "count"):
        raise UsageError(f"method is {method!r}, but must be 'auto', 'sort' or 'count'")
    if chunk < 1:
        raise UsageError(f"chunk is {chunk}, but must be at least 1")


def cut(
    names: Sequence[str],
    tensors: Sequence[Scores],
    guaranteed: Sequence[int],
    remaining: int,
    method: Method,
    chunk: int,
) -> list[Tensor]:
    """Return masks of each tensor's `guaranteed` highest scores, and the highest of all others.

    Args:
        names: the tensors' names, for messages; equal scores rank in the order of the tensors.
        tensors: at least one.
        guaranteed: how many each tensor keeps in any case.
        remaining: how many of all others are kept.
        method: as in `secateur.select`.
        chunk: as in `secateur.select`.

    Returns:
        Bool, in the shapes, memory formats and on the devices of the scores.

    Raises:
        ScoreError: NaN or infinite scores; names the tensor.
    """
    likes = [tensor_of(tensor) for tensor in tensors]
    dtype = reduce(torch.promote_types, (like.dtype for like in likes))
    if method == "auto":
        devices = {like.device for like in likes}
        here = len(devices) == 1 and next(iter(devices)).type != "cpu"
        method = "sort" if here and sum(t.numel() for t in tensors) <= SORTED else "count"
    if method == "sort":
        masks, kept, finite = _by_sorting(tensors, dtype, guaranteed, remaining)
        if not finite:
            refuse_infinite(names, tensors, dtype, chunk)
    else:
        total = sum(tensor.numel() for tensor in tensors)
        read: Sequence[Scores | _Ordered] = tensors
        if total <= chunk:  # ordered once, and read several times
            read = [_Ordered.of(tensor, dtype) for tensor in tensors]
        refuse_infinite(names, read, dtype, chunk)
        masks, kept = _by_counting(read, dtype, guaranteed, remaining, chunk)
    due = sum(guaranteed) + remaining
    assert kept == due, f"{kept} kept instead of {due}"
    return [_shaped(mask, like) for mask, like in zip(masks, likes, strict=True)]


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
    tensors: Sequence[Scores], dtype: torch.dtype, guaranteed: Sequence[int], remaining: int
) -> tuple[list[Tensor], int, bool]:
    """Return flat masks, how many are kept, and whether all scores are finite: one transfer."""
    flat = torch.cat([values_of(tensor).reshape(-1).to(dtype) for tensor in tensors])
    sizes = [tensor.numel() for tensor in tensors]
    keys = ordered_tensor(flat)
    order = keys.sort(descending=True, stable=True).indices
    if any(guaranteed):
        certain = _certain(order, sizes, guaranteed)
        kept = certain | ((~certain).cumsum(0) <= remaining)
    else:
        kept = torch.arange(len(flat), device=flat.device) < remaining
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, order, kept)
    count, finite = torch.stack([mask.sum(), torch.isfinite(flat).all()]).tolist()
    return list(torch.split(mask, sizes)), count, bool(finite)


def _certain(order: Tensor, sizes: Sequence[int], guaranteed: Sequence[int]) -> Tensor:
    """Return which places of a descending order are among their tensor's guaranteed ones."""
    device, total = order.device, len(order)
    starts = list(accumulate(sizes, initial=0))[:-1]
    facts = torch.tensor([sizes, starts, guaranteed], device=device)
    tensor_of = torch.arange(len(sizes), device=device, dtype=torch.int32)
    owner = tensor_of.repeat_interleave(facts[0], output_size=total)[order]
    grouped = owner.sort(stable=True)  # the descending order, tensor by tensor
    groups = grouped.values.long()
    rank = torch.arange(total, device=device) - facts[1][groups]
    first = rank < facts[2][groups]
    return torch.empty_like(first).scatter_(0, grouped.indices, first)


def ordered_tensor(scores: Tensor) -> Tensor:
    """Return integers in the order of the scores; equal ones, and both zeros, are equal."""
    bits = scores.view(INTEGERS[scores.itemsize])
    return torch.where(bits < 0, torch.iinfo(bits.dtype).min - bits, bits)


# By counting.


@dataclass(frozen=True, slots=True, eq=False)
class _Ordered:
    """Scores of few weights, as integers in their order."""

    keys: Keys

    @classmethod
    def of(cls, scores: Scores, dtype: torch.dtype) -> _Ordered:
        """Order all scores of a tensor."""
        parts = [keys for _, keys in _ordered(scores, dtype, PIECE)]
        return cls(np.concatenate(parts) if parts else np.zeros(0, np.int32))

    def numel(self) -> int:
        """Return how many scores there are."""
        return int(self.keys.size)


def _by_counting(
    tensors: Sequence[Scores | _Ordered],
    dtype: torch.dtype,
    guaranteed: Sequence[int],
    remaining: int,
    chunk: int,
) -> tuple[list[Tensor], int]:
    """Return flat masks on the CPU, and how many are kept."""
    masks: list[Bools] = [np.zeros(tensor.numel(), bool) for tensor in tensors]
    for tensor, mask, count in zip(tensors, masks, guaranteed, strict=True):
        _mark(_Scores([tensor], [mask], dtype, chunk), count)
    _mark(_Scores(tensors, masks, dtype, chunk), remaining)
    kept = sum(int(np.count_nonzero(mask)) for mask in masks)
    return [torch.from_numpy(mask) for mask in masks], kept


class _Scores:
    """The scores that are still to be taken, read chunk by chunk."""

    def __init__(
        self,
        tensors: Sequence[Scores | _Ordered],
        masks: list[Bools],
        dtype: torch.dtype,
        chunk: int,
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
    # what masks of before cut has the lowest score, all of it: equals make a partition slow
    above = keys[keys > keys.min()]
    keys = above if len(above) >= k else keys
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


def _ordered(
    tensor: Scores | _Ordered, dtype: torch.dtype, chunk: int
) -> Iterator[tuple[int, Keys]]:
    """Yield (position, integers in the order of the scores), in row-major order.

    The bits of a floating number that is not negative, read as an integer, are in its order
    already; those of a negative one are its magnitude below the smallest integer, so that
    smallest - bits is minus its magnitude. -0.0 becomes 0. Infinity and NaN lie farthest from 0.
    The absolute value is the bits without the sign.
    """
    step = min(chunk, PIECE)
    if isinstance(tensor, _Ordered):
        yield from ((at, tensor.keys[at : at + step]) for at in range(0, tensor.numel(), step))
        return
    flat, absolute = _row_major(tensor_of(tensor)), isinstance(tensor, Absolute)
    for start in range(0, flat.numel(), step):
        part = flat[start : start + step].to("cpu", dtype)
        bits = part.view(INTEGERS[dtype.itemsize]).numpy()
        if absolute:
            bits = bits & np.iinfo(bits.dtype).max
        elif bits.min() < 0:
            bits = np.where(bits < 0, np.iinfo(bits.dtype).min - bits, bits)
        yield start, bits


def _row_major(tensor: Tensor) -> Tensor:
    """Return the scores flat: a view where they are contiguous, else a copy."""
    if tensor.is_contiguous() or tensor.device.type != "cpu":
        return tensor.reshape(-1)
    bits = tensor.view(INTEGERS[tensor.itemsize]).numpy().reshape(-1)  # one thread, as in _shaped
    return torch.from_numpy(bits).view(tensor.dtype)


def refuse_infinite(
    names: Sequence[str], tensors: Sequence[Scores | _Ordered], dtype: torch.dtype, chunk: int
) -> None:
    """Look at every score.

    Raises:
        ScoreError: some are NaN or infinite; names the first tensor that has them.
    """
    infinity = int(ordered_tensor(torch.tensor(torch.inf, dtype=dtype)))
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
