"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from secateur.errors import FileError, UsageError


def path_of(given: object) -> Path:
    """Return a path that a user gave.

    Raises:
        UsageError: it is none.
    """
    if isinstance(given, (str, os.PathLike)):
        path = os.fspath(given)
        if isinstance(path, str) and "\0" not in path:
            return Path(path)
    raise UsageError(f"the path of a file is {given!r}; give a text or a Path")


def write(path: Path, content: bytes | str) -> None:
    """Write a file so that it is never seen half-written, not even after a power cut.

    Temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises:
        FileError: the disk is full or the folder cannot be written; the old file, if any, stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise FileError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose a folder that you may write to"
        ) from error
    except BaseException:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
