"""What is compiled and where it is written: files that cannot be meant are refused."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from secateur import files
from secateur.compiler import artifact, bundle
from secateur.compiler.targets import Target
from secateur.errors import FileError, UsageError


def default(name: str, target: Target, *, folder: bool = False) -> Path:
    """Return where a network is written by default: in the current folder, by its name.

    The name of a cross target stands in it, so that no network for one machine takes the place
    of that for another.
    """
    where = "" if target.name == "native" else f".{target.name}"
    return Path(f"{name}{where}" if folder else f"{name}{where}{target.suffix}")


def refuse_other(model: Path) -> None:
    """Refuse a file that is plainly no ONNX, and say what to do with it.

    Raises:
        UsageError: it is a folder, an engine, or weights without a network.
    """
    if _is(model, Path.is_dir):
        raise UsageError(
            f"{model} is a folder; give an ONNX file, and of a study a keep ratio as well "
            "(`secateur compile STUDY --keep 0.3`, or Study.network in Python)"
        )
    try:
        with model.open("rb") as file:
            head = file.read(9)
        engine = artifact.is_engine(model)
    except (OSError, ValueError):
        return  # reading it says why
    if engine:
        raise UsageError(f"{model} is compiled already; load it with secateur.Engine.load")
    weights = ""
    if len(head) == 9 and head[8:] == b"{" and not any(head[5:8]):
        weights = "a safetensors file"
    elif head[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        weights = "an archive or a pickle, such as torch.save and numpy.savez write"
    if weights:
        raise UsageError(
            f"{model} is {weights}: weights at most, and no network; build the model, load them, "
            "and give secateur.compile the model and an example of its input"
        )


def refuse_file(path: Path, *, force: bool = False) -> None:
    """Refuse to write an engine over a file that is none, such as the model it is made of.

    Raises:
        UsageError, FileError: see `files.refuse_loss`.
    """
    files.refuse_loss(path, artifact.is_engine, "secateur engine", force=force)


def warn_of_module(path: Path) -> None:
    """Warn where a library takes the place of a module of Python's that lies beside it.

    `import net` looks for net.so before net.py, as for a module that is written in C.
    """
    endings = (ending for ending in EXTENSION_SUFFIXES if path.name.endswith(ending))
    module = next(
        (path.with_name(path.name.removesuffix(ending) + ".py") for ending in endings), None
    )
    if module is not None and _is(module, Path.is_file):
        warnings.warn(
            f"{path} is in the way of {module}: `import {module.stem}` now finds the library, and "
            "fails; give it another name, or another folder",
            stacklevel=3,
        )


def refuse_folder(folder: Path, source: Path | bytes, *, force: bool = False) -> None:
    """Refuse to write C into a folder with files of another origin, or over a file.

    Raises:
        UsageError: the path is a file, or the folder holds the model or other files, or its `src`
            is none that can be written into.
    """
    if _is(folder, Path.exists) and not folder.is_dir():
        raise UsageError(f"{folder} is a file, but C is written as a folder; choose another name")
    if force:
        if _is(folder / "src", os.path.lexists):
            _refuse_place(folder / "src", folder=True)
        return
    if isinstance(source, Path) and folder.is_dir() and _holds(folder, source):
        raise UsageError(
            f"{folder} holds {source}, which is to be compiled; choose another folder, or keep it "
            "and write beside it with force=True (--force)"
        )
    bundle.refuse_others(folder)


def write_folder(folder: Path, write: Callable[[Path], None], *, force: bool = False) -> None:
    """Write a folder of C. With `force`, what else is in the folder stays.

    Args:
        folder: that was not refused.
        write: given a folder that is missing or was not refused, writes all of it.
        force: files of the same names are replaced one by one, whatever they are.

    Raises:
        UsageError, FileError: see `bundle.write_bundle`.
    """
    if not (force and folder.is_dir()):
        write(folder)
        return
    try:
        beside = Path(tempfile.mkdtemp(dir=folder, prefix=".secateur."))
        try:
            write(beside / "new")
            _move(beside / "new", folder, beside / "old")
        except BaseException:
            left = (beside / "old").rglob("*")  # where even moving back failed
            if not any(path.is_symlink() or path.is_file() for path in left):
                shutil.rmtree(beside, ignore_errors=True)
            raise
        shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise FileError(
            f"cannot write {folder}: {error.strerror or error}; "
            "free some space or choose a folder that you may write to"
        ) from error


def _move(new: Path, folder: Path, old: Path) -> None:
    """Move the files of a bundle into a folder, all or none; what was there goes to `old`."""
    paths = sorted(new.rglob("*"))
    names = [path.relative_to(new) for path in paths if not path.is_dir()]
    folders = [path.relative_to(new) for path in paths if path.is_dir()]
    for name in (*folders, *names):
        if os.path.lexists(folder / name):
            _refuse_place(folder / name, folder=name in folders)
    missing = [name for name in folders if not (folder / name).exists()]
    old.mkdir()
    try:
        for name in folders:
            (old / name).mkdir()
            (folder / name).mkdir(exist_ok=True)
        for name in names:
            if os.path.lexists(folder / name):
                (folder / name).rename(old / name)
            (new / name).rename(folder / name)
    except BaseException:
        for name in names:
            if os.path.lexists(old / name):
                (old / name).replace(folder / name)
            elif not (new / name).exists():
                (folder / name).unlink()
        for name in missing:
            with suppress(OSError):
                (folder / name).rmdir()
        raise


def _refuse_place(place: Path, *, folder: bool) -> None:
    """Refuse what a file, or a folder, of a bundle cannot be written over, even by force."""
    if folder and (place.is_symlink() or not place.is_dir()):
        raise UsageError(
            f"{place} is a link or a file, but C is written into a folder of that name; "
            "move it away, or choose another folder"
        )
    if not folder and not (place.is_symlink() or place.is_file()):
        raise UsageError(
            f"{place} is there already and is no file; move it away, or choose another folder"
        )


def _is(path: Path, what: Callable[[Path], bool]) -> bool:
    """Whether a path is something, or a FileError where the system cannot tell."""
    try:
        return what(path)
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise FileError(
            f"cannot use {path}: {error.strerror or error}; give another path"
        ) from error


def _holds(folder: Path, source: Path) -> bool:
    """Whether a file, or a folder, is a folder or lies in it, under whatever name."""
    try:
        where = source.resolve()
        return any(folder.samefile(place) for place in (where, *where.parents))
    except OSError:  # no such model: reading it says so
        return False
