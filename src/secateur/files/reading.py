"""What a bad file gets, whatever was wrong with it: one error that says so, and what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from secateur.errors import FileError

_FAULTS = (
    *(ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError),
    SafetensorError,
)
_LONGEST = 300  # characters of what another library says


@contextmanager
def refusing(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn whatever reading a bad file, or making sense of it, raises into one error.

    Args:
        path: of the file, or what it is called.
        remedy: what its owner can do, as an order: "give a file that Masks.save wrote".

    Raises:
        FileError: "cannot read PATH: what was wrong; what to do". One that was raised inside, by
            somebody who knew more, is left as it is.
    """
    try:
        yield
    except FileError:
        raise
    except _FAULTS as error:
        why = getattr(error, "strerror", None) or str(error)[:_LONGEST] or type(error).__name__
        raise FileError(f"cannot read {path}: {why}; {remedy}") from error


def beginning(path: Path, size: int) -> bytes:
    """Return the first bytes of a file: `size` of them, or all where it has fewer.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a folder, a pipe (which would be waited for) or a device.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        return file.read(size)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex; it is not read into memory as a whole.

    Raises:
        OSError, ValueError: as of `beginning`.
    """
    beginning(path, 0)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
