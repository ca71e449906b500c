"""The scores of all test examples, as a text that fits a record.

The text is base64 of a zlib stream, whose check sum finds damage, of N as uint32, a byte, and what
that says, all numbers little-endian:

    0   N scores, float32
    1   the two values that occur, float32, then one bit for each score, the first in the highest
        bit of the first byte: 0 for the smaller value, 1 for the larger

Correct or incorrect, 10,000 times, is thus less than 1,300 bytes, 1,750 letters.
"""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np
from numpy.typing import NDArray

from secateur.errors import UsageError, whole

MOST_EXAMPLES = 1_000_000
"""How many scores are packed; more would make a record of many megabytes."""
_LEVEL = 9
_VALUES, _BITS = b"\0", b"\1"
_WORD = np.dtype("<f4")
_TWO = 2 * _WORD.itemsize
_COUNT = 4  # bytes


def packed(scores: NDArray[np.float32]) -> str:
    """Return scores as ASCII text, from which `unpacked` makes the same bits.

    Args:
        scores: float32 [N], N from 1 to 1,000,000, all finite.

    Raises:
        UsageError: they are not so.
    """
    if scores.dtype != np.float32 or scores.ndim != 1 or not len(scores):
        raise UsageError(
            f"scores are {scores.dtype} {list(scores.shape)}, but must be float32 [N], N >= 1"
        )
    if len(scores) > MOST_EXAMPLES:
        raise UsageError(
            f"{len(scores):,} scores are more than the {MOST_EXAMPLES:,} that fit a record; "
            "keep their mean alone"
        )
    if not np.isfinite(scores).all():
        worst = int(np.argmin(np.isfinite(scores)))
        raise UsageError(f"score {worst} is {scores[worst]}; only finite scores are kept")
    words = scores.astype(_WORD)
    two = np.unique(words.view("<u4"))  # bits, since 0.0 and -0.0 are equal and not the same
    if len(two) <= 2:
        low, high = sorted((two[0], two[-1]), key=lambda bits: float(bits.view(_WORD)))
        bits = np.packbits(words.view("<u4") == high) if low != high else _no_bits(len(words))
        content = _BITS + np.array([low, high], "<u4").tobytes() + bits.tobytes()
    else:
        content = _VALUES + words.tobytes()
    count = len(words).to_bytes(_COUNT, "little")
    return base64.b64encode(zlib.compress(count + content, _LEVEL)).decode("ascii")


def unpacked(text: str, n: int) -> NDArray[np.float32]:
    """Return the scores that a text of `packed` holds.

    Whatever the text is, no more than 4 n + 14 bytes are made of it.

    Args:
        text: of `packed`.
        n: how many scores it must hold.

    Returns:
        float32 [n].

    Raises:
        UsageError: n is not a whole number from 1 to 1,000,000.
        ValueError: the text is damaged, or holds anything else than n finite scores; says what, in
            words that go on after the name of what it stands in and a colon.
    """
    if not (whole(n) and 1 <= n <= MOST_EXAMPLES):
        raise UsageError(f"n is {n}, but must be a whole number from 1 to {MOST_EXAMPLES:,}")
    largest = _COUNT + 1 + max(_WORD.itemsize * n, _TWO + -(-n // 8))
    content = _decompressed(text, largest)
    count = int.from_bytes(content[:_COUNT], "little")
    kind, rest = content[_COUNT : _COUNT + 1], content[_COUNT + 1 :]
    if count != n:
        raise ValueError(f"scores are of {count:,} examples, not of {n:,}; measure again")
    if kind == _VALUES and len(rest) == _WORD.itemsize * n:
        scores = np.frombuffer(rest, _WORD).astype(np.float32)
    elif kind == _BITS and len(rest) == _TWO + -(-n // 8):
        bits = np.unpackbits(np.frombuffer(rest[_TWO:], np.uint8))
        if bits[n:].any():
            raise ValueError(f"scores have bits behind the last of {n}; measure again")
        scores = np.frombuffer(rest[:_TWO], _WORD).astype(np.float32)[bits[:n]]
    else:
        raise ValueError(f"scores are not written as those of {n:,} examples; measure again")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not all finite; measure again")
    return scores


def _decompressed(text: str, largest: int) -> bytes:
    # What zlib cannot compress grows by less than a thousandth and some bytes of frame.
    most = 4 * -(-(largest + largest // 1000 + 64) // 3)
    if len(text) > most:
        raise ValueError(f"scores have {len(text):,} letters, where {most:,} are enough")
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(base64.b64decode(text, validate=True), largest + 1)
    except (binascii.Error, zlib.error, ValueError):
        raise ValueError("scores are damaged; measure again") from None
    if len(content) > largest:
        raise ValueError("scores are of more examples than the record says; measure again")
    if not stream.eof or stream.unused_data:
        raise ValueError("scores are cut off, or something follows them; measure again")
    return content


def _no_bits(count: int) -> NDArray[np.uint8]:
    return np.zeros(-(-count // 8), np.uint8)
