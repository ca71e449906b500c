"""No file of the user's is lost to one of ours that is written in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from secateur.errors import FileError, UsageError


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
    try:
        replaceable = ours(path)
    except OSError:
        replaceable = False
    if not replaceable:
        raise UsageError(
            f"{path} is there already and is no {what}; choose another name, or overwrite it with "
            "force=True (--force)"
        )
