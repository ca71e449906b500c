"""Files out of a .tar.gz, read so that no archive can take more memory or time than it may.

Python's own reader believes what a header says of itself: names of gigabytes, endless lists of
holes. This one knows plain files only; links, devices and sparse files are passed over, and names
longer than 100 characters are not joined.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from secateur.errors import DataError

LARGEST = 64 << 20
"""Bytes of the largest file that is taken out."""
_MOST = 1 << 30  # bytes of all files together, taken out or passed over
_MEMBERS = 1_000
_BLOCK = 512
_CHUNK = 1 << 20
_EXTENDED = 64 << 10  # bytes of what an archive says of a member beyond its header
_PLAIN = (b"\0", b"0", b"7")
_MORE = (b"x", b"g")  # POSIX's records of what goes into no header


def read_archive(path: Path, wanted: frozenset[str]) -> dict[str, bytes]:
    """Return the contents of the `wanted` members of a .tar.gz, in whatever folder, by name.

    Nothing is extracted to disk. Of two members of one name the last counts. Raises DataError for
    an archive that is damaged, cannot be read, or unpacks to more than 1 GB, and for a wanted
    member of more than 64 MB.
    """
    found = {}
    try:
        with gzip.open(path, "rb") as unpacked:
            file = cast(BinaryIO, unpacked)
            for name, size in _members(file):
                if name not in wanted:
                    _skip(file, size)
                    continue
                if size > LARGEST:
                    raise DataError(f"{name} in {path} has {size:,} bytes: not of CIFAR-10")
                found[name] = _take(file, size)
    except (zlib.error, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path} is not a whole .tar.gz archive: {error}") from error
    return found


def _members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """Yield name, without its folder, and size of each plain file.

    Whoever asks for the next one has read the content of the last, up to a whole block.
    """
    unpacked, huge = 0, 0
    for _ in range(_MEMBERS):
        header = _exactly(file, _BLOCK)
        if not any(header):
            return
        if _octal(header[148:156]) != sum(header[:148]) + 8 * 32 + sum(header[156:]):
            raise ValueError("a header's checksum is wrong")
        size = max(_size(header[124:136]), huge)
        kind = header[156:157]
        name = header[:100].split(b"\0", 1)[0].decode("utf-8", "replace").rpartition("/")[2]
        huge = 0
        if kind in _MORE:
            if size > _EXTENDED:
                raise ValueError("what it says of a member is far too long")
            said = _take(file, size)
            huge = LARGEST + 1 if b" size=" in said else 0  # only what has 8 GB needs to say so
        elif kind in _PLAIN:
            yield name, size
        else:
            _skip(file, size)
        unpacked += size
        if unpacked > _MOST:
            raise ValueError(f"it unpacks to more than {_MOST:,} bytes")
    raise ValueError(f"it has more than {_MEMBERS:,} members")


def _size(field: bytes) -> int:
    return int.from_bytes(field[1:], "big") if field[0] & 0x80 else _octal(field)


def _octal(field: bytes) -> int:
    return int(field.split(b"\0", 1)[0].decode("ascii").strip() or "0", 8)


def _take(file: BinaryIO, size: int) -> bytes:
    content = _exactly(file, size)
    _exactly(file, -size % _BLOCK)
    return content


def _skip(file: BinaryIO, size: int) -> None:
    if size > _MOST:
        raise ValueError(f"it unpacks to more than {_MOST:,} bytes")
    left = size + -size % _BLOCK
    while left:
        left -= len(_exactly(file, min(left, _CHUNK)))


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError("it ends in the middle")
    return content
