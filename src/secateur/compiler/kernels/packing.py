"""Weights of a contraction as its kernel reads them: non-zeros alone, or sixteen outputs a line.

The formats are described in `c/contract.h`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CODES = 254
"""One byte says which (channel, tap) of its block a non-zero is, another how many a row has, which
may have been made even."""

FIRST, LAST = 128, 64
"""Flags of a row: it begins, it ends its output channel."""


@dataclass(frozen=True)
class Blocks:
    """How (input channel, tap) pairs are cut into blocks.

    Attributes:
        channels: input channels a block, or 1 where a channel has more taps than codes.
        parts: blocks that one channel's taps are spread over (1 unless taps > CODES).
        taps: kernel positions of a channel.
        count: how many blocks there are.
    """

    channels: int
    parts: int
    taps: int
    count: int

    @property
    def taps_a_part(self) -> int:
        """Taps of one channel that lie in one block."""
        return -(-self.taps // self.parts)


def blocks_of(channels: int, taps: int, most: int) -> Blocks:
    """Cut (channel, tap) pairs into blocks of at most `CODES`.

    Args:
        channels: input channels in all.
        taps: kernel positions of a channel.
        most: channels whose inputs fit the first-level cache at once.
    """
    if taps > CODES:
        parts = -(-taps // CODES)
        return Blocks(1, parts, taps, channels * parts)
    a_block = max(1, min(channels, most, CODES // taps))
    count = -(-channels // a_block)
    return Blocks(-(-channels // count), 1, taps, count)


@dataclass(frozen=True)
class Sparse:
    """The non-zeros of a layer; arrays as `sec_sparse` names them."""

    start: np.ndarray  # uint32 [blocks * chunks + 1, 2]
    rows: np.ndarray  # uint8 [rows, 2]
    codes: np.ndarray  # uint8 [non-zeros]
    values: np.ndarray  # of the weight's type [non-zeros]
    chunk: int
    chunks: int


def sparse(
    weight: np.ndarray, groups: int, blocks: Blocks, chunk: int, *, even: bool = False
) -> Sparse:
    """Pack the non-zeros of a weight.

    Args:
        weight: [outputs, channels of a group, taps], of float32 or of words.
        groups: output channel o reads the input channels of group o // (outputs / groups).
        blocks: of input channels.
        chunk: output channels a chunk, at most 64.
        even: whether the last non-zero of a row of an odd number becomes two: halves, or a word
            and a zero.
    """
    outputs, width, _ = weight.shape
    output, channel, tap = np.nonzero(weight)
    values = weight[output, channel, tap]
    channel = channel + output // (outputs // groups) * width
    if blocks.parts > 1:
        part = tap // blocks.taps_a_part
        block, code = channel * blocks.parts + part, tap % blocks.taps_a_part
    else:
        block = channel // blocks.channels
        code = channel % blocks.channels * blocks.taps + tap
    empty = np.setdiff1d(np.arange(outputs), output)  # they still owe their bias
    # one row for each (block, output) that has non-zeros
    key, row_of, count = np.unique(
        np.concatenate([block * outputs + output, empty]), return_inverse=True, return_counts=True
    )
    count = count.copy()
    count[row_of[len(output) :]] = 0
    row_of = row_of[: len(output)]
    if even:  # by two halves of the last one: a zero more would make NaN of an infinity
        odd = count % 2 == 1
        final = np.zeros(len(key), np.int64)
        np.maximum.at(final, row_of, code)
        split = odd[row_of] & (code == final[row_of])
        second = np.zeros_like(values[split])
        if weight.dtype == np.float32:
            values[split] /= 2
            second = values[split]
        code, values = np.append(code, code[split]), np.append(values, second)
        row_of = np.append(row_of, row_of[split])
        count += odd
    row_block, row_output = np.divmod(key, outputs)
    first, last = np.full(outputs, np.iinfo(np.int64).max), np.full(outputs, -1)
    np.minimum.at(first, row_output, row_block)
    np.maximum.at(last, row_output, row_block)
    flags = FIRST * (row_block == first[row_output]) + LAST * (row_block == last[row_output])
    row_chunk = row_output // chunk
    chunks = -(-outputs // chunk)
    order = np.lexsort((row_output, count, row_chunk, row_block))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    non_zeros = np.lexsort((code, rank[row_of]))
    rows = np.stack([count, flags + row_output % chunk], axis=1)[order].astype(np.uint8)
    place = row_block * chunks + row_chunk
    per_place = np.bincount(place, minlength=blocks.count * chunks)
    nnz_per_place = np.bincount(place, weights=count, minlength=blocks.count * chunks)
    start = np.zeros((blocks.count * chunks + 1, 2), dtype=np.uint32)
    start[1:, 0], start[1:, 1] = np.cumsum(per_place), np.cumsum(nnz_per_place)
    return Sparse(start, rows, code[non_zeros].astype(np.uint8), values[non_zeros], chunk, chunks)


def dense(weight: np.ndarray, groups: int) -> np.ndarray:
    """Pack a dense weight [outputs, channels of a group, taps], of float32 or of words.

    Returns:
        of the same type [groups, ceil(outputs of a group / 16), channels of a group, taps, 16].
    """
    outputs, width, taps = weight.shape
    mine = outputs // groups
    lines = -(-mine // 16)
    padded = np.zeros((groups, lines * 16, width, taps), weight.dtype)
    padded[:, :mine] = weight.reshape(groups, mine, width, taps)
    return padded.reshape(groups, lines, 16, width, taps).transpose(0, 1, 3, 4, 2).copy()
