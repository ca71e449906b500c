"""The idx format of MNIST and its like (LeCun, Cortes & Burges 1998): one array of bytes a file.

A file begins with two zero bytes, one byte that names the type of a number and one that counts the
dimensions; then comes the size of each dimension, four bytes, big-endian, then the numbers, the
last dimension fastest. Files are handed round compressed by gzip, or as they are.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from secateur.data.archive import LARGEST
from secateur.errors import DataError

_ZIPPED = b"\x1f\x8b"
_BYTES = 0x08
_TYPES = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}


def read_idx(path: Path, sides: tuple[int, ...] = (), sha256: str = "") -> np.ndarray[Any, Any]:
    """Return the array of a file of bytes, plain or gzipped, as uint8 [N, *sides].

    Args:
        path: the file.
        sides: the size of each dimension after the first: (28, 28) of grey images of that size,
            () of labels.
        sha256: of the file's unpacked content, in hex; empty: it may be any.

    Raises:
        DataError: the file cannot be read, is no idx file, is truncated or too long, has numbers
            of another type or other sizes, unpacks to more than 64 MB, or has another SHA-256.
    """
    content = _content(path)
    zeros, kind, count = content[:2], *content[2:4].ljust(2, b"\0")
    if zeros != b"\0\0" or kind not in (_BYTES, *_TYPES):
        raise DataError(
            f"{path} is no idx file: it begins with {content[:4].hex(' ') or 'nothing'}"
        )
    if kind != _BYTES:
        raise DataError(f"{path} holds numbers of type {_TYPES[kind]}; give one of bytes (uint8)")
    if count != 1 + len(sides):
        raise DataError(f"{path} has {count} dimensions instead of {1 + len(sides)}")
    start = 4 + 4 * count
    if len(content) < start:
        raise DataError(f"{path} is truncated: it ends in its header")
    shape = struct.unpack(f">{count}I", content[4:start])
    if shape[1:] != sides:
        raise DataError(f"{path} holds items of {_by(shape[1:])} bytes instead of {_by(sides)}")
    size = start + math.prod(shape)
    if len(content) < size:
        raise DataError(f"{path} is truncated: it holds {len(content):,} of {size:,} bytes")
    if len(content) > size:
        raise DataError(f"{path} is too long: it holds {len(content):,} bytes instead of {size:,}")
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"{path} is another file: the SHA-256 of its content is {found}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    """Return a file unpacked, and never more of it than the largest that is believed."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _ZIPPED
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if zipped else file).read(LARGEST + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path} is not a whole .gz file: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(content) > LARGEST:
        raise DataError(f"{path} holds more than {LARGEST:,} bytes")
    return content


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))
