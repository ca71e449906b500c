"""What a reader of foreign bytes is, and the folder that readers of files have."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Reader:
    """What reads bytes.

    Attributes:
        read: reads them; whatever it raises but a SecateurError is a fault.
        seeds: returns inputs that it takes.
        json: whether it reads JSON, whose values are then changed, not its bytes alone.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    json: bool = False


@cache
def folder() -> Path:
    """Return a folder of this process, in memory where the system has one there."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None, prefix="secateur-fuzz-"))
    return made


def tidy() -> None:
    """Remove what readers have written."""
    if folder.cache_info().currsize:
        shutil.rmtree(folder(), ignore_errors=True)
        folder.cache_clear()


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def from_bytes(content: bytes) -> object:
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return read(path)

    return from_bytes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let a reader warn of what it passes over."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
