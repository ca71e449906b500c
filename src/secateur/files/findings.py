"""What a look at a file finds: whether it is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from secateur.files.reading import sha256_of

State = Literal["whole", "not hashed", "outdated", "undone", "extra", "damaged", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is true of one file."""

    path: str
    """Of the file; in a folder, from there, with slashes."""
    state: State
    """whole: it matches its hash. not hashed: it can be read, and nothing says what it should hold.
    outdated: whole, but what was made from it is older. undone: it is still to be made. extra:
    nobody asks for it. damaged: it is not what was written. missing: it was there."""
    why: str = ""
    """Of all but `whole`: what is wrong; what to do."""

    @property
    def fault(self) -> bool:
        """Whether something is lost."""
        return self.state in ("damaged", "missing")


def compared(folder: Path, name: str, digest: str, remedy: str) -> Finding:
    """Compare a file with the SHA-256 that it must have.

    Args:
        folder: that the name begins at.
        name: of the file, with slashes.
        digest: in hex.
        remedy: what to do where the file is not so.
    """
    try:
        found = sha256_of(folder / name)
    except FileNotFoundError:
        return Finding(name, "missing", f"it is not there; {remedy}")
    except (OSError, ValueError) as error:
        return unread(name, error, remedy)
    if found != digest:
        return Finding(name, "damaged", f"its content does not match its hash; {remedy}")
    return Finding(name, "whole")


def unread(name: str, error: Exception, remedy: str = "") -> Finding:
    """Return what is found of a file whose reading raised an error.

    Args:
        name: of the file, as for `Finding.path`.
        error: of the system, or with words that go on after the file's name.
        remedy: what to do; empty where the error says so.
    """
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Finding(name, "damaged", f"{why}; {remedy}" if remedy else why)
