"""Files are written whole or not at all, and never over what a user would miss."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from secateur.errors import FileError, UsageError

_LONGEST = 200  # bytes of a name that a temporary file's begins with; file systems bear 255
TEMPORARY = ".secateur-tmp"
"""What the names of temporary files and folders end with."""
_NAME = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}(?P<ending>\.secateur-tmp)?", re.DOTALL)
ABANDONED = 3600.0
"""Seconds without a write after which nobody is writing a temporary file any more."""


def write(path: Path, content: bytes | str) -> None:
    """Write a file so that it is never seen half-written, not even after a power cut.

    Temporary file in the same folder, fsync, rename, fsync of the folder. A temporary file of the
    same name, left an hour ago or more by a process that was killed, is removed.

    Raises:
        FileError: the disk is full or the folder cannot be written; the old file, if any, stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    start = _beginning(path.name)
    sweep(path.parent, start)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{start}.", suffix=TEMPORARY)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose a folder that you may write to"
        ) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beginning(name: str) -> str:
    """Return what the names of a file's temporaries begin with, behind a dot."""
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def sweep(
    folder: Path,
    *names: str,
    idle: float = ABANDONED,
    older: bool = False,
    folders: bool = False,
) -> None:
    """Remove temporary files that `write` left in a folder when its process was killed.

    Only files that are named as `write` names them go, and what cannot be removed stays.

    Args:
        folder: to look into, and not below.
        names: of the files that were being written; none means of any.
        idle: seconds for which nothing was written to one; 0 where no other process can be
            writing, as under a lock.
        older: also those of 0.1.0, which have no ending of their own, so that in a folder of
            somebody else's they could be anything.
        folders: temporary folders in place of files; their making is up to the caller.
    """
    try:
        with os.scandir(folder) as entries:
            found = [
                Path(entry.path)
                for entry in entries
                if (match := _NAME.fullmatch(entry.name))
                and (older or match["ending"])
                and (not names or match["name"] in names)
                and (entry.is_dir if folders else entry.is_file)(follow_symlinks=False)
                and time.time() - entry.stat(follow_symlinks=False).st_mtime >= idle
            ]
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            shutil.rmtree(path) if folders else path.unlink()


def refuse_loss(
    path: Path, ours: Callable[[Path], bool], what: str, *, force: bool = False
) -> None:
    """Refuse to write a file where another of the user's would be lost.

    Args:
        path: that is going to be written, or is missing.
        ours: whether a file is of the kind that is written, so that it may be replaced. Where it
            raises OSError, it is not.
        what: that kind, such as "secateur engine".
        force: replace a file of any kind.

    Raises:
        UsageError: the path is a folder or a device, or a file of another kind.
        FileError: the folder that it is in is missing.
    """
    try:
        there = path.exists()
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name the file in it that is to be written")
        if there and not path.is_file():
            raise UsageError(f"{path} is not a regular file; choose another name")
        if not path.parent.is_dir():
            raise FileError(f"cannot write {path}: {path.parent} is no folder; make it first")
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise FileError(
            f"cannot write {path}: {error.strerror or error}; choose another name"
        ) from error
    if not there or force:
        return
    with suppress(OSError):
        if ours(path):
            return
    raise UsageError(
        f"{path} is there already and is no {what}; choose another name, or overwrite it with "
        "force=True (--force)"
    )
